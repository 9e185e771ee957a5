-- Adds to a counter; in the same step gives it a TTL if it has none.
--
-- KEYS[1]  the counter: decimal digits, 0 to 2^63-1
-- ARGV[1]  what to add, 0 to 2^63-1
-- ARGV[2]  the TTL in milliseconds, at least 1; absent to leave it alone
--
-- Returns the sum, as a number below 2^53 and as text beyond. INCRBY's own error if the value is not a
-- number or would overflow; nothing is changed then.
local sum = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(sum) == 'table' then
  return sum
end
if sum < tonumber(ARGV[1]) then
  -- The stored number was negative, which no counter of ours is.
  redis.call('INCRBY', KEYS[1], '-' .. ARGV[1])
  return redis.error_reply('ERR value is not an integer or out of range')
end
if ARGV[2] and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if sum < 9007199254740992 then
  return sum
end
-- Numbers of Lua are doubles: the exact digits are in the store.
return redis.call('GET', KEYS[1])
