-- Signs of life, each answered with what waits for the client, and the jobs that they speak of: one round trip for as
-- many calls as are made.
-- KEYS: seen, agents, for each client its task set and its set of checks, then the jobs
-- ARGV: protocol version that is spoken here, then for each client its name and now
-- Outcome: {for each client what it registered, or false; 'ids of jobs with a task|ids of jobs with a check' parted by
--   spaces, or false: it registered with another version | for each job its document and version, or false twice}
local signs, clients = {}, (#ARGV - 1) / 2
for i = 1, clients do
  local client, now = ARGV[2 * i], ARGV[2 * i + 1]
  local record = redis.call('HGET', KEYS[2], client)
  signs[2 * i - 1], signs[2 * i] = record, false
  if record and cjson.decode(record).protocol_version == tonumber(ARGV[1]) then
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
