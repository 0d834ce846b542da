-- A new job, unless this idempotency key made one before.
-- KEYS: idempotency, job, events, jobs, active
-- ARGV: idempotency key or '', job id, document, created_at, events as JSON [[type, data], ...], channel, most active jobs,
--   status, facts
-- Outcome: {'created', id} | {'exists', id of the job made before} | {'full', count of active jobs}
if ARGV[1] ~= '' then
  local before = redis.call('HGET', KEYS[1], ARGV[1])
  if before and before ~= ARGV[2] then
    return {'exists', before}
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'created', ARGV[2]}  -- the same call sent again, because its answer was lost
end
local active = redis.call('SCARD', KEYS[5])
if active >= tonumber(ARGV[7]) then
  return {'full', tostring(active)}
end
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('HSET', KEYS[2], 'document', ARGV[3], 'version', 1, 'status', ARGV[8], 'facts', ARGV[9])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[2])
redis.call('SADD', KEYS[5], ARGV[2])
for _, event in ipairs(cjson.decode(ARGV[5])) do
  redis.call('XADD', KEYS[3], '*', 'type', event[1], 'data', event[2])
end
redis.call('PUBLISH', ARGV[6], 'WAKE_AGGREGATOR WAKE_DRIVER')
return {'created', ARGV[2]}
