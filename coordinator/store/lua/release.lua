-- Gives a lease up, if it is held by who says so, and wakes who waits for it.
-- KEYS: lease.  ARGV: holder, channel, message
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return true
