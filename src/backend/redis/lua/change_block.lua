-- Blocks a key, or ends its block. Twin of `BlockChange::evaluate` in src/step/block.rs.
--
-- KEYS[1]  the key of the value.
-- ARGV[1]  packed numbers, little-endian:
--   change    u8   0 end the block, 1 replace it, 2 make it longer or leave it
--   time      u64  microseconds
--   asked_at  u64  microseconds since the epoch; 2^53 for the time of this server
-- Returns 1 if the key was blocked, 0 if not, and -1 with nothing changed if the value has no room for a block.

local change, time, asked_at = struct.unpack('<BI8I8', ARGV[1])
local least_ttl = 3600000
if asked_at > MAX then
  local now = redis.call('TIME')
  asked_at, least_ttl = now[1] * 1000000 + now[2], 1
end
local value = redis.pcall('GET', KEYS[1])
if value and value.err and not string.find(value.err, 'WRONGTYPE', 1, true) then
  return value
end
-- A value that cannot be read counts as none.
local parts = type(value) == 'string' and decode(value) or {}

local before
local written, fresh, total = {}, {}, 0
for _, part in ipairs(parts) do
  if part.tag == 5 and part.period == 0 and part.limit == 0 and part.burst == 0 then
    before = before or part.reset_at
  else
    total = total + 1
    written[total], fresh[total] = kept(value, part, asked_at), part.reset_at
  end
end
if before and before <= asked_at then
  before = nil
end
local was_blocked, after = before and 1 or 0, nil
if change > 0 then
  after = math.min(asked_at + time, MAX)
  if change == 2 and before then
    after = math.max(after, before)
  end
end
if after == before then
  return was_blocked
end
if after then
  total = total + 1
  written[total] = is_of_use(after, asked_at)
    and struct.pack('<I4I8I4I4I8I8I4I8', 5, 0, 0, 0, asked_at, after, 1, change == 2 and 1 or 0)
  fresh[total] = after
end
local bytes, matters_until = joined(written, fresh, total, asked_at)
if not bytes then
  return -1
elseif matters_until then
  redis.call('SET', KEYS[1], bytes, 'PX', ttl(matters_until, asked_at, least_ttl))
else
  redis.call('DEL', KEYS[1])
end
return was_blocked
