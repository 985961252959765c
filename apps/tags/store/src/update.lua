-- Applies updates to one channel: its snapshot and its deltas change together or not at all.
-- KEYS: the snapshot's hash, the deltas' stream. ARGV: the time in ms, deltas to keep, then for each update: name,
-- deleted (0 or 1), when it ends in ms, partition, offset, data.
-- Answers: updates that changed something, updates that were known, the channel's sequence number.
local snapshot, deltas = KEYS[1], KEYS[2]
local now, keep = tonumber(ARGV[1]), ARGV[2]

-- A channel that begins anew, after it had ended, goes on above all numbers that it had: a reader of the former one
-- sees a gap and not a continuation. There are fewer than 1,000 changes a millisecond. Below 2^53 until the year 2255.
local sequence = tonumber(redis.call('HGET', snapshot, '@sequence') or now * 1000)
local applied, known, lasts = 0, 0, 0

for at = 3, #ARGV, 6 do
  local name, deleted, ends, partition, offset, data =
    ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local held = redis.call('HGET', snapshot, 'o:' .. name)
  local old = false
  if held then
    local held_partition, held_offset = string.match(held, '^(%-?%d+)|(%-?%d+)|')
    old = held_partition == partition and tonumber(held_offset) >= tonumber(offset)
  end
  if old then
    known = known + 1
  else
    sequence = sequence + 1
    local number = string.format('%.0f', sequence)
    local text = table.concat({partition, offset, number, string.format('%.0f', ends), deleted, data}, '|')
    redis.call('HSET', snapshot, 'o:' .. name, text)
    redis.call('XADD', deltas, 'MAXLEN', '~', keep, number .. '-0',
      'name', name, 'deleted', deleted, 'ends', string.format('%.0f', ends), 'data', data)
    applied = applied + 1
    lasts = math.max(lasts, ends - now)
  end
end

if applied > 0 then
  redis.call('HSET', snapshot, '@sequence', string.format('%.0f', sequence))
  -- What has ended leaves the hash: all of a small one is looked at, of a large one a sample with each change.
  local fields = {}
  if redis.call('HLEN', snapshot) <= 64 then
    fields = redis.call('HGETALL', snapshot)
  else
    fields = redis.call('HRANDFIELD', snapshot, 16, 'WITHVALUES')
  end
  for at = 1, #fields, 2 do
    local ends = string.match(fields[at + 1], '^%-?%d+|%-?%d+|%d+|(%d+)|')
    if fields[at] ~= '@sequence' and ends and tonumber(ends) <= now then
      redis.call('HDEL', snapshot, fields[at])
    end
  end
  -- The keys last as long as the object that lasts longest.
  lasts = string.format('%.0f', math.max(lasts, redis.call('PTTL', snapshot), 1000))
  redis.call('PEXPIRE', snapshot, lasts)
  redis.call('PEXPIRE', deltas, lasts)
end
return {applied, known, string.format('%.0f', sequence)}
