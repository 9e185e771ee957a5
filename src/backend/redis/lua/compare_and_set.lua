-- Replaces a value if it is the expected one.
--
-- KEYS[1]  the value
-- ARGV[1]  '1' if a value is expected, '0' if it must be missing
-- ARGV[2]  the expected value
-- ARGV[3]  '1' to store a new value, '0' to delete
-- ARGV[4]  the new value
-- ARGV[5]  its TTL in milliseconds, at least 1; absent for none
--
-- Returns 1 if it was the expected one, else 0 with nothing changed. A value of another type counts as
-- an empty one; any other error of the read is returned.
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if not string.find(stored.err, 'WRONGTYPE', 1, true) then
    return stored
  end
  stored = ''
end
if stored ~= (ARGV[1] == '1' and ARGV[2]) then
  return 0
end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
elseif ARGV[5] then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
  redis.call('SET', KEYS[1], ARGV[4])
end
return 1
