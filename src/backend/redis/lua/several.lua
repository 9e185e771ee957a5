-- One step in its general form: several limits, or a value with the parts of several, or a value
-- that cannot be read. Twin of `Step::decide` in src/strategy/step.rs.
--
-- KEYS: none. ARGV[1]: as decide.lua describes. Gives decide.lua the function
--   several(value, asked_at, op, cost, taken_at)
-- which returns the reply, the bytes to be stored ('' to delete the key, nil to leave it as it is),
-- and the instant until which they matter.

local function several(value, asked_at, op, cost, taken_at)
  local corrupt, parts = 0, {}
  if value then
    parts = type(value) == 'string' and decode(value)
    if not parts then
      corrupt, parts = 1, {}
    end
  end

  -- Each limit with its part of the value: `length` words from the byte `from`.
  local limits, count = {}, (#ARGV[1] - 21) / 29
  for index = 1, count do
    local family, tag, period, limit, burst, capacity =
      struct.unpack('<BI4I8I4I4I8', ARGV[1], 29 * index - 7)
    local place, last, length, from, first, second = nil, 0, 0, 0, nil, nil
    for candidate, part in ipairs(parts) do
      if part.tag == tag and part.period == period then
        place, last, length, from = candidate, part.last, part.length, part.from + 32
        if length > 1 then
          first, second = struct.unpack('<I8I8', value, from)
        elseif length == 1 then
          first = struct.unpack('<I8', value, from)
        end
        break
      end
    end
    limits[index] = {
      rule = rules[family], tag = tag, period = period, limit = limit, burst = burst,
      capacity = capacity, place = place, last = last, length = length, from = from,
      first = first, second = second, words = nil, one = nil, two = nil, three = nil
    }
  end

  -- Runs all limits. If that must be done again it says as what: from the start because one was
  -- corrupt, or as a peek because one denied a hit, so that nothing is taken of the others.
  local reply = {0, 0, 0}
  local function run(what)
    local at = asked_at
    for index = 1, count do
      local last = limits[index].last
      if last > at then
        at = last
      end
    end
    reply[1], reply[2] = asked_at, at
    for index = 1, count do
      local mine, verdict, remaining, fresh_at = limits[index], nil, nil, nil
      verdict, remaining, fresh_at, mine.words, mine.one, mine.two, mine.three = mine.rule(
        value, mine.from, mine.length, mine.first, mine.second, mine.last, at, cost, what, taken_at,
        mine.period, mine.limit, mine.burst, mine.capacity)
      if not verdict then
        corrupt, mine.last, mine.length = index + 1, 0, 0
        return op
      elseif what == 1 and verdict ~= 0 and count > 1 then
        return 0
      end
      reply[3 * index + 1], reply[3 * index + 2], reply[3 * index + 3] =
        verdict, remaining, fresh_at
    end
  end
  local what = op
  repeat
    what = run(what)
  until not what
  reply[3] = corrupt

  local changed = false
  for index = 1, count do
    changed = changed or limits[index].words
  end
  if not changed then
    return reply
  end

  -- Each part as bytes, and its `fresh_at`, in order; false for one that is over.
  local written, fresh, total = {}, {}, #parts
  for place, part in ipairs(parts) do
    -- By the caller's clock: after it went back, a part of another rate may count again that was
    -- over by this state's time.
    local kept = part.fresh_at > asked_at and part.length > 0
    written[place] = kept and string.sub(value, part.from, part.from + 31 + 8 * part.length)
    fresh[place] = part.fresh_at
  end
  for index = 1, count do
    local mine, at, fresh_at = limits[index], reply[2], reply[3 * index + 3]
    local place = mine.place
    if not place then
      total = total + 1
      place = total
    end
    local words = mine.words
    if fresh_at <= at then
      written[place] = false
    elseif words == 1 or words == 2 then
      written[place] = struct.pack(words == 2 and '<I4I8I8I8I4I8I8' or '<I4I8I8I8I4I8',
        mine.tag, mine.period, at, fresh_at, words, mine.one, mine.two)
    elseif words then
      written[place] = struct.pack('<I4I8I8I8I4', mine.tag, mine.period, at, fresh_at, words)
        .. mine.one .. mine.two .. mine.three
    else
      written[place] =
        struct.pack('<I4I8I8I8I4', mine.tag, mine.period, mine.last, fresh_at, mine.length)
        .. string.sub(value, mine.from, mine.from + 8 * mine.length - 1)
    end
    fresh[place] = fresh_at
  end

  local kept = 0
  for place = 1, total do
    if written[place] then
      kept = kept + 1
      written[kept], fresh[kept] = written[place], fresh[place]
    end
  end
  while kept > 255 do
    local soonest = 1
    for index = 2, kept do
      if fresh[index] < fresh[soonest] then
        soonest = index
      end
    end
    table.remove(written, soonest)
    table.remove(fresh, soonest)
    kept = kept - 1
  end
  if kept == 0 then
    return reply, ''
  end
  return reply, struct.pack('<BB', 1, kept) .. table.concat(written, '', 1, kept),
    math.max(unpack(fresh, 1, kept))
end
