-- A client brings a key of its own, by a join token that is good once.
-- KEYS: join tokens, credentials, struck keys.  ARGV: token id, token digest, client, digest of the client's key, now
-- Outcome: 'enrolled' | 'replaced': another key of this client is void now | 'known': it has this key already, and the
-- token is spent | 'struck': the key was revoked | 'unknown' | 'other': made for another client | 'used' | 'expired'
local document = redis.call('HGET', KEYS[1], ARGV[1])
local token = document and cjson.decode(document)
local good = token and token.digest == ARGV[2]
local function spend()
  token.used_at = tonumber(ARGV[5])
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(token))
end
local before = redis.call('HGET', KEYS[2], ARGV[3])
if before == ARGV[4] then
  if good and token.client == ARGV[3] and token.used_at == cjson.null then
    spend()
  end
  return 'known'
end
if not good then
  return 'unknown'
elseif token.client ~= ARGV[3] then
  return 'other'
elseif token.used_at ~= cjson.null then
  return 'used'
elseif token.expires_at < tonumber(ARGV[5]) then
  return 'expired'
elseif redis.call('SISMEMBER', KEYS[3], ARGV[4]) == 1 then
  return 'struck'
end
spend()
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return before and 'replaced' or 'enrolled'
