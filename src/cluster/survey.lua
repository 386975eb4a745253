-- Says where the data set stands, and makes one where there is none.
--
-- KEYS: dataset, epoch, stream, since
-- ARGV: a name for a new data set, the highest epoch the reader knows
-- Answers the data set's name, the highest epoch, the stream's last entry.
local dataset = redis.call('GET', KEYS[1])
if not dataset then
    dataset = ARGV[1]
    redis.call('SET', KEYS[1], dataset)
    redis.call('SET', KEYS[4], redis.call('TIME')[1] + 1)
end
-- An older copy of the data must not give out epochs again that callers have seen. Without memory for it, a writer
-- says the same later.
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if epoch < tonumber(ARGV[2]) then redis.pcall('SET', KEYS[2], ARGV[2]) end
local last = '0-0'
if redis.call('EXISTS', KEYS[3]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[3])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end
return { dataset, string.format('%.0f', epoch), last }
