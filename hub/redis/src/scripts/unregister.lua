-- Removes one entry of the directory unless a later generation or another hub has taken its place.
-- KEYS: directory, directory:version. ARGV: changes channel, stem of instances' names, epoch to begin with, field, hub,
-- generation. Answer: 1 when it was removed.
local channel, instances, epoch, field, hub = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored = redis.call('HGET', KEYS[1], field)
if not stored then return 0 end
local number, holder = string.match(stored, '^(%d+) (%S+) ')
if holder ~= hub or tonumber(number) > tonumber(ARGV[6]) then return 0 end
redis.call('HDEL', KEYS[1], field)
redis.call('SREM', instances .. hub, field)
redis.call('HSETNX', KEYS[2], 'epoch', epoch)
local change = redis.call('HINCRBY', KEYS[2], 'change', 1)
redis.call('PUBLISH', channel, redis.call('HGET', KEYS[2], 'epoch') .. ' ' .. change .. ' remove ' .. field .. ' ' .. number .. ' ' .. hub)
return 1
