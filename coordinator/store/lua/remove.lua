-- Takes a job out of the state, with all that is kept for it.
-- KEYS: job, rounds, events, progress, attempts, traffic, totals, jobs, active, idempotency, discarded, removed,
--   deleted, counts of what was taken out, then the task sets of all clients
-- ARGV: job id, version that it was looked at or '' for any, idempotency key or '', channel, hashes of blobs as JSON
-- Outcome: 'removed' | 'stale': the job has changed | 'gone': there is no such job (any more)
local left = redis.call('EXISTS', unpack(KEYS, 1, 7)) > 0  -- of a job that has lost its record, too
if not left and not redis.call('ZSCORE', KEYS[8], ARGV[1]) and redis.call('SISMEMBER', KEYS[9], ARGV[1]) == 0 then
  return 'gone'
end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then
  return 'stale'
end
for _, name in ipairs({'committed', 'abandoned', 'up', 'down'}) do
  redis.call('HINCRBY', KEYS[12], name, redis.call('HGET', KEYS[7], name) or 0)
end
for i = 1, 7 do
  redis.call('DEL', KEYS[i])
end
redis.call('ZREM', KEYS[8], ARGV[1])
redis.call('SREM', KEYS[9], ARGV[1])
if ARGV[3] ~= '' and redis.call('HGET', KEYS[10], ARGV[3]) == ARGV[1] then
  redis.call('HDEL', KEYS[10], ARGV[3])
  redis.call('HINCRBY', KEYS[14], 'idempotency', 1)
end
for _, hash in ipairs(cjson.decode(ARGV[5])) do
  redis.call('SADD', KEYS[11], hash)
end
redis.call('SADD', KEYS[13], ARGV[1])
for i = 15, #KEYS do
  redis.call('SREM', KEYS[i], ARGV[1])
end
redis.call('PUBLISH', ARGV[4], 'WAKE_COLLECTOR')
return 'removed'
