-- Decides steps on several keys, each by itself.
--
-- KEYS[i]  the key of a value.
-- ARGV[i]  its step, as decide.lua describes it.
-- Returns for each what decide.lua returns, or the error that it ended with.

local time, replies = redis.call('TIME'), {}
local now = time[1] * 1000000 + time[2]
for index = 1, #KEYS do
  key, argument = KEYS[index], ARGV[index]
  local is_decided, reply = pcall(decide, now)
  if not is_decided then
    -- A table or a text, by the version of the server. Before 7.0 the text begins with the place in the script.
    local text = type(reply) == 'table' and reply.err or reply
    reply = {err = string.sub(text, 1, 1) == '@' and 'ERR ' .. text or text}
  end
  replies[index] = reply
end
return replies
