-- Sets or deletes a value, if the lock that guards it is still the owner's.
--
-- KEYS[1]  the lock
-- KEYS[2]  the value, in the lock's slot
-- ARGV[1]  the owner
-- ARGV[2]  '1' to set, '0' to delete
-- ARGV[3]  the value
-- ARGV[4]  its TTL in milliseconds, at least 1; absent for none
--
-- Returns 1 if it was written, 0 with nothing changed if the lock is not the owner's any more.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[2])
elseif ARGV[4] then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
else
  redis.call('SET', KEYS[2], ARGV[3])
end
return 1
