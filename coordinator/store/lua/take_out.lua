-- Deletes an entry on purpose, and counts it.
-- KEYS: the hash, counts of what was taken out.  ARGV: entry, name of the hash
-- Outcome: how many there were
local gone = redis.call('HDEL', KEYS[1], ARGV[1])
if gone > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[2], gone)
end
return gone
