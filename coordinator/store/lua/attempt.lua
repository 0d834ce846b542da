-- Counts that the aggregator begins a piece of work that is still to be done.
-- KEYS: job, attempts, active, lease.  ARGV: piece, job id, number of the piece's round or '', fencing token or ''
-- Outcome: how often the piece was begun, 0 where it is no longer to be done | 'fenced': the token is not that of the
-- lease's holder
if ARGV[4] ~= '' and redis.call('HGET', KEYS[4], 'token') ~= ARGV[4] then
  return 'fenced'
end
if redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 0 then
  return 0
end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'round') ~= ARGV[3] then
  return 0
end
return redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
