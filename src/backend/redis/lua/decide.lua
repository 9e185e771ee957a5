-- Decides one step on one key: reads the value, runs the rules of the limits, writes what they say.
--
-- KEYS, ARGV: none. Gives one.lua, each.lua, all.lua and times.lua the function
--   decide(now, is_peek, times)
-- which decides on `key` what `argument` says: as a peek if `is_peek`, and at the server's time `now`, if that
-- was already read. Where it may be more than one hit, `times` says how many at the most: it decides all of them
-- or the first. The argument is packed numbers, little-endian:
--   op        u8   0 peek (also for a cost of 0), 1 take, 2 refund, 3 charge, 4 take up to the cost,
--                  5 drain, 6 take in advance, 7 a refund or charge of 0, which is a peek that
--                  no block concerns
--   cost      u32  units
--   leave     u32  units that must be left after the cost
--   taken_at  u64  microseconds since the epoch, for a refund; for 6 the longest wait, in microseconds
--   asked_at  u64  microseconds since the epoch; 2^53 for the time of this server
--   then for each limit, one to eight times:
--   family    u8   which rule: 1 bucket, 2 fixed window, 3 sliding window counter,
--                  4 sliding window log, 5 unlimited, 6 a limit of 0; plus 128 for a rate
--                  that the hit brought, whose part has its limit and burst too
--   tag       u32  with the period, whose part of the value it is
--   period    u64  microseconds
--   limit     u32  units in a period
--   burst     u32  units
--   capacity  u64  units, the burst and the debt
-- Returns integers; all instants in microseconds since the epoch:
--   asked_at  the instant of the question
--   at        the instant that counted: that, or the latest that the key has seen
--   refused   0, or 1 if the value could not be read, or 1 + i if the part of the i-th limit could
--             not, or -1 if the hit would bring one rate more than a key can count
--   then for each limit, unless that was -1:
--   verdict   0 it passes, -1 it never will, else the instant from which on it passes
--   remaining units that would pass now, after this
--   reset_at  from when on it answers like a fresh one
-- and last, only for 4 and 6, and where the key is blocked:
--   taken     how many units
--   until     only where the key is blocked: until when; all before it is as for a peek then
-- If it decided all of several hits, it returns instead what they found, for the caller to repeat them on it:
--   asked_at, at
--   refused   -2
--   length    number of words that were stored, 0 to 2
--   first, second, last, over_at   the words, and of the part its last instant and its reset_at; 0 where there is none
--   passed    how many hits passed, 1 at least: they are the first ones

local function decide(now, is_peek, times)
  local op, cost, leave, taken_at, asked_at, family, tag, period, limit, burst, capacity =
    struct.unpack('<BI4I4I8I8BI4I8I4I4I8', argument)
  local needed, brought_limit, brought_burst = cost + leave, 0, 0
  if family > 127 then
    family, brought_limit, brought_burst = family - 128, limit, burst
  end
  local least_ttl = 3600000
  if asked_at > MAX then
    if not now then
      local time = redis.call('TIME')
      now = time[1] * 1000000 + time[2]
    end
    asked_at, least_ttl = now, 1
  end
  if is_peek then
    op = 0
  end
  -- Of a log the first pairs are enough for a start.
  local long = family == 4 and op ~= 2
  local value
  if long then
    value = redis.pcall('GETRANGE', key, 0, 1023)
    if value == '' then
      -- Missing, or empty, which is not the same.
      value = redis.call('GET', key)
    end
  else
    value = redis.pcall('GET', key)
  end
  if value and value.err and not string.find(value.err, 'WRONGTYPE', 1, true) then
    return value
  end
  local size = value and #value or 0
  long = long and size == 1024
  if long then
    size = redis.call('STRLEN', key)
  end

  -- The usual case first: one limit, and a value that holds nothing but its part.
  local length, last, over_at, first, second = 0, 0, 0, nil, nil
  local alone = #argument == 54 and op < 4
  if alone and value then
    local version, count, its_tag, its_period, its_limit, its_burst
    if size >= 58 then
      version, count, its_tag, its_period, its_limit, its_burst, last, over_at, length, first, second =
        struct.unpack('<BBI4I8I4I4I8I8I4I8I8', value)
    elseif size == 50 then
      version, count, its_tag, its_period, its_limit, its_burst, last, over_at, length, first =
        struct.unpack('<BBI4I8I4I4I8I8I4I8', value)
    end
    alone = family < 5 and version == 1 and count == 1 and its_tag == tag and its_period == period
      and its_limit == brought_limit and its_burst == brought_burst
      and last <= MAX and over_at <= MAX and size == 42 + 8 * length
  end

  local reply, bytes, matters_until, kept_from, tail
  if alone then
    local at, stored = last > asked_at and last or asked_at, length
    if over_at <= at then
      length = 0
      if stored > 0 then
        -- What they were has no meaning any more, only when.
        stored, first, second = 2, 0, 0
      end
    end
    local verdict, remaining, reset_at, words, one, two, three = rules[family](
      value, 43, length, first, second, last, at, cost, needed, op, taken_at, period, limit, burst,
      capacity)
    if verdict then
      if not words and length > 0 then
        -- Written under another limit, perhaps, and over when its writer said.
        verdict = verdict < over_at and verdict or over_at
        reset_at = reset_at < over_at and reset_at or over_at
      end
      reply = {asked_at, at, 0, verdict, remaining, reset_at}
      if words and reset_at > at and (times or 1) > 1 and family < 4 then
        -- At one instant several hits take together what one of their costs together would: so one question tells
        -- whether that many pass, and halving finds how many. All after one that is denied are.
        local passed, denied, tried = 1, times + 1, times
        while tried > passed do
          local its_verdict, _, its_reset_at, _, its_one, its_two = rules[family](
            value, 43, length, first, second, last, at, tried * cost, tried * cost + leave, op, taken_at, period,
            limit, burst, capacity)
          if its_verdict == 0 then
            passed, reset_at, one, two = tried, its_reset_at, its_one, its_two
          else
            denied = tried
          end
          tried = math.floor((passed + denied) / 2)
        end
        reply = {asked_at, at, -2, stored, first or 0, second or 0, last, over_at, passed}
      end
      if words and reset_at > at then
        bytes = struct.pack(
          words == 2 and '<BBI4I8I4I4I8I8I4I8I8' or words == 1 and '<BBI4I8I4I4I8I8I4I8'
            or '<BBI4I8I4I4I8I8I4',
          1, 1, tag, period, brought_limit, brought_burst, at, reset_at, words, one, two)
        if words > 2 and long and two ~= '' then
          bytes, kept_from, tail = bytes .. one, two, three
          size = 42 + 8 * words - #bytes - #tail
        elseif words > 2 then
          bytes = bytes .. one .. two .. three
        end
        matters_until = reset_at
      elseif words then
        bytes = ''
      end
    end
  end
  if not reply then
    if long then
      value = redis.call('GET', key)
    end
    reply, bytes, matters_until = several(value, asked_at, op, cost, needed, taken_at)
  end

  if matters_until then
    local millis = ttl(matters_until, asked_at, least_ttl)
    if kept_from == 51 then
      -- Nothing goes at the front: the value is changed in its place.
      redis.call('SETRANGE', key, 0, bytes)
      redis.call('SETRANGE', key, 50 + size, tail)
      redis.call('PEXPIRE', key, millis)
    elseif kept_from then
      local kept = redis.call('GETRANGE', key, kept_from - 1, kept_from + size - 2)
      redis.call('SET', key, bytes, 'PX', millis)
      redis.call('APPEND', key, kept)
      redis.call('APPEND', key, tail)
    else
      redis.call('SET', key, bytes, 'PX', millis)
    end
  elseif bytes then
    redis.call('DEL', key)
  end
  return reply
end
