-- Makes a client known, or known again, unless an agent of another folder serves under its name.
-- KEYS: seen, agents.  ARGV: client, document, now, the last sign of life of an agent that counts as present
-- Outcome: {'registered'} | {'taken', when the other gave its last sign of life}
local before = redis.call('HGET', KEYS[2], ARGV[1])
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if before and seen and tonumber(seen) >= tonumber(ARGV[4]) then
  local holder = cjson.decode(before).folder
  if holder and holder ~= '' and holder ~= cjson.decode(ARGV[2]).folder then
    return {'taken', seen}
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return {'registered'}
