-- Reserves the prefix for a Hub, or renews its reservation. KEYS: owner. ARGV: uid, time to live in ms. Answer: who holds it.
if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') and redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])
