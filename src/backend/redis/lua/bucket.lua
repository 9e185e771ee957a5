-- Token bucket, leaky bucket and GCRA: twin of src/strategy/bucket.rs.
--
-- KEYS, ARGV: none; a rule, as arithmetic.lua describes. Words: whole units used, and a fraction in
-- units of 1/period. `capacity` is the burst and the debt.

-- Microseconds until that much has drained, rounded up.
local function drain(whole, part, period, limit)
  local used = whole * period + part
  if used < 4503599627370496 then
    return (used + -used % limit) / limit
  end
  local wait, rest = muldiv(whole, period, limit)
  rest = rest + part
  return wait + (rest + -rest % limit) / limit
end

rules[1] = function(value, from, length, whole, part, last, at, cost, needed, op, taken_at,
                    period, limit, burst, capacity)
  if length == 0 then
    whole, part = 0, 0
  elseif length ~= 2 or whole >= 8589934592 or part >= period then
    return
  else
    local gain = (at - last) * limit
    if gain >= (whole + 2) * period then
      whole, part = 0, 0
    else
      local units, rest
      if gain <= MAX then
        rest = gain % period
        units = (gain - rest) / period
      else
        units, rest = muldiv(at - last, limit, period)
      end
      whole, part = whole - units, part - rest
      if part < 0 then
        whole, part = whole - 1, part + period
      end
      if whole < 0 then
        whole, part = 0, 0
      end
    end
  end

  local verdict, changed = 0, false
  if op == 2 then
    changed = whole > 0 or part > 0
    whole = whole - cost
    if whole < 0 then
      whole, part = 0, 0
    end
  elseif op == 3 then
    whole, changed = whole + cost, true
    if whole >= 8589934592 then
      whole, part = 8589934591, period - 1
    end
  elseif cost > 0 then
    local room = capacity - needed
    if room < 0 then
      verdict = -1
    elseif whole < room or whole == room and part == 0 then
      if op == 1 then
        whole, changed = whole + cost, true
      end
    else
      verdict = at + drain(whole - room, part, period, limit)
      if verdict > MAX then
        verdict = MAX
      end
    end
  end

  local remaining = burst - whole
  if part > 0 then
    remaining = remaining - 1
  end
  if remaining < 0 then
    remaining = 0
  end
  local reset_at = at + drain(whole, part, period, limit)
  if reset_at > MAX then
    reset_at = MAX
  end
  return verdict, remaining, reset_at, changed and 2, whole, part
end
