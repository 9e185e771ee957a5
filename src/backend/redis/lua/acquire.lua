-- Takes a lock.
--
-- KEYS[1]  the lock: '<owner>:<token>'
-- KEYS[2]  its fence: the last token
-- ARGV[1]  who wants it: 32 hexadecimal digits, new for each acquisition
-- ARGV[2]  the lock's TTL in milliseconds, at least 1
-- ARGV[3]  the fence's TTL in milliseconds
--
-- Returns { token, what is left of the TTL in milliseconds } if it was taken now, or is held by the same
-- owner already because an answer was lost; { 0, what is left } with nothing written if another holds
-- it. A token is larger than the fence and at least the time in microseconds, so tokens rise also after
-- the fence is lost.
local held = redis.call('GET', KEYS[1])
if held then
  local left = redis.call('PTTL', KEYS[1])
  if string.sub(held, 1, 32) == ARGV[1] then
    return { tonumber(string.sub(held, 34)), left }
  end
  return { 0, left }
end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '')
if last and last >= token then
  token = last + 1
end
local digits = string.format('%.0f', token)
redis.call('SET', KEYS[2], digits, 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. digits, 'PX', ARGV[2])
return { token, tonumber(ARGV[2]) }
