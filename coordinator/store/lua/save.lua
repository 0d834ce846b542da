-- A job's next state and all that follows from it, if nobody was faster.
-- KEYS: job, events, rounds, active, progress, attempts, lease, totals, counters, then the sets of tasks and of checks of clients
--   that gained or lost one of this job
-- ARGV: version the change was made from, document, job id, channel, message, the rest as JSON, fencing token or '':
--   {final: bool, nobody has anything to do for it any more, status, facts, round: number in flight or '',
--    events: [[type, data], ...], closed: {number, document, outcome, measured and statistics: JSON or ''} | absent,
--    gained: count of leading sets, counts: [[counter, what is added], ...]}
-- Outcome: 'saved' | 'stale' | 'fenced': the token is not that of the lease's holder
if ARGV[7] ~= '' and redis.call('HGET', KEYS[7], 'token') ~= ARGV[7] then
  return 'fenced'
end
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then
  return 'stale'
end
local change = cjson.decode(ARGV[6])
redis.call('HSET', KEYS[1], 'document', ARGV[2], 'round', change.round, 'status', change.status,
  'facts', change.facts)
redis.call('HINCRBY', KEYS[1], 'version', 1)
for _, event in ipairs(change.events) do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'type', event[1], 'data', event[2])
end
if change.closed then
  redis.call('HSET', KEYS[3], change.closed.number, change.closed.document)
  redis.call('HINCRBY', KEYS[8], change.closed.outcome, 1)
  if change.closed.measured ~= '' then
    redis.call('HSET', KEYS[8], 'evaluated', change.closed.number, 'metrics', change.closed.measured)
  end
  if change.closed.statistics ~= '' then
    redis.call('HSET', KEYS[8], 'statistics', change.closed.statistics)
  end
end
for _, count in ipairs(change.counts) do
  redis.call('HINCRBYFLOAT', KEYS[9], count[1], count[2])
end
if change.closed or change.final then
  redis.call('DEL', KEYS[5], KEYS[6])
end
if change.final then
  redis.call('SREM', KEYS[4], ARGV[3])
else
  redis.call('SADD', KEYS[4], ARGV[3])  -- a completed job that is rolled back, or asked for weights, is active again
end
for i = 10, #KEYS do
  if i - 9 <= change.gained then
    redis.call('SADD', KEYS[i], ARGV[3])
  else
    redis.call('SREM', KEYS[i], ARGV[3])
  end
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 'saved'
