-- The sliding window log: twin of src/strategy/sliding_window_log.rs.
--
-- KEYS, ARGV: none; a rule, as arithmetic.lua describes, which reads more of a long value by its key.
-- Words: the sum of all counts, then a pair (instant, count) for each instant, oldest first.
--
-- A log can be long, and a long string in Lua costs far more than what is done with it. So pairs
-- are read only where they have expired, from the front, and at the end. For a peek and a hit the
-- beginning of the value is enough; the rest is fetched where it is needed.

-- The pair at the byte `at` of the value. `window` holds what is at hand, from the byte `from` on;
-- it is returned for the next pair.
local function pair(window, from, at)
  if at + 15 - from >= #window then
    window, from = redis.call('GETRANGE', key, at - 1, at + 4094), at
  end
  local instant, count = struct.unpack('<I8I8', window, at - from + 1)
  return instant, count, window, from
end

rules[4] = function(value, from, length, total, _, last, at, cost, needed, op, taken_at,
                    period, limit)
  local live, entries, expired, newest, newest_count = 0, 0, 0
  -- The bytes of the pair with the number i, from 0, begin at pairs_from + 16 * i.
  local pairs_from = from + 8
  if length > 0 then
    if length % 2 == 0 or total > 4294967295 then
      return
    end
    live, entries = total, (length - 1) / 2
    local window, window_from, instant, count = value, 1, nil, nil
    while expired < entries do
      instant, count, window, window_from = pair(window, window_from, pairs_from + 16 * expired)
      if at < MAX and instant + period > at then
        break
      elseif count > live then
        return
      end
      live, expired = live - count, expired + 1
    end
    if (live > 0) ~= (expired < entries) then
      return
    elseif live > 0 then
      newest, newest_count = pair(value, 1, pairs_from + 16 * (entries - 1))
      if newest > last or newest_count > live then
        return
      end
    end
  end

  local verdict, take, words, one, two, three = 0, false, nil, nil, nil, nil
  if op == 2 then
    if live > 0 and at < MAX and taken_at + period > at then
      -- The first pair that is not before that instant.
      local low, high = expired, entries
      while low < high do
        local middle = (low + high - (low + high) % 2) / 2
        if struct.unpack('<I8', value, pairs_from + 16 * middle) < taken_at then
          low = middle + 1
        else
          high = middle
        end
      end
      local found, instant, count = pairs_from + 16 * low, nil, nil
      if low < entries then
        instant, count = struct.unpack('<I8I8', value, found)
      end
      if instant == taken_at then
        if count > live then
          return
        end
        local back = cost < count and cost or count
        one = struct.pack('<I8', live - back)
          .. string.sub(value, pairs_from + 16 * expired, found - 1)
          .. (back < count and struct.pack('<I8I8', instant, count - back) or '')
          .. string.sub(value, found + 16, pairs_from + 16 * entries - 1)
        local remaining, reset_at
        verdict, remaining, reset_at =
          rules[4](one, 1, #one / 8, live - back, nil, last, at, 0, 0, 0, 0, period, limit)
        return verdict, remaining, reset_at, #one / 8, one, '', ''
      end
    end
  elseif op == 3 then
    take = true
    if cost > 4294967295 - live then
      cost = 4294967295 - live
    end
  elseif cost > 0 and needed > limit then
    verdict = -1
  elseif cost > 0 then
    local excess = live + needed - limit
    if excess > 0 then
      local index, freed, window, window_from, instant, count = expired, 0, value, 1, nil, nil
      while freed < excess do
        if index == entries then
          return
        end
        instant, count, window, window_from = pair(window, window_from, pairs_from + 16 * index)
        index, freed, verdict = index + 1, freed + count, instant + period
      end
      if verdict > MAX then
        verdict = MAX
      end
    elseif op == 1 then
      take = true
    end
  end
  if take then
    if live == 0 then
      words, one, two, three = 3, struct.pack('<I8', cost), '', struct.pack('<I8I8', at, cost)
    else
      local kept, count = entries, cost
      -- A full log, which only a charge finds here, merges into its newest entry.
      if newest == at or live >= limit then
        kept, count = entries - 1, newest_count + cost
      end
      one = struct.pack('<I8', live + cost)
      words, two = 3 + 2 * (kept - expired), pairs_from + 16 * expired
      if #value >= pairs_from + 16 * entries - 1 then
        two = string.sub(value, two, pairs_from + 16 * kept - 1)
      end
      three = struct.pack('<I8I8', at, count)
    end
    live, newest = live + cost, at
  end

  local remaining = limit - live
  if remaining < 0 then
    remaining = 0
  end
  local reset_at = at
  if live > 0 then
    reset_at = newest + period
    if reset_at > MAX then
      reset_at = MAX
    end
  end
  return verdict, remaining, reset_at, words, one, two, three
end
