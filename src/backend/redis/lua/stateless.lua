-- Limits that remember nothing: twin of `stateless` and `deny_all` in src/step/apply.rs.
--
-- KEYS, ARGV: none; two rules, as arithmetic.lua describes.

-- Unlimited.
rules[5] = function(value, from, length, first, second, last, at)
  return 0, 4294967295, at
end

-- A limit of 0.
rules[6] = function(value, from, length, first, second, last, at, cost, needed, op)
  return (cost == 0 or op == 2 or op == 3) and 0 or -1, 0, at
end
