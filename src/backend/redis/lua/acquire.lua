-- Takes a lock.
--
-- KEYS[1]  the lock: its owner
-- KEYS[2]  its fence: the last token
-- ARGV[1]  who wants it: 32 hexadecimal digits, new for each acquisition
-- ARGV[2]  the lock's TTL in milliseconds, at least 1
-- ARGV[3]  the fence's TTL in milliseconds
--
-- Returns { token, what is left of the TTL in milliseconds } if it was taken now, or is held by the same
-- owner already because an answer was lost; { 0, what is left } with nothing written if another holds
-- it. A token is larger than the fence and at least the time in microseconds, so tokens rise also after
-- the fence is lost.
local left = ARGV[2]
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  left = redis.call('PTTL', KEYS[1])
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { 0, left }
  end
  local token = tonumber(redis.call('GET', KEYS[2]) or '')
  if token then
    return { token, left }
  end
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = redis.pcall('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[3], 'GET')
local foreign = type(last) == 'table'
last = not foreign and tonumber(last or '')
if foreign or last and last >= token then
  -- A value that is not ours; or the clock was put back, or two came within a microsecond.
  token = last and last + 1 or token
  redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[3])
end
return { token, tonumber(left) }
