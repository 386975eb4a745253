-- Publishes requests: entries and one stream entry for each request, all or none.
--
-- KEYS: dataset, epoch, stream, tokens, marks, switches, since
-- ARGV: a name for a new data set, the highest epoch the writer knows, entries to keep in the stream, then for each
--       request: number of changes, and for each change: key (1 tokens, 2 marks, 3 switches), member, score or state,
--       own epoch (0: the request's), the change for the stream
-- Answers the data set's name, then each request's epoch.
local time = redis.call('TIME')
local dataset = redis.call('GET', KEYS[1])
if not dataset then
    dataset = ARGV[1]
    redis.call('SET', KEYS[1], dataset)
    redis.call('SET', KEYS[7], time[1] + 1)
end
-- The clock is only a floor: epochs do not begin again where everything was lost.
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[2]), clock - 1)

local last = '0-0'
if redis.call('EXISTS', KEYS[3]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[3])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end

local answer = { dataset }
local at = 4
while ARGV[at] do
    local count = tonumber(ARGV[at])
    at = at + 1
    epoch = epoch + 1
    local text = string.format('%.0f', epoch)
    -- "p" is the entry before this one: a reader sees whether it missed any.
    local entry = { 'XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'e', text, 'p', last }
    for _ = 1, count do
        local kind, member, value, own = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
        if kind == '1' then
            redis.call('ZADD', KEYS[4], 'GT', value, member)
        elseif kind == '2' then
            redis.call('ZADD', KEYS[5], 'GT', value, member)
        else
            local mine = own
            if mine == 0 then mine = epoch end
            local known = redis.call('HGET', KEYS[6], member)
            local theirs, state = 0, 'enabled'
            if known then
                local split = string.find(known, ' ', 1, true)
                theirs, state = tonumber(string.sub(known, 1, split - 1)), string.sub(known, split + 1)
            end
            -- What is revoked stays revoked; else the later epoch counts.
            if state ~= 'revoked' and (value == 'revoked' or mine >= theirs) then state = value end
            redis.call('HSET', KEYS[6], member, string.format('%.0f', math.max(mine, theirs)) .. ' ' .. state)
        end
        entry[#entry + 1] = 'c'
        entry[#entry + 1] = ARGV[at + 4]
        at = at + 5
    end
    redis.call('SET', KEYS[2], text)
    last = redis.call(unpack(entry))
    answer[#answer + 1] = text
end
return answer
