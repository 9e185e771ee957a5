-- Reads a value together with the time.
--
-- KEYS[1]  the value
--
-- Returns the value (nil if it is missing, empty if it is of another type), seconds since the epoch, and
-- microseconds of the second. Any other error of the read is returned.
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if not string.find(stored.err, 'WRONGTYPE', 1, true) then
    return stored
  end
  stored = ''
end
local time = redis.call('TIME')
return { stored, tonumber(time[1]), tonumber(time[2]) }
