-- Writes fields of what is kept beside jobs' documents. A job that was deleted meanwhile leaves nothing behind.
-- KEYS: for each field its job and its hash
-- ARGV: for each field HSET or HINCRBY, the field, its value or increment
for i = 1, #KEYS / 2 do
  if redis.call('EXISTS', KEYS[2 * i - 1]) == 1 then
    redis.call(ARGV[3 * i - 2], KEYS[2 * i], ARGV[3 * i - 1], ARGV[3 * i])
  end
end
return 'written'
