-- Strikes a client's key for good, and the join tokens made for the client.
-- KEYS: join tokens, credentials, struck keys, counts of what was taken out.  ARGV: client
-- Outcome: how many of them there were
local gone = 0
local documents = redis.call('HGETALL', KEYS[1])
for i = 1, #documents, 2 do
  if cjson.decode(documents[i + 1]).client == ARGV[1] then
    gone = gone + redis.call('HDEL', KEYS[1], documents[i])
    redis.call('HINCRBY', KEYS[4], 'join_tokens', 1)
  end
end
local digest = redis.call('HGET', KEYS[2], ARGV[1])
if digest then
  redis.call('SADD', KEYS[3], digest)
  gone = gone + redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('HINCRBY', KEYS[4], 'credentials', 1)
end
return gone
