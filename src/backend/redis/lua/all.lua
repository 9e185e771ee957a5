-- Decides hits on several keys, all or nothing.
--
-- KEYS[i]  the key of a value; no key twice.
-- ARGV[i]  its step, a take, as decide.lua describes it.
-- Returns 1 if all were taken, 0 if one would not pass and so none was, or -1 if one could not be decided so:
-- a value that cannot be read, or a rate too many. Then for each what decide.lua returns, unless that was -1.

local time, replies = redis.call('TIME'), {1}
local now = time[1] * 1000000 + time[2]
for index = 1, #KEYS do
  key, argument = KEYS[index], ARGV[index]
  local reply = decide(now, true)
  if reply.err then
    return reply
  elseif reply[3] ~= 0 then
    return {-1}
  end
  -- Of a key that is blocked it has two numbers more.
  if #reply % 3 == 2 then
    replies[1] = 0
  end
  for verdict = 4, #reply, 3 do
    if reply[verdict] ~= 0 then
      replies[1] = 0
    end
  end
  replies[index + 1] = reply
end
if replies[1] == 1 then
  for index = 1, #KEYS do
    key, argument = KEYS[index], ARGV[index]
    replies[index + 1] = decide(now)
  end
end
return replies
