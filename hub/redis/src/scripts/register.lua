-- Writes one entry of the directory, fenced by its generation, and publishes the change.
-- KEYS: directory, directory:version, hubs. ARGV: changes channel, stem of instances' names, epoch to begin with,
-- field, hub, generation, entry, `new`, `assert` or `take`; with `take`, the hub and the generation of the entry that it takes
-- the place of.
-- A new entry gets the generation given, or one more than the highest that was ever given here. An assertion keeps its
-- generation and loses against an entry of another hub with a higher one, or with the same one and a higher id. One that
-- takes over is a new entry, and loses against what came after the entry which it takes the place of: what is older may
-- be here where that one was never written.
-- Answer: the generation that is stored, and 1 when it is the caller's.
local channel, instances, epoch, field, hub, json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7]
local generation, assert_only, takes = tonumber(ARGV[6]), ARGV[8] == 'assert', ARGV[8] == 'take'

-- Byte by byte, as the hubs compare: Lua's own comparison goes by the server's locale.
local function is_higher(one, other)
  for at = 1, math.min(#one, #other) do
    local a, b = string.byte(one, at), string.byte(other, at)
    if a ~= b then return a > b end
  end
  return #one > #other
end

local highest = tonumber(redis.call('HGET', KEYS[2], 'generation') or '0')
local given_up = takes and tonumber(ARGV[10])
if takes then highest = math.max(highest, given_up) end
local stored = redis.call('HGET', KEYS[1], field)
if stored then
  local number, holder = string.match(stored, '^(%d+) (%S+) ')
  number = tonumber(number)
  highest = math.max(highest, number)
  if takes and (number > given_up or number == given_up and is_higher(holder, ARGV[9])) then return {number, 0} end
  if assert_only then
    if holder ~= hub and (number > generation or number == generation and is_higher(holder, hub)) then
      return {number, 0}
    end
    if stored == string.format('%.0f', generation) .. ' ' .. hub .. ' ' .. json then return {generation, 1} end
  end
  if holder ~= hub then redis.call('SREM', instances .. holder, field) end
end
if not assert_only then generation = math.max(generation, highest + 1) end
redis.call('HSET', KEYS[2], 'generation', string.format('%.0f', math.max(generation, highest)))
local value = string.format('%.0f', generation) .. ' ' .. hub .. ' ' .. json
redis.call('HSET', KEYS[1], field, value)
redis.call('SADD', instances .. hub, field)
redis.call('SADD', KEYS[3], hub)
redis.call('HSETNX', KEYS[2], 'epoch', epoch)
local number = redis.call('HINCRBY', KEYS[2], 'change', 1)
redis.call('PUBLISH', channel, redis.call('HGET', KEYS[2], 'epoch') .. ' ' .. number .. ' put ' .. field .. ' ' .. value)
return {generation, 1}
