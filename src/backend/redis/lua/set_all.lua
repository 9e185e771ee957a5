-- Sets several values at once.
--
-- KEYS     the values, all in one slot
-- ARGV[1]  their TTL in milliseconds, at least 1; empty for none
-- ARGV[2]  ... the new values, in the order of KEYS
for index, key in ipairs(KEYS) do
  if ARGV[1] == '' then
    redis.call('SET', key, ARGV[index + 1])
  else
    redis.call('SET', key, ARGV[index + 1], 'PX', ARGV[1])
  end
end
return 1
