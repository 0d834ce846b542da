-- Takes or renews a lease.
-- A token is higher than all before it even where a failover lost some of them: it is at least the time in milliseconds.
-- KEYS: lease, last fencing token.  ARGV: holder, milliseconds
-- Outcome: the holder's token, or false while another holds it
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then
  return false
end
if not holder then
  local now = redis.call('TIME')
  local least = now[1] * 1000 + math.floor(now[2] / 1000)
  local token = string.format('%.0f', math.max((redis.call('GET', KEYS[2]) or 0) + 1, least))
  redis.call('SET', KEYS[2], token)
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'token'))
