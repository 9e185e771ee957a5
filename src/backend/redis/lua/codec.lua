-- The stored form of a key's state: twin of src/step/codec.rs, which describes the bytes.
--
-- KEYS, ARGV: none. Gives the functions of the files after it:
--   decode(value)  the parts, in order; nothing if it is not a list of parts
--   is_of_use(reset_at, asked_at)  whether a part is still kept
--   kept(value, part, asked_at)  the bytes of a part; false if it is of no use any more
--   joined(written, fresh, total, asked_at)  the value of so many parts as bytes, or false for none, with
--     their `reset_at`; and the instant until which it matters. Empty if no part is left, and nothing if
--     they are too many
--   ttl(matters_until, asked_at, least)  in milliseconds
-- A part has the fields tag, period, limit, burst, last, reset_at, length (in words) and from, the
-- number of the byte at which it begins. Its words begin 40 bytes later.
local function decode(value)
  local size = #value
  if size < 2 then
    return
  end
  local version, count = struct.unpack('<BB', value)
  if version ~= 1 then
    return
  end
  local parts, from = {}, 3
  for index = 1, count do
    if from + 39 > size then
      return
    end
    local tag, period, limit, burst, last, reset_at, length =
      struct.unpack('<I4I8I4I4I8I8I4', value, from)
    if last > MAX or reset_at > MAX then
      return
    end
    parts[index] = {
      tag = tag, period = period, limit = limit, burst = burst, last = last, reset_at = reset_at,
      length = length, from = from
    }
    from = from + 40 + 8 * length
    if from > size + 1 then
      return
    end
  end
  if from == size + 1 then
    return parts
  end
end

local function is_of_use(reset_at, asked_at)
  -- What is over may count again after the clock stepped back: an hour is kept.
  local kept_to = reset_at + 3600000000
  if kept_to > MAX then
    kept_to = MAX
  end
  return kept_to > asked_at
end

local function kept(value, part, asked_at)
  return part.length > 0 and is_of_use(part.reset_at, asked_at)
    and string.sub(value, part.from, part.from + 39 + 8 * part.length)
end

local function joined(written, fresh, total, asked_at)
  local count, block = 0, 0
  for place = 1, total do
    if written[place] then
      count = count + 1
      written[count], fresh[count] = written[place], fresh[place]
      if string.sub(written[place], 1, 4) == '\5\0\0\0' then
        block = count
      end
    end
  end
  while count > (block > 0 and 255 or 254) do
    local soonest = block == 1 and 2 or 1
    for index = 2, count do
      if fresh[index] < fresh[soonest] and index ~= block then
        soonest = index
      end
    end
    if fresh[soonest] > asked_at then
      return
    end
    table.remove(written, soonest)
    table.remove(fresh, soonest)
    count = count - 1
    if soonest < block then
      block = block - 1
    end
  end
  if count == 0 then
    return ''
  end
  return struct.pack('<BB', 1, count) .. table.concat(written, '', 1, count),
    math.max(unpack(fresh, 1, count))
end

local function ttl(matters_until, asked_at, least)
  local micros = matters_until - asked_at
  local millis = (micros - micros % 1000) / 1000
  if micros % 1000 > 0 then
    millis = millis + 1
  end
  return millis < least and least or millis
end
