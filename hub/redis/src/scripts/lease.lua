-- Renews a hub's lease and its Hub's prefix reservation; takes out hubs whose lease has expired, with all their entries.
-- A lease that says something new is published with the directory's changes.
-- KEYS: directory, directory:version, hubs, owner. ARGV: changes channel, stem of instances' names, epoch to begin with,
-- hub, lease, time to live in ms (0: the hub leaves), uid of the Hub or empty, 1 to take out hubs without a lease,
-- stem of leases' names.
-- Answer: 1 when the hub was not known before; ids and leases of the living in turn.
local channel, instances, epoch, hub, ttl, uid = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local leases = ARGV[9]

local function publish(what)
  redis.call('HSETNX', KEYS[2], 'epoch', epoch)
  local change = redis.call('HINCRBY', KEYS[2], 'change', 1)
  redis.call('PUBLISH', channel, redis.call('HGET', KEYS[2], 'epoch') .. ' ' .. change .. ' ' .. what)
end

local function expire(gone)
  for _, field in ipairs(redis.call('SMEMBERS', instances .. gone)) do
    local stored = redis.call('HGET', KEYS[1], field)
    if stored and string.match(stored, '^%d+ (%S+) ') == gone then redis.call('HDEL', KEYS[1], field) end
  end
  redis.call('DEL', instances .. gone)
  redis.call('SREM', KEYS[3], gone)
  publish('gone ' .. gone)
end

if ttl == '0' then
  redis.call('DEL', leases .. hub)
  expire(hub)
  return {0, {}}
end
local before = redis.call('GET', leases .. hub)
redis.call('SET', leases .. hub, ARGV[5], 'PX', ttl)
if before ~= ARGV[5] then publish('lease ' .. hub .. ' ' .. ARGV[5]) end
local joined = redis.call('SADD', KEYS[3], hub)
if uid ~= '' and not redis.call('SET', KEYS[4], uid, 'PX', ttl, 'NX') and redis.call('GET', KEYS[4]) == uid then
  redis.call('PEXPIRE', KEYS[4], ttl)
end
local living = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local lease = redis.call('GET', leases .. id)
  if lease then
    living[#living + 1] = id
    living[#living + 1] = lease
  elseif ARGV[8] == '1' then
    expire(id)
  end
end
return {joined, living}
