-- KEYS: jobs.  Outcome: for each its status and its facts, or false twice
local found = {}
for _, key in ipairs(KEYS) do
  local job = redis.call('HMGET', key, 'status', 'facts')
  table.insert(found, job[1])
  table.insert(found, job[2])
end
return found
