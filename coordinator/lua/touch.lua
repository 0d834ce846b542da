-- A sign of life, answered with the jobs that hold a task for the client: one round trip for an idle poll.
-- KEYS: seen, task set of the client.  ARGV: client, now
-- Outcome: {'unknown'} | {'known', job id, ...}
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {'unknown'}
end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
return {'known', unpack(redis.call('SMEMBERS', KEYS[2]))}
