-- Decides one step on one key.
--
-- KEYS[1]  the key of the value.
-- ARGV[1]  the step, as decide.lua describes it.
-- Returns what decide.lua returns.

key, argument = KEYS[1], ARGV[1]
return decide()
