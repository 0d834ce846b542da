-- Gives a lease up, if it is held by who says so.
-- KEYS: lease.  ARGV: holder
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return true
