"""Parts that several Lua scripts have in common, and how a server knows a script; see ``scripts`` for the rules."""

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


BASE: Final = """
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
local function fetch(command, key, list, first, last)
  if last - first < 4000 then
    if last < first then return {} end
    return redis.call(command, key, unpack(list, first, last))
  end
  local all = {}
  for from = first, last, 4000 do
    local got = redis.call(command, key, unpack(list, from, math.min(from + 3999, last)))
    for i = 1, #got do all[from - first + i] = got[i] end
  end
  return all
end
local function is_alive(raw)
  if not raw then return false end
  local expires = string.match(raw, '^%d+ %d+ %S+ (%S+)\\n')
  return expires == '-' or tonumber(expires) > now
end
"""

CHECKS: Final = """
local META, ENTRIES, INDEX, FEED, EXPIRY, TOMBSTONES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
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
-- One look at all ends is quicker than one at each entry, if there are more than a few.
local function may_have_ended(count)
  return count < 5 or redis.call('ZCOUNT', EXPIRY, '-inf', text(now)) > 0
end
-- The feed tells versions more quickly than entries with their values do, as long as nothing there has ended.
local function are_current(first, last)
  if may_have_ended(last - first + 1) then return false end
  local latest, buried = fetch('ZMSCORE', FEED, ARGV, first, last), {}
  if redis.call('EXISTS', TOMBSTONES) == 1 then buried = fetch('ZMSCORE', TOMBSTONES, ARGV, first, last) end
  for i = 1, #latest do
    if (not buried[i] and latest[i] or '0') ~= ARGV[last + i] then return false end
  end
  return true
end
-- Gives nothing when all hold, true when a range has changed, or a list of members and what is stored there now.
local function failed_checks()
  for _ = 1, tonumber(take()) do
    if has_changed(take(), take(), take(), take()) then return true end
  end
  local count = tonumber(take())
  local first, last = position + 1, position + count
  position = last + count
  if are_current(first, last) then return nil end
  local conflicts
  for i, raw in ipairs(fetch('HMGET', ENTRIES, ARGV, first, last)) do
    if not is_alive(raw) then raw = false end
    if (raw and string.match(raw, '^%d+') or '0') ~= ARGV[last + i] then
      conflicts = conflicts or {}
      conflicts[#conflicts + 1] = ARGV[first + i - 1]
      conflicts[#conflicts + 1] = raw
    end
  end
  return conflicts
end
"""

WRITING: Final = """
local DOMAINS, COMMITS, EXCLUSIVE, LEASES = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- Who holds an exclusive session listens to its channel on this very node; when nobody does, the holder is gone.
local function holder(held)
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
