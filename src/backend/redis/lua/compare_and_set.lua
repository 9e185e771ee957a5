-- Replaces a value if it is the expected one.
--
-- KEYS[1]  the value
-- ARGV[1]  '1' if a value is expected, '0' if it must be missing
-- ARGV[2]  the expected value
-- ARGV[3]  '1' to store a new value, '0' to delete
-- ARGV[4]  the new value
-- ARGV[5]  what becomes of its TTL: 'keep', 'after' for a new one, 'if none' for a new one where there is
--          none, 'never' for none
-- ARGV[6]  the TTL of 'after' and 'if none' in milliseconds, at least 1
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
local mode = ARGV[5]
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
elseif mode == 'after' or (mode == 'if none' and redis.call('PTTL', KEYS[1]) < 0) then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[6])
elseif mode == 'never' then
  redis.call('SET', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[4], 'KEEPTTL')
end
return 1
