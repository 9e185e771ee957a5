-- Lets go of a lock, if it is still the owner's.
--
-- KEYS[1]  the lock
-- ARGV[1]  the owner
--
-- Returns 1 if it was still the owner's, else 0 with nothing changed.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
