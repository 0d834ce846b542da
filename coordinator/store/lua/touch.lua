-- A sign of life, answered with the jobs that hold a task for the client: one round trip for an idle poll.
-- KEYS: seen, agents, task set of the client.  ARGV: client, now, protocol version that is spoken here
-- Outcome: {'unknown'}: never registered, or with another version | {'known', job id, ...}
local record = redis.call('HGET', KEYS[2], ARGV[1])
if not record or cjson.decode(record).protocol_version ~= tonumber(ARGV[3]) then
  return {'unknown'}
end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
return {'known', unpack(redis.call('SMEMBERS', KEYS[3]))}
