-- Reads the directory and the place in its changes at which it stands.
-- KEYS: directory, directory:version. ARGV: epoch to begin with. Answer: epoch, number of the last change, fields and
-- values in turn.
redis.call('HSETNX', KEYS[2], 'epoch', ARGV[1])
local change = redis.call('HGET', KEYS[2], 'change') or '0'
return {redis.call('HGET', KEYS[2], 'epoch'), change, redis.call('HGETALL', KEYS[1])}
