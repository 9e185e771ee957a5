-- The sliding window counter: twin of src/strategy/sliding_window_counter.rs.
--
-- KEYS, ARGV: none; a rule, as arithmetic.lua describes. Words: the hits in the window before that
-- of the last hit, and the hits in the window of the last hit.

-- Time into a window after which `count` of the window before counts for at most `room`.
local function fades_to(count, room, period)
  if count <= room then
    return 0
  end
  local left, rest = muldiv(room + 1, period, count)
  if rest == 0 then
    left = left - 1
  end
  return period - left
end

rules[3] = function(value, from, length, previous, current, last, at, cost, needed, op, taken_at,
                    period, limit)
  local into = at % period
  local start = at - into
  if length == 0 then
    previous, current = 0, 0
  elseif length ~= 2 or previous > 4294967295 or current > 4294967295 then
    return
  elseif last < start then
    previous, current = last + period >= start and current or 0, 0
  end
  local faded = 0
  if previous > 0 then
    faded = muldiv(previous, period - into, period)
  end

  local verdict, changed = 0, false
  if op == 2 then
    if current > 0 and taken_at - taken_at % period == start then
      current, changed = current - cost, true
      if current < 0 then
        current = 0
      end
    end
  elseif op == 3 then
    current, changed = current + cost, true
    if current > 4294967295 then
      current = 4294967295
    end
  elseif cost > 0 and needed > limit then
    verdict = -1
  elseif cost > 0 then
    if faded + current + needed <= limit then
      if op == 1 then
        current, changed = current + cost, true
      end
    else
      local room = limit - needed
      if room >= current then
        verdict = start + fades_to(previous, room - current, period)
      else
        verdict = start + period + fades_to(current, room, period)
      end
      if verdict > MAX then
        verdict = MAX
      end
    end
  end

  local remaining = limit - faded - current
  if remaining < 0 then
    remaining = 0
  end
  local reset_at
  if current > 0 then
    reset_at = start + period + fades_to(current, 0, period)
  else
    reset_at = start + fades_to(previous, 0, period)
  end
  if reset_at < at then
    reset_at = at
  elseif reset_at > MAX then
    reset_at = MAX
  end
  return verdict, remaining, reset_at, changed and 2, previous, current
end
