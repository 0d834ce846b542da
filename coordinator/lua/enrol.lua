-- A client brings a key of its own, by a join token that is good once.
-- KEYS: join tokens, credentials.  ARGV: token id, token digest, client, digest of the client's key, now
-- Outcome: 'enrolled' | 'known': it has this key already | 'unknown' | 'other': made for another client | 'used' | 'expired'
if redis.call('HGET', KEYS[2], ARGV[3]) == ARGV[4] then
  return 'known'
end
local document = redis.call('HGET', KEYS[1], ARGV[1])
local token = document and cjson.decode(document)
if not token or token.digest ~= ARGV[2] then
  return 'unknown'
elseif token.client ~= ARGV[3] then
  return 'other'
elseif token.used_at ~= cjson.null then
  return 'used'
elseif token.expires_at < tonumber(ARGV[5]) then
  return 'expired'
end
token.used_at = tonumber(ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(token))
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 'enrolled'
