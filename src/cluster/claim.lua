-- Uses tokens that may be used once.
--
-- KEYS: dataset, used
-- ARGV: the data set's name, then for each token: member, score
-- Answers for each token 1 if this was its first use, 0 if not; nothing where the data set is another.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local answer = {}
for at = 2, #ARGV, 2 do
    answer[#answer + 1] = redis.call('ZADD', KEYS[2], 'NX', ARGV[at + 1], ARGV[at])
end
return answer
