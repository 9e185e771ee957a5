-- One step in its general form: several limits, or a value with the parts of several, or a value that
-- cannot be read. Twin of `Step::decide` in src/strategy/step.rs.
--
-- KEYS: none. ARGV[1]: as decide.lua describes. Gives decide.lua the function
--   several(value, asked_at, op, cost, taken_at)
-- which returns the reply, the bytes to be stored ('' to delete the key, nil to leave it as it is), and
-- the instant until which they matter.

local function several(value, asked_at, op, cost, taken_at)
  local corrupt, parts = 0, {}
  if value then
    parts = type(value) == 'string' and decode(value)
    if not parts then
      corrupt, parts = 1, {}
    end
  end

  local limits, count = {}, (#ARGV[1] - 21) / 29
  for index = 1, count do
    local family, tag, period, limit, burst, capacity =
      struct.unpack('<BI4I8I4I4I8', ARGV[1], 29 * index - 7)
    local cell = {
      rule = rules[family], tag = tag, period = period, limit = limit, burst = burst,
      capacity = capacity, last = 0, length = 0, from = 0
    }
    limits[index] = cell
    for place, part in ipairs(parts) do
      if part.tag == tag and part.period == period then
        cell.place, cell.last, cell.length, cell.from = place, part.last, part.length, part.from + 32
        if part.length > 1 then
          cell.first, cell.second = struct.unpack('<I8I8', value, cell.from)
        elseif part.length == 1 then
          cell.first = struct.unpack('<I8', value, cell.from)
        end
        break
      end
    end
  end

  -- Runs one limit; says whether its words could be read. If not, it starts afresh.
  local at
  local function run(index, what)
    local cell = limits[index]
    cell.verdict, cell.remaining, cell.fresh_at, cell.words = cell.rule(
      value, cell.from, cell.length, cell.first, cell.second, cell.last, at, cost, what, taken_at,
      cell.period, cell.limit, cell.burst, cell.capacity)
    if not cell.verdict then
      corrupt, cell.last, cell.length = index + 1, 0, 0
    end
    return cell.verdict
  end
  -- Runs all limits. If that must be done again it says as what: from the start because one was
  -- corrupt, or as a peek because one denied a hit, so that nothing is taken of the others.
  local function run_all(what)
    at = asked_at
    for index = 1, count do
      if limits[index].last > at then
        at = limits[index].last
      end
    end
    for index = 1, count do
      local verdict = run(index, what)
      if not verdict then
        return op
      elseif what == 1 and verdict ~= 0 then
        return 0
      end
    end
  end
  local what = op
  repeat
    what = run_all(what)
  until not what

  local reply, changed = {asked_at, at, corrupt}, false
  for index = 1, count do
    local cell = limits[index]
    reply[3 * index + 1], reply[3 * index + 2], reply[3 * index + 3] =
      cell.verdict, cell.remaining, cell.fresh_at
    changed = changed or cell.words
  end
  if not changed then
    return reply
  end

  -- Each part as bytes with its `fresh_at`, in order; false for one that is over.
  local written, fresh = {}, {}
  for place, part in ipairs(parts) do
    -- By the caller's clock: after it went back, a part of another rate may count again that was
    -- over by this state's time.
    local kept = part.fresh_at > asked_at and part.length > 0
    written[place] = kept and string.sub(value, part.from, part.from + 31 + 8 * part.length)
    fresh[place] = part.fresh_at
  end
  for index = 1, count do
    local cell = limits[index]
    local place = cell.place or #written + 1
    if cell.fresh_at <= at then
      written[place] = false
    else
      local words = cell.words or string.sub(value, cell.from, cell.from + 8 * cell.length - 1)
      written[place] = struct.pack('<I4I8I8I8I4', cell.tag, cell.period,
        cell.words and at or cell.last, cell.fresh_at, #words / 8) .. words
    end
    fresh[place] = cell.fresh_at
  end
  local bytes, instants = {}, {}
  for place, part in ipairs(written) do
    if part then
      bytes[#bytes + 1], instants[#instants + 1] = part, fresh[place]
    end
  end
  while #bytes > 255 do
    local soonest = 1
    for index = 2, #instants do
      if instants[index] < instants[soonest] then
        soonest = index
      end
    end
    table.remove(bytes, soonest)
    table.remove(instants, soonest)
  end
  if #bytes == 0 then
    return reply, ''
  end
  return reply, struct.pack('<BB', 1, #bytes) .. table.concat(bytes), math.max(unpack(instants))
end
