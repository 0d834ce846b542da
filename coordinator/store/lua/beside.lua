-- Writes a field of what is kept beside a job's document. A job that was deleted meanwhile leaves nothing behind.
-- KEYS: job, hash
-- ARGV: HSET or HINCRBY, field, value or increment
-- Outcome: what the command answers | 0: there is no such job
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
return redis.call(ARGV[1], KEYS[2], ARGV[2], ARGV[3])
