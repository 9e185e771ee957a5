-- Makes a lock last longer, if it is still the owner's; never shorter.
--
-- KEYS[1]  the lock
-- ARGV[1]  the owner
-- ARGV[2]  the TTL from now in milliseconds, at least 1
--
-- Returns what is left of the TTL in milliseconds, 0 if it is not the owner's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
return left
