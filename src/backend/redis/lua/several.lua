-- One step in its general form: several limits, or a value with the parts of several, or a value
-- that cannot be read. Twin of `Step::evaluate` in src/step/mod.rs.
--
-- KEYS, ARGV: none. Reads the argument as decide.lua describes it. Gives decide.lua the function
--   several(value, asked_at, op, cost, needed, taken_at)
-- which returns the reply, the bytes to be stored ('' to delete the key, nil to leave it as it is),
-- and the instant until which they matter.

local function several(value, asked_at, op, cost, needed, taken_at)
  local corrupt, parts = 0, {}
  if value then
    parts = type(value) == 'string' and decode(value)
    if not parts then
      corrupt, parts = 1, {}
    end
  end

  -- A block denies every hit until it is over: they are run as peeks.
  local blocked_until = 0
  for _, part in ipairs(parts) do
    if part.tag == 5 and part.period == 0 and part.limit == 0 and part.burst == 0 then
      blocked_until = part.reset_at
    end
  end

  -- Each limit with its part of the value: `length` words from the byte `from`.
  local limits, count = {}, (#argument - 25) / 29
  for index = 1, count do
    local family, tag, period, limit, burst, capacity =
      struct.unpack('<BI4I8I4I4I8', argument, 29 * index - 3)
    local brought_limit, brought_burst = 0, 0
    if family > 127 then
      family, brought_limit, brought_burst = family - 128, limit, burst
    end
    local place, last, over_at, length, from, first, second = nil, 0, 0, 0, 0, nil, nil
    for candidate, part in ipairs(parts) do
      if part.tag == tag and part.period == period and part.limit == brought_limit
        and part.burst == brought_burst and family < 5 then
        place, last, over_at = candidate, part.last, part.reset_at
        length, from = part.length, part.from + 40
        if length > 1 then
          first, second = struct.unpack('<I8I8', value, from)
        elseif length == 1 then
          first = struct.unpack('<I8', value, from)
        end
        break
      end
    end
    limits[index] = {
      rule = rules[family], has_state = family < 5, tag = tag, period = period, limit = limit,
      burst = burst, capacity = capacity, brought_limit = brought_limit,
      brought_burst = brought_burst,
      place = place, last = last, over_at = over_at, length = length, from = from,
      first = first, second = second, words = nil, one = nil, two = nil, three = nil
    }
  end

  -- The whole units of a limit that would pass at once; nil if its words are corrupt.
  local function room_of(mine, at)
    local _, room = mine.rule(
      value, mine.from, mine.over_at > at and mine.length or 0, mine.first, mine.second, mine.last,
      at, 0, 0, 0, 0, mine.period, mine.limit, mine.capacity, mine.capacity)
    return room
  end

  -- As what all limits are run. Up to so many units are as many as all limits have; if there are none,
  -- the answer is that for one.
  local units, leave, taken = cost, needed - cost, nil
  -- In advance only if each limit lets it pass in time; what each says is its answer then.
  local turns
  local function begin_reservation()
    local at, verdicts, passes, index = asked_at, {}, true, 1
    turns, taken = nil, 0
    for other = 1, count do
      at = math.max(at, limits[other].last)
    end
    while index <= count do
      local mine = limits[index]
      local live = mine.over_at > at
      local verdict = mine.rule(
        value, mine.from, live and mine.length or 0, mine.first, mine.second, mine.last, at, cost,
        needed, 0, 0, mine.period, mine.limit, mine.burst, mine.capacity)
      if not verdict then
        corrupt, mine.last, mine.length = index + 1, 0, 0
        return begin_reservation()
      end
      if live and mine.length > 0 and verdict > mine.over_at then
        verdict = mine.over_at
      end
      verdicts[index], passes, index = verdict, passes and verdict == 0, index + 1
    end
    if passes then
      taken = units
      return 1
    end
    for other = 1, count do
      if verdicts[other] < 0 or verdicts[other] > asked_at + taken_at then
        return 0
      end
    end
    turns, taken = verdicts, units
    return 3
  end
  local function begin()
    if op == 6 then
      return begin_reservation()
    elseif op ~= 4 then
      return op
    end
    local room, index = units, 1
    while index <= count do
      local mine, at = limits[index], asked_at
      for other = 1, count do
        at = math.max(at, limits[other].last)
      end
      local its_room = room_of(mine, at)
      if its_room == 4294967295 and not mine.has_state then
        -- Unlimited.
        index = index + 1
      elseif its_room then
        room, index = math.min(room, its_room - leave), index + 1
      else
        corrupt, mine.last, mine.length = index + 1, 0, 0
        room, index = units, 1
      end
    end
    taken = math.max(room, 0)
    cost = math.max(taken, 1)
    needed = cost + leave
    return taken > 0 and 1 or 0
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
      local mine, verdict, remaining, reset_at = limits[index], nil, nil, nil
      local its_cost, its_needed, its_op = cost, needed, what
      if what == 5 then
        -- All that it has, whatever the others have.
        its_cost = mine.has_state and room_of(mine, at) or 0
        its_needed, its_op = its_cost, its_cost > 0 and 1 or 0
      end
      verdict, remaining, reset_at, mine.words, mine.one, mine.two, mine.three = mine.rule(
        value, mine.from, mine.over_at > at and mine.length or 0, mine.first, mine.second, mine.last,
        at, its_cost, its_needed, its_op, taken_at, mine.period, mine.limit, mine.burst,
        mine.capacity)
      if not verdict then
        corrupt, mine.last, mine.length = index + 1, 0, 0
        return begin()
      elseif what == 1 and verdict ~= 0 and count > 1 then
        return 0
      end
      if not mine.words and mine.length > 0 and mine.over_at > at then
        -- Written under another limit, perhaps, and over when its writer said.
        verdict = verdict < mine.over_at and verdict or mine.over_at
        reset_at = reset_at < mine.over_at and reset_at or mine.over_at
      end
      reply[3 * index + 1], reply[3 * index + 2], reply[3 * index + 3] =
        turns and turns[index] or verdict, remaining, reset_at
    end
  end
  local latest = asked_at
  for index = 1, count do
    latest = math.max(latest, limits[index].last)
  end
  if blocked_until > latest and (op < 2 or op == 4 or op == 6) then
    if op == 4 then
      cost = math.min(cost, 1)
      needed = cost + leave
    end
    op = 0
    local what = 0
    repeat
      what = run(what)
    until not what
    reply[3 * count + 4], reply[3 * count + 5] = 0, blocked_until
    return reply
  end
  if op == 7 then
    op = 0
  end
  local what = begin()
  repeat
    what = run(what)
  until not what
  reply[3] = corrupt
  reply[3 * count + 4] = taken

  -- At most 32 rates that hits brought can count at the same time.
  if op ~= 2 and cost > 0 then
    local passes, new, live, at = true, 0, 0, reply[2]
    for index = 1, count do
      local mine = limits[index]
      passes = passes and reply[3 * index + 1] == 0
      if mine.brought_limit > 0 and mine.has_state and not (mine.place and mine.over_at > at) then
        new = new + 1
      end
    end
    for _, part in ipairs(parts) do
      if part.limit > 0 and part.reset_at > at then
        live = live + 1
      end
    end
    if passes and new > 0 and live + new > 32 then
      return {asked_at, at, -1}
    end
  end

  local changed = false
  for index = 1, count do
    changed = changed or limits[index].words
  end
  if not changed then
    return reply
  end

  -- Each part as bytes, and its `reset_at`, in order; false for one that is over.
  local written, fresh, total = {}, {}, #parts
  for place, part in ipairs(parts) do
    written[place] = kept(value, part, asked_at)
    fresh[place] = part.reset_at
  end
  for index = 1, count do
    local mine, at, reset_at = limits[index], reply[2], reply[3 * index + 3]
    local place = mine.place
    if not place then
      total = total + 1
      place = total
    end
    local words = mine.words
    if not words then
      -- Stays as it is; one that could not be read is dropped.
      if mine.length == 0 then
        written[place] = false
      end
      reset_at = mine.over_at
    elseif reset_at <= at then
      written[place] = false
    elseif words == 1 or words == 2 then
      written[place] = struct.pack(
        words == 2 and '<I4I8I4I4I8I8I4I8I8' or '<I4I8I4I4I8I8I4I8',
        mine.tag, mine.period, mine.brought_limit, mine.brought_burst, at, reset_at, words,
        mine.one, mine.two)
    else
      written[place] = struct.pack('<I4I8I4I4I8I8I4', mine.tag, mine.period, mine.brought_limit,
        mine.brought_burst, at, reset_at, words) .. mine.one .. mine.two .. mine.three
    end
    fresh[place] = reset_at
  end

  local bytes, matters_until = joined(written, fresh, total, asked_at)
  if not bytes then
    return {asked_at, reply[2], -1}
  end
  return reply, bytes, matters_until
end
