-- Decides equal hits on one key, one after the other.
--
-- KEYS[1]  the key of the value.
-- ARGV[1]  the step of each hit, a take of a cost above 0, as decide.lua describes it.
-- ARGV[2]  how many hits there are, 2 at least.
-- Returns what decide.lua returns where it decided all of them. Else what it returns for each, or the error that
-- it ended with. If these are fewer, and the last was denied or is an error, then it stands for all that follow:
-- it left all as it was. Else the others were not asked.

key, argument = KEYS[1], ARGV[1]
local time, times = redis.call('TIME'), tonumber(ARGV[2])
local now, replies = time[1] * 1000000 + time[2], {}
local function is_denied(reply)
  -- Of a key that is blocked it has two numbers more.
  if #reply % 3 == 2 then
    return true
  end
  for verdict = 4, #reply, 3 do
    if reply[verdict] ~= 0 then
      return true
    end
  end
  return false
end
-- What is not decided at once is read and written for each hit, with all other parts of the value: no more than
-- these, for others wait meanwhile.
for index = 1, math.min(times, 16) do
  local is_decided, reply = pcall(decide, now, false, index == 1 and times or 1)
  if is_decided and reply[3] == -2 then
    return reply
  elseif is_decided and not reply.err then
    replies[index] = reply
    if reply[3] == 0 and is_denied(reply) then
      break
    end
  else
    -- A table or a text, by the version of the server. Before 7.0 the text begins with the place in the script.
    local text = type(reply) == 'table' and reply.err or reply
    replies[index] = {err = string.sub(text, 1, 1) == '@' and 'ERR ' .. text or text}
    break
  end
end
return replies
