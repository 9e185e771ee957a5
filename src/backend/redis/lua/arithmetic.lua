-- Exact arithmetic on whole numbers: a number here is a double, exact below 2^53.
--
-- KEYS, ARGV: none. Gives to the files after it:
--   key, argument    what is decided: the key of the value, and the step as decide.lua describes it
--   MAX              the largest exact number, and the latest instant
--   muldiv(a, b, m)  floor(a * b / m) and the rest of that division
-- and the table in which each strategy puts its rule:
--   rules[family](value, from, length, first, second, last, at, cost, needed, op, taken_at,
--                 period, limit, burst, capacity)
--     value     the stored bytes, of a log perhaps only their beginning; the words of this limit
--               begin at the byte `from`
--     length    number of words, 0 for a key that was never seen or a part that is over
--     first     the first and the second word, where there are that many
--     last      instant of the last write, in microseconds since the epoch, as all instants
--     at        the instant that counts
--     cost      in units; 0 only for a peek
--     needed    in units: the cost, and what must be left after it
--     op        0 peek, 1 take, 2 refund of what was taken at `taken_at`, 3 charge, whatever is left
--     period    in microseconds
--     limit, burst, capacity  in units
--   returns nothing if the words are corrupt, else
--     verdict   0 it passes, -1 it never will, else the instant from which on it passes
--     remaining in units
--     reset_at  from when on it answers like a fresh one
--     count     how many words must be written; nil or false if they stay as they are
--     one, two  those words; of three or more, they are in bytes and in up to three pieces:
--     three     `one`, `two` and this. Of a value of which only the beginning was given, `two` is
--               the number of the byte from which on its bytes are kept, so many as are missing
local key, argument
local rules = {}
local MAX = 9007199254740991

-- a and b are below 2^53 and m is at most 2^45. A quotient of 2^53 or more is not exact, but is
-- never less than 2^53.
local function muldiv(a, b, m)
  local product = a * b
  if product <= MAX then
    local rest = product % m
    return (product - rest) / m, rest
  end
  -- Whole multiples of m leave both factors first.
  local rest_a, rest_b = a % m, b % m
  local quotient = (a - rest_a) / m * b + rest_a * ((b - rest_b) / m)
  if rest_a > rest_b then
    rest_a, rest_b = rest_b, rest_a
  end
  -- Then a long division, digit by digit of the smaller one. With this base, below 2^52 / m, no
  -- dividend reaches 2^53: the rest and the factor are less than m.
  local base = (4503599627370496 - 4503599627370496 % m) / m
  local scale = 1
  while scale * base <= rest_a do
    scale = scale * base
  end
  local digits, rest = 0, 0
  while scale >= 1 do
    local low = rest_a % scale
    local dividend = rest * base + (rest_a - low) / scale * rest_b
    rest_a, rest, scale = low, dividend % m, scale / base
    digits = digits * base + (dividend - rest) / m
  end
  return quotient + digits, rest
end
