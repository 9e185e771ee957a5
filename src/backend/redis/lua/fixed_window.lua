-- Fixed windows: twin of src/strategy/fixed_window.rs.
--
-- KEYS, ARGV: none; a rule, as arithmetic.lua describes. Words: the hits in the window of
-- the last one.

rules[2] = function(value, from, length, count, _, last, at, cost, needed, op, taken_at,
                    period, limit)
  local start = at - at % period
  if length == 0 then
    count = 0
  elseif length ~= 1 or count > 4294967295 then
    return
  elseif last < start then
    count = 0
  end
  local boundary = start + period
  if boundary > MAX then
    boundary = MAX
  end

  local verdict, changed = 0, false
  if op == 2 then
    if count > 0 and taken_at - taken_at % period == start then
      count, changed = count - cost, true
      if count < 0 then
        count = 0
      end
    end
  elseif op == 3 then
    count, changed = count + cost, true
    if count > 4294967295 then
      count = 4294967295
    end
  elseif cost > 0 and needed > limit then
    verdict = -1
  elseif cost > 0 then
    if count + needed > limit then
      verdict = boundary
    elseif op == 1 then
      count, changed = count + cost, true
    end
  end

  local remaining = limit - count
  if remaining < 0 then
    remaining = 0
  end
  return verdict, remaining, count == 0 and at or boundary, changed and 1, count
end
