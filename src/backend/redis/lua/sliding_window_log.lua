-- The sliding window log: twin of src/strategy/sliding_window_log.rs.
--
-- KEYS, ARGV: none; a rule, as arithmetic.lua describes. Words: the sum of all counts, then a pair
-- (instant, count) for each instant, oldest first. A log can be long: pairs are read only where they
-- have expired, from the front, and at the end; the others are copied as bytes.

rules[4] = function(value, from, length, total, _, last, at, cost, op, taken_at, period, limit)
  local live, entries, expired, newest, newest_count = 0, 0, 0
  -- The bytes of the pair with the number i, from 0, begin at pairs_from + 16 * i.
  local pairs_from = from + 8
  if length > 0 then
    if length % 2 == 0 or total > 4294967295 then
      return
    end
    live, entries = total, (length - 1) / 2
    while expired < entries do
      local instant, count = struct.unpack('<I8I8', value, pairs_from + 16 * expired)
      if at < 9007199254740991 and instant + period > at then
        break
      elseif count > live then
        return
      end
      live, expired = live - count, expired + 1
    end
    if (live > 0) ~= (expired < entries) then
      return
    elseif live > 0 then
      newest, newest_count = struct.unpack('<I8I8', value, pairs_from + 16 * (entries - 1))
      if newest > last or newest_count > live then
        return
      end
    end
  end

  local verdict, one, two, three = 0, nil, nil, nil
  if op == 2 then
    if live > 0 and at < 9007199254740991 and taken_at + period > at then
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
      local pair, instant, count = pairs_from + 16 * low, nil, nil
      if low < entries then
        instant, count = struct.unpack('<I8I8', value, pair)
      end
      if instant == taken_at then
        if count > live then
          return
        end
        local back = cost < count and cost or count
        local words = struct.pack('<I8', live - back)
          .. string.sub(value, pairs_from + 16 * expired, pair - 1)
          .. (back < count and struct.pack('<I8I8', instant, count - back) or '')
          .. string.sub(value, pair + 16, pairs_from + 16 * entries - 1)
        local remaining, fresh_at
        verdict, remaining, fresh_at =
          rules[4](words, 1, #words / 8, live - back, nil, last, at, 0, 0, 0, period, limit)
        return verdict, remaining, fresh_at, #words / 8, words, '', ''
      end
    end
  elseif cost > limit then
    verdict = -1
  elseif cost > 0 then
    local needed = live + cost - limit
    if needed > 0 then
      local index, freed = expired, 0
      while freed < needed do
        if index == entries then
          return
        end
        local instant, count = struct.unpack('<I8I8', value, pairs_from + 16 * index)
        index, freed, verdict = index + 1, freed + count, instant + period
      end
      if verdict > 9007199254740991 then
        verdict = 9007199254740991
      end
    elseif op == 1 then
      if live == 0 then
        one, two, three = struct.pack('<I8', cost), '', struct.pack('<I8I8', at, cost)
      else
        local kept, count = entries, cost
        if newest == at then
          kept, count = entries - 1, newest_count + cost
        end
        one = struct.pack('<I8', live + cost)
        two = string.sub(value, pairs_from + 16 * expired, pairs_from + 16 * kept - 1)
        three = struct.pack('<I8I8', at, count)
      end
      live, newest = live + cost, at
    end
  end

  local remaining = limit - live
  if remaining < 0 then
    remaining = 0
  end
  local fresh_at = at
  if live > 0 then
    fresh_at = newest + period
    if fresh_at > 9007199254740991 then
      fresh_at = 9007199254740991
    end
  end
  return verdict, remaining, fresh_at, one and 3 + #two / 8, one, two, three
end
