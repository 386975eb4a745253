-- Removes members that have been over for a while. A node whose clock is ahead removes no more than Redis' own clock
-- allows.
--
-- KEYS: a sorted set by second
-- ARGV: the node's time, seconds of grace, how many at most
-- Answers how many went.
local now = math.min(tonumber(ARGV[1]), tonumber(redis.call('TIME')[1]))
local horizon = string.format('(%.0f', now - tonumber(ARGV[2]))
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', horizon, 'LIMIT', 0, tonumber(ARGV[3]))
if #over > 0 then redis.call('ZREM', KEYS[1], unpack(over)) end
return #over
