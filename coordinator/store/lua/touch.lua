-- Signs of life, each answered with what waits for the client, and the jobs that they speak of: one round trip for as
-- many calls as are made.
-- KEYS: seen, agents, for each client its task set and its set of checks, then the jobs
-- ARGV: newest and oldest protocol version that are spoken here, then for each client its name and now
-- Outcome: {for each client what it registered, or false; 'ids of jobs with a task|ids of jobs with a check' parted by
--   spaces, or false: it speaks none of these versions | for each job its document and version, or false twice}
local signs, clients = {}, (#ARGV - 2) / 2
local newest, oldest = tonumber(ARGV[1]), tonumber(ARGV[2])
local function understood(record)
  local its_newest, its_oldest = record.protocol_version, record.oldest_protocol_version or 0
  if its_oldest == 0 then
    its_oldest = its_newest
  end
  return its_oldest <= newest and oldest <= its_newest
end
for i = 1, clients do
  local client, now = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local record = redis.call('HGET', KEYS[2], client)
  signs[2 * i - 1], signs[2 * i] = record, false
  if record and understood(cjson.decode(record)) then
    redis.call('ZADD', KEYS[1], 'GT', now, client)
    local tasks, checks = redis.call('SMEMBERS', KEYS[2 * i + 1]), redis.call('SMEMBERS', KEYS[2 * i + 2])
    signs[2 * i] = table.concat(tasks, ' ') .. '|' .. table.concat(checks, ' ')
  end
end
local jobs = {}
for i = 2 * clients + 3, #KEYS do
  local found = redis.call('HMGET', KEYS[i], 'document', 'version')
  table.insert(jobs, found[1])
  table.insert(jobs, found[2])
end
return {signs, jobs}
