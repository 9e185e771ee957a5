-- Subtracts from a counter, not below 0. The TTL stays.
--
-- KEYS[1]  the counter: decimal digits, 0 to 2^63-1
-- ARGV[1]  what to subtract, 0 to 2^63-1
--
-- Returns what is left, as text; nil if there is no such key. An error if the value is not a number;
-- nothing is changed then.
local stored = redis.pcall('GET', KEYS[1])
if not stored then
  return false
end
if type(stored) == 'table' then
  return stored
end
if not string.find(stored, '^%d+$') then
  return redis.error_reply('ERR value is not an integer or out of range')
end
local left = redis.pcall('INCRBY', KEYS[1], '-' .. ARGV[1])
if type(left) == 'table' then
  return left
end
if left < 0 then
  redis.call('SET', KEYS[1], '0', 'KEEPTTL')
end
return redis.call('GET', KEYS[1])
