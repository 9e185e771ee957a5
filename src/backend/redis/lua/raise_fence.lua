-- Raises a fence to a token that other servers agreed on, if the lock is still the owner's.
--
-- KEYS[1]  the lock
-- KEYS[2]  its fence
-- ARGV[1]  the owner
-- ARGV[2]  the token, below 2^53
-- ARGV[3]  the fence's TTL in milliseconds
--
-- Returns 1 if the fence is at that token or above and the lock is the owner's, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local last = tonumber(redis.call('GET', KEYS[2]) or '')
if not last or last < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return 1
