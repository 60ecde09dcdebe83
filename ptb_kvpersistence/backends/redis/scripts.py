"""The Lua scripts that read and change what is in a store, each atomic; how they are sent is not here.

A script checks everything before its first write, since Redis keeps what a failed script has written. Values are opaque
to it. Numbers leave Lua as text made by ``%.0f``: versions stay below 2^53, where a double is exact. Every key comes
in KEYS, as a cluster demands.

Each script answers with a list whose first element says what happened: ``ok``, ``gone`` (there is no such store),
``busy`` (somebody has an exclusive session), and others that stand beside the script.
"""

from __future__ import annotations

from typing import Final

from ptb_kvpersistence.backends.redis.lua import BASE, CHECKS, WRITING, Script

COMMIT: Final = Script(
    BASE,
    CHECKS,
    WRITING,
    """
-- ok first marks | again first marks | before | stale | lost | fence name | range | conflict member raw ...
local LANE = KEYS[11]
local number, id, token, store = take(), take(), take(), take()
local sweep_every, forget_after = tonumber(take()), tonumber(take())
local sent, held = unpack(redis.call('MGET', LANE, EXCLUSIVE))
if sent then
  local last, first, marks = string.match(sent, '^(%d+) (%d+) (%d*)$')
  if last == number then return {'again', first, marks} end
  if tonumber(last) > tonumber(number) then return {'stale'} end
end
local head, _, swept_at = unpack(redis.call('HMGET', META, 'head', 'horizon', 'swept_at'))
if not head then return {'gone'} end
head = tonumber(head)
local held_by, lives = holder(held)
if token ~= '' and held_by ~= token then return {'lost'} end
if id ~= '' and redis.call('ZSCORE', COMMITS, id) then
  if token ~= '' then redis.call('DEL', EXCLUSIVE) end
  return {'before'}
end
if token == '' and lives then return {'busy'} end
local function refuse(reply)
  if token ~= '' then redis.call('DEL', EXCLUSIVE) end
  return reply
end
for _ = 1, tonumber(take()) do
  local name, wanted = take(), take()
  local lease = redis.call('HGET', LEASES, name) or ''
  local held, expires = string.match(lease, '^(%d+) (%d+) ')
  if held ~= wanted or tonumber(expires) <= now then return refuse({'fence', name}) end
end
local failed = failed_checks()
if failed == true then return refuse({'range'}) end
if failed then return refuse({'conflict', failed}) end

-- What is to be written is worked out before anything is.
local keep, settings = {}, tonumber(take())
local has_settings = settings > 0 or redis.call('EXISTS', DOMAINS) == 1
local set_domains, unset_domains = {}, {}
for _ = 1, settings do
  local domain, milliseconds = take(), take()
  keep[domain] = tonumber(milliseconds) or false
  if milliseconds == '' then
    unset_domains[#unset_domains + 1] = domain
  else
    set_domains[#set_domains + 1] = domain
    set_domains[#set_domains + 1] = milliseconds
  end
end
local function kept(member)
  local domain = string.match(member, '^[^%z]*')
  if keep[domain] == nil then keep[domain] = tonumber(redis.call('HGET', DOMAINS, domain) or '') or false end
  return keep[domain]
end
local function lifetime(life)
  local ttl, ends = string.match(life, '^b(%d+) (%-?%d+)$')
  if ttl then return tonumber(ttl), tonumber(ends) end
  local number = tonumber(string.sub(life, 2))
  if string.sub(life, 1, 1) == 'e' then return nil, number end
  return number, now + number
end
local first, time = math.max(head + 1, micros), text(now)
local endless = ' ' .. time .. ' - -\\n'
-- By member: when it will end, true for never, false for deleted.
local fresh = {}
local version, entries, feed, marks, gaps = first, {}, {}, {}, false
local mutations, next_life, puts = tonumber(take()), string.gmatch(take(), '([^,]*),'), 0
for i = 1, mutations do
  local member, value, life = take(), take(), next_life() or ''
  local number, is_done = text(version), true
  if life == 'd' then
    local known = fresh[member]
    if known == nil then
      is_done = is_alive(redis.call('HGET', ENTRIES, member))
    else
      is_done = known == true or known and known > now
    end
    if is_done then fresh[member] = false end
  else
    local header, ttl, ends = endless, nil, nil
    if life ~= '' then
      ttl, ends = lifetime(life)
    elseif has_settings then
      ttl = kept(member)
      ends = ttl and now + ttl
    end
    if ends then header = table.concat({'', time, ttl and text(ttl) or '-', text(ends)}, ' ') .. '\\n' end
    fresh[member] = ends or true
    puts = puts + 2
    entries[puts - 1] = member
    entries[puts] = number .. header .. value
  end
  if is_done then
    local done = 2 * (version - first)
    feed[done + 1] = number
    feed[done + 2] = member
    version = version + 1
  else
    gaps = true
  end
  marks[i] = is_done and '1' or '0'
end

-- Written from here on. Of several mutations of one key the last one counts, here as for the server.
if held_by then redis.call('DEL', EXCLUSIVE) end
many('HSET', DOMAINS, set_domains)
many('HDEL', DOMAINS, unset_domains)
local has_new = many('HSET', ENTRIES, entries) > 0
local members, index, expiry, timeless, buried = {}, {}, {}, {}, {}
for member, ends in pairs(fresh) do
  if ends then
    members[#members + 1] = member
    if has_new then
      index[#index + 1] = '0'
      index[#index + 1] = member
    end
    if ends == true then
      timeless[#timeless + 1] = member
    else
      expiry[#expiry + 1] = text(ends)
      expiry[#expiry + 1] = member
    end
  else
    buried[#buried + 1] = member
  end
end
many('ZADD', INDEX, index)
if redis.call('EXISTS', TOMBSTONES) == 1 then many('ZREM', TOMBSTONES, members) end
if redis.call('EXISTS', EXPIRY) == 1 then many('ZREM', EXPIRY, timeless) end
many('ZADD', EXPIRY, expiry)
if #buried > 0 then bury(buried, first) end
many('ZADD', FEED, feed)
local written = version > first
if written then
  head = version - 1
  redis.call('HSET', META, 'head', text(head))
end
if id ~= '' then redis.call('ZADD', COMMITS, time, id) end
local shown = gaps and table.concat(marks) or ''
redis.call('SET', LANE, number .. ' ' .. text(first) .. ' ' .. shown, 'PX', 600000)
if now - tonumber(swept_at) >= sweep_every then
  local _, new_head, swept = sweep(200, head, now - forget_after)
  head, written = new_head, written or swept
end
if written then redis.call('PUBLISH', take(), store .. ' ' .. text(head)) end
return {'ok', text(first), shown}
""",
)

READ: Final = Script(
    BASE,
    CHECKS,
    """
-- ok head time ... | failed head time
local head = redis.call('HGET', META, 'head')
if not head then return {'gone'} end
if failed_checks() then return {'failed', head, text(now)} end
local kind = take()
if kind == 'get' then
  local members = {}
  for i = 1, tonumber(take()) do members[i] = take() end
  local found = fetch('HMGET', ENTRIES, members, 1, #members)
  if may_have_ended(#members) then
    for i, raw in ipairs(found) do
      if not is_alive(raw) then found[i] = false end
    end
  end
  return {'ok', head, text(now), found}
end
local first, behind = take(), take()
if kind == 'count' then
  local counted = redis.call('ZLEXCOUNT', INDEX, '[' .. first, '(' .. behind)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', text(now))) do
    if is_inside(member, first, behind) then counted = counted - 1 end
  end
  return {'ok', head, text(now), counted}
end
local limit, is_reverse = tonumber(take()), take() == '1'
local low, high, items, all_live = '[' .. first, '(' .. behind, {}, not may_have_ended(limit)
repeat
  local step = math.min(limit + 1 - #items / 2, 4000)
  local members
  if is_reverse then
    members = redis.call('ZREVRANGEBYLEX', INDEX, high, low, 'LIMIT', 0, text(step))
    high = '(' .. (members[#members] or '')
  else
    members = redis.call('ZRANGEBYLEX', INDEX, low, high, 'LIMIT', 0, text(step))
    low = '(' .. (members[#members] or '')
  end
  for i, raw in ipairs(fetch('HMGET', ENTRIES, members, 1, #members)) do
    if all_live and raw or is_alive(raw) then
      items[#items + 1] = members[i]
      items[#items + 1] = raw
    end
  end
until #members < step or #items / 2 > limit
local more = 0
if #items / 2 > limit then
  more = 1
  items[#items], items[#items - 1] = nil, nil
end
return {'ok', head, text(now), items, more}
""",
)

CHANGES: Final = Script(
    BASE,
    """
-- ok incarnation horizon head more {member version raw deleted_at ...} expires_in
local META, ENTRIES, FEED, TOMBSTONES, EXPIRY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local incarnation, horizon, head = unpack(redis.call('HMGET', META, 'incarnation', 'horizon', 'head'))
if not head then return {'gone'} end
local from, limit, count = '(' .. take(), tonumber(take()), tonumber(take())
local wanted = {}
for _ = 1, count do wanted[take()] = true end
local members, versions = {}, {}
if count ~= 0 then
  repeat
    local step = math.max(1, math.min(limit + 1, 2000))
    local found = redis.call('ZRANGEBYSCORE', FEED, from, '+inf', 'WITHSCORES', 'LIMIT', 0, text(step))
    for i = 1, #found, 2 do
      if count < 0 or wanted[string.match(found[i], '^[^%z]*')] then
        members[#members + 1] = found[i]
        versions[#members] = found[i + 1]
      end
    end
    from = '(' .. (found[#found] or '')
  until #found < 2 * step or #members > limit
end
local more = 0
if #members > limit then
  more = 1
  for i = #members, limit + 1, -1 do members[i] = nil end
  head = versions[limit]
end
local items = {}
for i, raw in ipairs(fetch('HMGET', ENTRIES, members, 1, #members)) do
  items[#items + 1] = members[i]
  items[#items + 1] = versions[i]
  items[#items + 1] = raw
  items[#items + 1] = raw and '' or redis.call('ZSCORE', TOMBSTONES, members[i]) or text(now)
end
local ends = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')[2]
return {'ok', incarnation, horizon, head, more, items, ends and text(tonumber(ends) - now) or ''}
""",
)

SWEEP: Final = Script(
    BASE,
    CHECKS,
    WRITING,
    """
-- ok count
local head = redis.call('HGET', META, 'head')
if not head then return {'gone'} end
local held_by, lives = holder(redis.call('GET', EXCLUSIVE))
if lives then return {'busy'} end
if held_by then redis.call('DEL', EXCLUSIVE) end
local done, new_head, swept = sweep(tonumber(take()), tonumber(head), now - tonumber(take()))
local store, channel = take(), take()
if swept then redis.call('PUBLISH', channel, store .. ' ' .. text(new_head)) end
return {'ok', done}
""",
)

BEGIN: Final = Script(
    """
-- ok | silent (nobody listens to the channel of who asks)
if redis.call('HEXISTS', KEYS[1], 'head') == 0 then return {'gone'} end
local function listens(channel) return redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 end
local held = redis.call('GET', KEYS[2])
if held then
  local token, channel = string.match(held, '^(%S+) (%S+)$')
  if token == ARGV[1] then return {'ok'} end
  if listens(channel) then return {'busy'} end
end
if not listens(ARGV[2]) then return {'silent'} end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
return {'ok'}
"""
)

RELEASE: Final = Script(
    """
-- ok
local token = string.match(redis.call('GET', KEYS[1]) or '', '^%S+')
if token == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ok'}
"""
)


ALL: Final = (COMMIT, READ, CHANGES, SWEEP, BEGIN, RELEASE)
