-- Looks whether the server decides: whether it runs scripts that read the time, read and write.
--
-- KEYS[1]  a key that nobody uses
-- KEYS[2]  ... other ones, in other slots, if the server should not be one of a cluster: that refuses them
-- ARGV[1]  '1' to fail with what a replica says about writing
--
-- Returns 1, or 0 on a replica.
redis.call('TIME')
redis.call('GET', KEYS[1])
local written = redis.pcall('PEXPIRE', KEYS[1], 1)
if type(written) == 'number' then
  return 1
elseif ARGV[1] ~= '1' and string.find(written.err, 'READONLY', 1, true) then
  return 0
end
return written
