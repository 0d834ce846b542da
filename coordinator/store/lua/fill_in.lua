-- What a job's document and rounds say of it, where Redis lacks that and the job has not been saved since.
-- KEYS: job, totals
-- ARGV: version it was read at, status, totals as JSON {field: value}, facts
if redis.call('HGET', KEYS[1], 'version') == ARGV[1] then
  redis.call('HSETNX', KEYS[1], 'status', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'facts', ARGV[4])
  for field, value in pairs(cjson.decode(ARGV[3])) do
    redis.call('HSET', KEYS[2], field, value)
  end
end
