"""The Lua scripts that read and change a store, each atomic; how they are sent is not here.

A script checks everything before its first write, since Redis keeps what a failed script has written. Values are opaque
to it. Numbers leave Lua as text made by ``%.0f``: versions stay below 2^53, where a double is exact. Every key comes
in KEYS, as a cluster demands.

Each script answers with a list whose first element says what happened: ``ok``, ``gone`` (there is no such store),
``busy`` (somebody has an exclusive session), and others that stand beside the script.
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script, known to a server by the digest of its text."""

    def __init__(self, *parts: str) -> None:
        self.text = b""
        self.digest = b""
        self.set_text("\n".join(parts))

    def set_text(self, text: str) -> None:
        """Take another text; tests do so to stop the clock."""
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text).hexdigest().encode()  # noqa: S324 - the name that Redis gives it


_BASE: Final = """
local t = redis.call('TIME')
local micros = t[1] * 1000000 + t[2]
local now = math.floor(micros / 1000)
local position = 0
local function take()
  position = position + 1
  return ARGV[position]
end
local function text(number) return string.format('%.0f', number) end
local function many(command, key, list)
  local sum = 0
  for i = 1, #list, 4000 do
    local got = redis.call(command, key, unpack(list, i, math.min(i + 3999, #list)))
    if type(got) == 'number' then sum = sum + got end
  end
  return sum
end
local function fetch(key, fields)
  if #fields <= 4000 then
    if #fields == 0 then return {} end
    return redis.call('HMGET', key, unpack(fields))
  end
  local all = {}
  for i = 1, #fields, 4000 do
    local got = redis.call('HMGET', key, unpack(fields, i, math.min(i + 3999, #fields)))
    for j = 1, #got do all[i + j - 1] = got[j] end
  end
  return all
end
local function is_alive(raw)
  if not raw then return false end
  local expires = string.match(raw, '^%d+ %d+ %S+ (%S+)\\n')
  return expires == '-' or tonumber(expires) > now
end
"""

_CHECKS: Final = """
local META, ENTRIES, INDEX, FEED, EXPIRY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- Lua's own comparison follows the server's locale; members are ordered by their bytes.
local function is_less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local function is_inside(member, first, behind)
  return not is_less(member, first) and is_less(member, behind)
end
local function has_changed(first, behind, since, at)
  local from = '(' .. since
  repeat
    local found = redis.call('ZRANGEBYSCORE', FEED, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 500)
    for i = 1, #found, 2 do
      if is_inside(found[i], first, behind) then return true end
    end
    from = '(' .. (found[#found] or '')
  until #found < 1000
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '(' .. at, text(now))) do
    if is_inside(member, first, behind) then return true end
  end
  return false
end
-- Gives nothing when all hold, true when a range has changed, or a list of members and what is stored there now.
local function failed_checks()
  local members, versions, ranges = {}, {}, {}
  for _ = 1, tonumber(take()) do
    if take() == 'v' then
      members[#members + 1] = take()
      versions[#members] = take()
    else
      ranges[#ranges + 1] = {take(), take(), take(), take()}
    end
  end
  for _, range in ipairs(ranges) do
    if has_changed(unpack(range)) then return true end
  end
  local conflicts
  for i, raw in ipairs(fetch(ENTRIES, members)) do
    if not is_alive(raw) then raw = false end
    if (raw and string.match(raw, '^%d+') or '0') ~= versions[i] then
      conflicts = conflicts or {}
      conflicts[#conflicts + 1] = members[i]
      conflicts[#conflicts + 1] = raw
    end
  end
  return conflicts
end
"""

_WRITING: Final = """
local TOMBSTONES, DOMAINS, COMMITS, EXCLUSIVE, LEASES = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- Who holds an exclusive session listens to its channel on this very node; when nobody does, the holder is gone.
local function holder()
  local held = redis.call('GET', EXCLUSIVE)
  if not held then return nil end
  local token, channel = string.match(held, '^(%S+) (%S+)$')
  return token, redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0
end
local function bury(members, version)
  local feed, times = {}, {}
  for i, member in ipairs(members) do
    feed[2 * i - 1], feed[2 * i] = text(version + i - 1), member
    times[2 * i - 1], times[2 * i] = text(now), member
  end
  many('HDEL', ENTRIES, members)
  many('ZREM', INDEX, members)
  many('ZREM', EXPIRY, members)
  many('ZADD', FEED, feed)
  many('ZADD', TOMBSTONES, times)
end
local function sweep(limit, head, before)
  local ended = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', text(now), 'LIMIT', 0, limit)
  if #ended > 0 then
    local version = math.max(head + 1, micros)
    bury(ended, version)
    head = version + #ended - 1
    redis.call('HSET', META, 'head', text(head))
  end
  local old = redis.call('ZRANGEBYSCORE', TOMBSTONES, '-inf', '(' .. text(before), 'LIMIT', 0, 4000)
  if #old > 0 then
    local horizon = tonumber(redis.call('HGET', META, 'horizon'))
    for _, member in ipairs(old) do
      horizon = math.max(horizon, tonumber(redis.call('ZSCORE', FEED, member) or '0'))
    end
    redis.call('HSET', META, 'horizon', text(horizon))
    many('ZREM', FEED, old)
    many('ZREM', TOMBSTONES, old)
  end
  redis.call('ZREMRANGEBYSCORE', COMMITS, '-inf', '(' .. text(before))
  redis.call('HSET', META, 'swept_at', text(now))
  return #ended + #old, head, #ended > 0
end
"""

COMMIT: Final = Script(
    _BASE,
    _CHECKS,
    _WRITING,
    """
-- ok first marks | again first marks | before | stale | lost | fence name | range | conflict member raw ...
local LANE = KEYS[11]
local number, id, token, store = take(), take(), take(), take()
local sweep_every, forget_after = tonumber(take()), tonumber(take())
local sent = redis.call('GET', LANE)
if sent then
  local last, first, marks = string.match(sent, '^(%d+) (%d+) (%d*)$')
  if last == number then return {'again', first, marks} end
  if tonumber(last) > tonumber(number) then return {'stale'} end
end
local head, _, swept_at = unpack(redis.call('HMGET', META, 'head', 'horizon', 'swept_at'))
if not head then return {'gone'} end
head = tonumber(head)
local held_by, lives = holder()
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
local first = math.max(head + 1, micros)
local version, order, state, marks, gaps = first, {}, {}, {}, false
local mutations = tonumber(take())
local time = text(now)
for i = 1, mutations do
  local member, life, value = take(), take(), take()
  local known = state[member]
  local mark = '1'
  if life == 'd' then
    local is_there
    if known then
      is_there = known.value and not (known.ends and known.ends <= now)
    else
      is_there = is_alive(redis.call('HGET', ENTRIES, member))
    end
    if is_there then
      if not known then order[#order + 1] = member end
      state[member] = {version = version}
    else
      mark, gaps = '0', true
    end
  else
    local ttl, ends
    if life ~= '' then
      ends = tonumber(string.sub(life, 2))
      if string.sub(life, 1, 1) == 't' then
        ttl = ends
        ends = now + ttl
      end
    elseif has_settings then
      ttl = kept(member)
      ends = ttl and now + ttl
    end
    if not known then order[#order + 1] = member end
    state[member] = {
      value = table.concat({text(version), time, ttl and text(ttl) or '-', ends and text(ends) or '-'}, ' ')
        .. '\\n' .. value,
      version = version, ends = ends,
    }
  end
  marks[i] = mark
  if mark == '1' then version = version + 1 end
end

-- Written from here on.
if held_by then redis.call('DEL', EXCLUSIVE) end
many('HSET', DOMAINS, set_domains)
many('HDEL', DOMAINS, unset_domains)
local entries, members, feed, index, expiry, timeless, buried = {}, {}, {}, {}, {}, {}, {}
for _, member in ipairs(order) do
  local new = state[member]
  feed[#feed + 1] = text(new.version)
  feed[#feed + 1] = member
  if new.value then
    members[#members + 1] = member
    entries[#entries + 1] = member
    entries[#entries + 1] = new.value
    index[#index + 1] = '0'
    index[#index + 1] = member
    if new.ends then
      expiry[#expiry + 1] = text(new.ends)
      expiry[#expiry + 1] = member
    else
      timeless[#timeless + 1] = member
    end
  else
    buried[#buried + 1] = member
  end
end
if many('HSET', ENTRIES, entries) > 0 then many('ZADD', INDEX, index) end
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
    _BASE,
    _CHECKS,
    """
-- ok head time ... | failed head time
local head = redis.call('HGET', META, 'head')
if not head then return {'gone'} end
if failed_checks() then return {'failed', head, text(now)} end
local kind = take()
if kind == 'get' then
  local members = {}
  for i = 1, tonumber(take()) do members[i] = take() end
  local found = fetch(ENTRIES, members)
  for i, raw in ipairs(found) do
    if not is_alive(raw) then found[i] = false end
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
local low, high, items = '[' .. first, '(' .. behind, {}
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
  for i, raw in ipairs(fetch(ENTRIES, members)) do
    if is_alive(raw) then
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
    _BASE,
    """
-- ok incarnation horizon head more {member version raw deleted_at ...}
local META, ENTRIES, FEED, TOMBSTONES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
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
for i, raw in ipairs(fetch(ENTRIES, members)) do
  items[#items + 1] = members[i]
  items[#items + 1] = versions[i]
  items[#items + 1] = raw
  items[#items + 1] = raw and '' or redis.call('ZSCORE', TOMBSTONES, members[i]) or text(now)
end
return {'ok', incarnation, horizon, head, more, items}
""",
)

SWEEP: Final = Script(
    _BASE,
    _CHECKS,
    _WRITING,
    """
-- ok count
local head = redis.call('HGET', META, 'head')
if not head then return {'gone'} end
local held_by, lives = holder()
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

LEASE: Final = Script(
    _BASE,
    """
-- ok token | taken holder ahead | yes | no
local META, LEASES, ENDS, LINES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local what, name, request = take(), take(), take()
local token, expires, acquired_by, released_by, holder =
  string.match(redis.call('HGET', LEASES, name) or '0 0 - - ', '^(%d+) (%d+) (%S+) (%S+) (.*)$')
local is_held = holder ~= '' and tonumber(expires) > now
local function write(new_holder, ends, acquirer, releaser)
  redis.call('HSET', LEASES, name, table.concat({token, text(ends), acquirer, releaser, new_holder}, ' '))
  redis.call('ZADD', ENDS, text(math.max(ends, now)), name)
end
local function write_line(line)
  local parts = {}
  for _, waiter in ipairs(line) do parts[#parts + 1] = text(waiter[2]) .. ' ' .. waiter[1] .. '\\0' end
  if #parts > 0 then redis.call('HSET', LINES, name, table.concat(parts)) else redis.call('HDEL', LINES, name) end
end
local function read_line()
  local line = {}
  for seen_at, waiter in string.gmatch(redis.call('HGET', LINES, name) or '', '(%d+) ([^%z]*)%z') do
    line[#line + 1] = {waiter, tonumber(seen_at)}
  end
  return line
end
if what == 'renew' then
  local wanted, ttl = take(), tonumber(take())
  if not is_held or token ~= wanted then return {'no'} end
  write(holder, now + ttl, acquired_by, released_by)
  return {'yes'}
end
local asker = take()
if what == 'release' then
  local wanted = take()
  local line = read_line()
  for i = #line, 1, -1 do
    if line[i][1] == asker then
      table.remove(line, i)
      write_line(line)
    end
  end
  if wanted ~= '' and wanted == token and released_by == request then return {'yes'} end
  if not is_held or token ~= wanted then return {'no'} end
  write('', 0, '-', request)
  return {'yes'}
end
local ttl, waits = tonumber(take()), take() == '1'
local patience, forget_after = tonumber(take()), tonumber(take())
if is_held and acquired_by == request then return {'ok', token} end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', '(' .. text(now - forget_after), 'LIMIT', 0, 10)) do
  if old ~= name then
    redis.call('HDEL', LEASES, old)
    redis.call('HDEL', LINES, old)
    redis.call('ZREM', ENDS, old)
  end
end
local line, rest, ahead, mine = read_line(), {}, 0, nil
for _, waiter in ipairs(line) do
  if waiter[1] == asker then mine = waiter end
  if not mine and waiter[2] > now - patience then ahead = ahead + 1 end
  if waiter[1] ~= asker and waiter[2] > now - forget_after then rest[#rest + 1] = waiter end
end
if is_held or ahead > 0 then
  if waits then
    if mine then mine[2] = now else line[#line + 1] = {asker, now} end
    write_line(line)
  end
  return {'taken', is_held and holder or false, ahead}
end
write_line(rest)
token = text(math.max(tonumber(token) + 1, micros))
write(asker, now + ttl, request, '-')
if redis.call('HEXISTS', META, 'head') == 0 then
  for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], text(ttl + 3600000)) end
end
return {'ok', token}
""",
)

BOT: Final = Script(
    _BASE,
    """
-- ok | ok {name attached_at last_seen is_attached ...}
local META, BOTS = KEYS[1], KEYS[2]
local what, fresh = take(), now - tonumber(take())
local function read(name)
  return string.match(redis.call('HGET', BOTS, name) or '', '^(%d+) (%d+) (%d)$')
end
if what == 'list' then
  local names, items = redis.call('HKEYS', BOTS), {}
  for _, name in ipairs(names) do
    local since, seen, is_attached = read(name)
    if tonumber(seen) <= fresh then is_attached = '0' end
    for _, item in ipairs({name, since, seen, is_attached}) do items[#items + 1] = item end
  end
  return {'ok', items}
end
local name = take()
local since, seen, is_attached = read(name)
if what == 'attach' then
  if redis.call('HEXISTS', META, 'head') == 0 then return {'ok'} end
  if is_attached ~= '1' or tonumber(seen) <= fresh then since = text(now) end
  redis.call('HSET', BOTS, name, since .. ' ' .. text(now) .. ' 1')
elseif since then
  redis.call('HSET', BOTS, name, since .. ' ' .. text(now) .. ' 0')
end
return {'ok'}
""",
)

# --- the list of stores ---

CREATE: Final = Script(
    _BASE,
    """
-- ok id creator
local FORMAT, STORES, LAST = KEYS[1], KEYS[2], KEYS[3]
local name, creator, format = take(), take(), take()
local found = redis.call('HGET', STORES, name)
if not found then
  local id = text(math.max(tonumber(redis.call('GET', LAST) or '0') + 1, micros))
  redis.call('SET', FORMAT, format, 'NX')
  redis.call('SET', LAST, id)
  found = id .. ' ' .. creator
  redis.call('HSET', STORES, name, found)
end
local id, by = string.match(found, '^(%d+) (.*)$')
return {'ok', id, by}
""",
)

RENAME: Final = Script(
    """
-- ok | unknown | exists
local STORES, old, new, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local function id_of(name) return string.match(redis.call('HGET', STORES, name) or '', '^%d+') end
if id_of(old) ~= id then
  return {id_of(new) == id and 'ok' or 'unknown'}
end
if id_of(new) then return {'exists'} end
redis.call('HSET', STORES, new, redis.call('HGET', STORES, old))
redis.call('HDEL', STORES, old)
return {'ok'}
"""
)

FORGET: Final = Script(
    """
-- ok
local STORES, name, id = KEYS[1], ARGV[1], ARGV[2]
if string.match(redis.call('HGET', STORES, name) or '', '^%d+') == id then redis.call('HDEL', STORES, name) end
return {'ok'}
"""
)

PREPARE: Final = Script(
    _BASE,
    """
-- ok incarnation | gone
local META = KEYS[1]
local incarnation, doomed = unpack(redis.call('HMGET', META, 'incarnation', 'doomed'))
if doomed then return {'gone'} end
if not incarnation then
  incarnation = take()
  redis.call('HSET', META, 'incarnation', incarnation, 'head', '0', 'horizon', '0', 'swept_at', text(now))
end
return {'ok', incarnation}
""",
)

DOOM: Final = Script(
    _BASE,
    """
-- ok | gone | used {bot ...}
local META, EXCLUSIVE, BOTS = KEYS[1], KEYS[9], KEYS[#KEYS]
local request, force, fresh, store, channel = take(), take(), now - tonumber(take()), take(), take()
local doomed = redis.call('HGET', META, 'doomed')
if doomed then return {doomed == request and 'ok' or 'gone'} end
local held = redis.call('GET', EXCLUSIVE)
if held and redis.call('PUBSUB', 'NUMSUB', string.match(held, '%S+$'))[2] > 0 then return {'busy'} end
if force ~= '1' then
  local used = {}
  for _, name in ipairs(redis.call('HKEYS', BOTS)) do
    local seen, is_attached = string.match(redis.call('HGET', BOTS, name), '^%d+ (%d+) (%d)$')
    if is_attached == '1' and tonumber(seen) > fresh then used[#used + 1] = name end
  end
  if #used > 0 then return {'used', used} end
end
redis.call('UNLINK', unpack(KEYS))
redis.call('HSET', META, 'doomed', request)
redis.call('PEXPIRE', META, 86400000)
redis.call('PUBLISH', channel, store .. ' doomed')
return {'ok'}
""",
)

ALL: Final = (COMMIT, READ, CHANGES, SWEEP, BEGIN, RELEASE, LEASE, BOT, CREATE, RENAME, FORGET, PREPARE, DOOM)
