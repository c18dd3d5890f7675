-- Writes one entry of the directory, fenced by its generation, and publishes the change.
-- KEYS: directory, directory:version, hubs. ARGV: changes channel, stem of instances' names, epoch to begin with,
-- field, hub, generation, entry, `new` or `assert`.
-- A new entry gets max(stored + 1, the generation given). An assertion keeps its generation and loses against an
-- entry of another hub that is not older.
-- Answer: the generation that is stored, and 1 when it is the caller's.
local channel, instances, epoch, field, hub, json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7]
local generation, assert_only = tonumber(ARGV[6]), ARGV[8] == 'assert'
local stored = redis.call('HGET', KEYS[1], field)
if stored then
  local number, holder = string.match(stored, '^(%d+) (%S+) ')
  number = tonumber(number)
  if assert_only then
    if holder ~= hub and number >= generation then return {number, 0} end
    if stored == string.format('%.0f', generation) .. ' ' .. hub .. ' ' .. json then return {generation, 1} end
  elseif number >= generation then
    generation = number + 1
  end
  if holder ~= hub then redis.call('SREM', instances .. holder, field) end
end
local value = string.format('%.0f', generation) .. ' ' .. hub .. ' ' .. json
redis.call('HSET', KEYS[1], field, value)
redis.call('SADD', instances .. hub, field)
redis.call('SADD', KEYS[3], hub)
redis.call('HSETNX', KEYS[2], 'epoch', epoch)
local number = redis.call('HINCRBY', KEYS[2], 'change', 1)
redis.call('PUBLISH', channel, redis.call('HGET', KEYS[2], 'epoch') .. ' ' .. number .. ' put ' .. field .. ' ' .. value)
return {generation, 1}
