"""The Lua scripts for stores as a whole, named locks and attached bots; the rules of ``scripts`` hold here too."""

from __future__ import annotations

from typing import Final

from ptb_kvpersistence.backends.redis.lua import BASE, Script

LEASE: Final = Script(
    BASE,
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
    BASE,
    """
-- ok | ok {name holder attached_at last_seen is_attached ...}
local META, BOTS = KEYS[1], KEYS[2]
local what, fresh = take(), now - tonumber(take())
local function read(field)
  local since, seen, is_attached = string.match(redis.call('HGET', BOTS, field) or '', '^(%d+) (%d+) (%d)$')
  if since and tonumber(seen) <= fresh then is_attached = '0' end
  return since, seen, is_attached
end
local function name_of(field) return string.match(field, '^([^%z]*)%z') end
if what == 'list' then
  local items = {}
  for _, field in ipairs(redis.call('HKEYS', BOTS)) do
    local since, seen, is_attached = read(field)
    local name = name_of(field)
    for _, item in ipairs({name, string.sub(field, #name + 2), since, seen, is_attached}) do
      items[#items + 1] = item
    end
  end
  return {'ok', items}
end
local name, holder = take(), take()
local mine = name .. '\\0' .. holder
if what == 'attach' then
  if redis.call('HEXISTS', META, 'head') == 0 then return {'ok'} end
  local first = now
  for _, field in ipairs(redis.call('HKEYS', BOTS)) do
    if name_of(field) == name then
      local since, _, is_attached = read(field)
      if is_attached == '1' then
        first = math.min(first, tonumber(since))
      else
        redis.call('HDEL', BOTS, field)
      end
    end
  end
  redis.call('HSET', BOTS, mine, text(first) .. ' ' .. text(now) .. ' 1')
else
  local since = read(mine)
  if since then redis.call('HSET', BOTS, mine, since .. ' ' .. text(now) .. ' 0') end
end
return {'ok'}
""",
)

# --- the list of stores ---

CREATE: Final = Script(
    BASE,
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
    BASE,
    """
-- ok incarnation | gone
local META = KEYS[1]
local incarnation, doomed = unpack(redis.call('HMGET', META, 'incarnation', 'doomed'))
if doomed then return {'gone'} end
if not incarnation then
  incarnation = take()
  local store, channel = take(), take()
  -- It begins above all versions of an earlier store of that name, which are no place to go on from.
  local head = text(micros)
  redis.call('HSET', META, 'incarnation', incarnation, 'head', head, 'horizon', head, 'swept_at', text(now))
  redis.call('PUBLISH', channel, store .. ' ' .. head)
end
return {'ok', incarnation}
""",
)

DOOM: Final = Script(
    BASE,
    """
-- ok | gone | used {bot ...}
local META, EXCLUSIVE, BOTS = KEYS[1], KEYS[9], KEYS[#KEYS]
local request, force, fresh, store, channel = take(), take(), now - tonumber(take()), take(), take()
local doomed = redis.call('HGET', META, 'doomed')
if doomed then return {doomed == request and 'ok' or 'gone'} end
local held = redis.call('GET', EXCLUSIVE)
if held and redis.call('PUBSUB', 'NUMSUB', string.match(held, '%S+$'))[2] > 0 then return {'busy'} end
if force ~= '1' then
  local used, known = {}, {}
  for _, field in ipairs(redis.call('HKEYS', BOTS)) do
    local seen, is_attached = string.match(redis.call('HGET', BOTS, field), '^%d+ (%d+) (%d)$')
    local name = string.match(field, '^([^%z]*)%z')
    if is_attached == '1' and tonumber(seen) > fresh and not known[name] then
      known[name] = true
      used[#used + 1] = name
    end
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

ALL: Final = (LEASE, BOT, CREATE, RENAME, FORGET, PREPARE, DOOM)
