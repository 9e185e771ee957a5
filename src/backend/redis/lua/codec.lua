-- The stored form of a key's state: twin of src/step/codec.rs, which describes the bytes.
--
-- KEYS, ARGV: none. Gives the functions of the files after it:
--   decode(value)  the parts, in order; nothing if it is not a list of parts
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
