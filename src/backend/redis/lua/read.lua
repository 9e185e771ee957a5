-- Reads a value together with the time.
--
-- KEYS[1]  the value
--
-- Returns the value (nil if it is missing, empty if it is of another type), seconds since the epoch, and
-- microseconds of the second.
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  stored = ''
end
local time = redis.call('TIME')
return { stored, tonumber(time[1]), tonumber(time[2]) }
