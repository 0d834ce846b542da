-- A sign of life, answered with the jobs that hold a task for the client: one round trip for an idle poll.
-- KEYS: seen, agents, task set of the client, its set of checks.  ARGV: client, now, protocol version that is spoken here
-- Outcome: {'unknown'}: never registered, or with another version | {'known', ids of jobs with a task, of jobs with a check}
local record = redis.call('HGET', KEYS[2], ARGV[1])
if not record or cjson.decode(record).protocol_version ~= tonumber(ARGV[3]) then
  return {'unknown'}
end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
return {'known', redis.call('SMEMBERS', KEYS[3]), redis.call('SMEMBERS', KEYS[4])}
