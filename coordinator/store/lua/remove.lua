-- Takes a job out of the state, with all that is kept for it.
-- KEYS: job, rounds, events, progress, attempts, traffic, jobs, active, idempotency, discarded, removed, deleted, then
--   the task sets of all clients
-- ARGV: job id, version that it was looked at or '' for any, idempotency key or '', channel, the rest as JSON:
--   {blobs: [hash, ...], totals: {name: count, ...}}
-- Outcome: 'removed' | 'stale': the job has changed | 'gone': there is no such job (any more)
local left = redis.call('EXISTS', unpack(KEYS, 1, 6)) > 0  -- of a job that has lost its record, too
if not left and not redis.call('ZSCORE', KEYS[7], ARGV[1]) and redis.call('SISMEMBER', KEYS[8], ARGV[1]) == 0 then
  return 'gone'
end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then
  return 'stale'
end
for i = 1, 6 do
  redis.call('DEL', KEYS[i])
end
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('SREM', KEYS[8], ARGV[1])
if ARGV[3] ~= '' and redis.call('HGET', KEYS[9], ARGV[3]) == ARGV[1] then
  redis.call('HDEL', KEYS[9], ARGV[3])
end
local rest = cjson.decode(ARGV[5])
for _, hash in ipairs(rest.blobs) do
  redis.call('SADD', KEYS[10], hash)
end
for name, count in pairs(rest.totals) do
  redis.call('HINCRBY', KEYS[11], name, count)
end
redis.call('SADD', KEYS[12], ARGV[1])
for i = 13, #KEYS do
  redis.call('SREM', KEYS[i], ARGV[1])
end
redis.call('PUBLISH', ARGV[4], 'WAKE_COLLECTOR')
return 'removed'
