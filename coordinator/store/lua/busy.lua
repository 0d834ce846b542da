-- KEYS: task sets of clients.  Outcome: for each the ids of jobs in it, parted by spaces
local waiting = {}
for i, key in ipairs(KEYS) do
  waiting[i] = table.concat(redis.call('SMEMBERS', key), ' ')
end
return waiting
