-- Lets go of a lock, if it is still the owner's.
--
-- KEYS[1]  the lock
-- ARGV[1]  the owner
--
-- Returns 1 if it was still the owner's, else 0 with nothing changed.
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 32) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
