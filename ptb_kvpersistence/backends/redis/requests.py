"""What each request means to a server: which script, with what, and how its answer is read; no I/O.

Requests about stores as a whole are in ``stores``, those about named locks and bots in ``leases``.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME, lease_lost, store_gone
from ptb_kvpersistence.backends.redis import layout, scripts
from ptb_kvpersistence.backends.redis.inspection import check_format
from ptb_kvpersistence.backends.redis.leases import Leases
from ptb_kvpersistence.backends.redis.routing import Router, Task
from ptb_kvpersistence.backends.redis.stores import Stores
from ptb_kvpersistence.backends.redis.wire import Blocked
from ptb_kvpersistence.errors import BusyError, DatabaseError, LeaseLostError, LockTimeoutError, ReentryError
from ptb_kvpersistence.model import (
    Address,
    Change,
    Changes,
    ChangesReply,
    Checked,
    CheckedReply,
    Commit,
    CommitReply,
    Count,
    DomainInfo,
    GetMany,
    ListDomains,
    Page,
    PageReply,
    Put,
    RangeCheck,
    SetDomain,
    Sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ptb_kvpersistence.backends.redis.layout import StoreKeys
    from ptb_kvpersistence.backends.redis.settings import Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation
    from ptb_kvpersistence.model import Delete, Record, VersionCheck

SWEEP_EVERY: Final = 30_000
"""Milliseconds between two sweeps of a store that is written to."""
MAX_STEPS: Final = 100_000
"""Mutations, checks and fences of one commit; while it is applied the server does nothing else."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Size of one commit, half of what Redis takes by default for a single value."""

_APPLIED: Final = frozenset({b"ok", b"again", b"before"})


class _Lane:
    """A sender of commits, one after the other; a server applies each number of it at most once."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex.encode()
        self.number = 0


class Held:
    """An exclusive session as the server knows it.

    Attributes:
        token: Under which it is held.
        store: Of which store.
        link: What listens to its channel.
        settings: Of domains, to be set when it ends.
    """

    def __init__(self, store: int, link: Any) -> None:
        self.store = store
        self.token = uuid.uuid4().hex.encode()
        self.link = link
        self.settings: dict[str, int | None] = {}


class Requests:
    """Makes conversations of requests; one for each backend.

    Attributes:
        channel: Gets a message with each commit.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = settings.name
        self._settings = settings
        self.router = Router(settings)
        self.channel = f"{settings.prefix}:changed".encode()
        self._registry = layout.RegistryKeys(settings.prefix)
        self._keys: dict[int, StoreKeys] = {}
        self._lanes: list[_Lane] = []
        self._knows_format = False
        stores = Stores(settings, self.router, self.keys, self._registry, self.channel)
        leases = Leases(self.router, self.keys)
        self._handlers: dict[type, Callable[[Any, Task], Conversation[Any]]] = {
            GetMany: self._read,
            Page: self._read,
            Count: self._read,
            Checked: self._checked,
            Changes: self._changes,
            Commit: self._commit,
            SetDomain: self._set_domain,
            ListDomains: self._list_domains,
            Sweep: self._sweep,
            **stores.handlers,
            **leases.handlers,
        }
        self._stores = stores

    def after_fork(self) -> None:
        """Leave to the parent what identifies it."""
        self._lanes = []

    def keys(self, store: int) -> StoreKeys:
        """The keys of a store."""
        if store not in self._keys:
            self._keys[store] = layout.StoreKeys(self._settings.prefix, store)
        return self._keys[store]

    def perform(self, request: Any, limit: float) -> Conversation[Any]:
        """Perform a request within ``limit`` seconds."""
        task = Task(limit)
        if not self._knows_format:
            yield from self._check_format(task)
        return (yield from self._handlers[type(request)](request, task))

    def _check_format(self, task: Task) -> Conversation[None]:
        stored = yield from self.router.command(self._registry.slot, b"GET", self._registry.format, task=task)
        check_format(self._settings, stored)
        self._knows_format = True

    # --- reading ---

    def _run_read(self, store: int, parts: Iterable[bytes], checks: Any, task: Task) -> Conversation[list[Any]]:
        keys = self.keys(store)
        arguments = (*_checks(checks), *parts)
        reply = yield from self.router.run(scripts.READ, keys.slot, keys.reading, arguments, task, writes=False)
        if reply[0] == b"gone":
            raise store_gone()
        return reply  # type: ignore[no-any-return]

    def _read(self, request: Any, task: Task) -> Conversation[Any]:
        reply = yield from self._run_read(request.store, _question(request), (), task)
        return _answer(request, reply)

    def _checked(self, request: Checked, task: Task) -> Conversation[CheckedReply]:
        reply = yield from self._run_read(request.store, _question(request.request), request.checks, task)
        head, at = int(reply[1]), int(reply[2])
        if reply[0] == b"failed":
            return CheckedReply(None, is_current=False, head=head, at=at)
        return CheckedReply(_answer(request.request, reply), is_current=True, head=head, at=at)

    def _changes(self, request: Changes, task: Task) -> Conversation[ChangesReply]:
        keys = self.keys(request.store)
        domains = request.domains
        arguments = (
            b"%d" % request.since,
            b"%d" % request.limit,
            *((b"-1",) if domains is None else (b"%d" % len(domains), *map(str.encode, domains))),
        )
        needed = (keys.meta, keys.entries, keys.feed, keys.tombstones, keys.expiry)
        reply = yield from self.router.run(scripts.CHANGES, keys.slot, needed, arguments, task, writes=False)
        if reply[0] == b"gone":
            raise store_gone()
        _, incarnation, horizon, head, more, items, expires_in = reply
        changes = [_change(*items[start : start + 4]) for start in range(0, len(items), 4)]
        horizon = int(horizon)
        head = int(head) if more else max(int(head), horizon)
        ends = int(expires_in) if expires_in else None
        return ChangesReply(changes, head, horizon, incarnation.decode(), bool(more), ends)

    # --- writing ---

    def _commit(
        self, commit: Commit, task: Task, token: bytes = b"", settings: dict[str, int | None] | None = None
    ) -> Conversation[CommitReply]:
        keys = self.keys(commit.store)
        parts = self._commit_parts(commit, token, settings or {})
        try:
            lane = self._lanes.pop()
        except IndexError:  # looking first would not do: other threads take some too
            lane = _Lane()
        lane.number += 1
        parts[0] = b"%d" % lane.number
        lane_key = keys.lane(lane.name)
        while True:
            reply = yield from self.router.run(
                scripts.COMMIT, keys.slot, (*keys.writing, lane_key), parts, task, writes=True
            )
            if reply[0] != b"busy":
                break
            try:
                yield Blocked(commit.store)
                has_time = yield from task.pause()
            except ReentryError:
                yield from self._forbid(lane, keys, task)
                raise
            if not has_time:
                yield from self._forbid(lane, keys, task)
                raise BusyError(f"{self._name}: somebody has the store to himself; try again, or end what holds it")
        if reply[0] not in _APPLIED:
            yield from self._forbid(lane, keys, task)
        self._lanes.append(lane)
        return _committed(reply, commit)

    def _forbid(self, lane: _Lane, keys: StoreKeys, task: Task) -> Conversation[None]:
        """See that an original that is still under way is not applied after we have said that nothing was."""
        if task.cut is not None:
            lane.number += 1
            last, late = b"%d 0 " % lane.number, Task(task.limit)
            yield from self.router.command(
                keys.slot, b"SET", keys.lane(lane.name), last, b"PX", b"600000", task=late, writes=True
            )

    def _commit_parts(self, commit: Commit, token: bytes, settings: dict[str, int | None]) -> list[bytes]:
        parts = [
            b"",
            (commit.id or "").encode(),
            token,
            b"%d" % commit.store,
            b"%d" % SWEEP_EVERY,
            b"%d" % TOMBSTONE_LIFETIME,
            b"%d" % len(commit.fences),
        ]
        for name, held in commit.fences:
            parts += (name.encode(), b"%d" % held)
        parts += _checks(commit.checks)
        parts.append(b"%d" % len(settings))
        for domain, keep in settings.items():
            parts += (domain.encode(), b"" if keep is None else b"%d" % keep)
        parts += _mutations(commit.mutations)
        parts.append(self.channel)
        steps = len(commit.mutations) + len(commit.checks) + len(commit.fences)
        if steps > MAX_STEPS or sum(map(len, parts)) > MAX_BYTES:
            raise DatabaseError(
                f"{self._name}: a commit takes at most {MAX_STEPS} mutations and checks, and {MAX_BYTES >> 20} MiB; "
                "nothing was written, commit it in parts"
            )
        return parts

    def _set_domain(self, request: SetDomain, task: Task) -> Conversation[None]:
        yield from self._commit(Commit(request.store, ()), task, settings={request.domain: request.keep})

    def _list_domains(self, request: ListDomains, task: Task) -> Conversation[tuple[DomainInfo, ...]]:
        keys = self.keys(request.store)
        stored = yield from self.router.command(keys.slot, b"HGETALL", keys.domains, task=task)
        if not stored and not (yield from self.router.command(keys.slot, b"HEXISTS", keys.meta, b"head", task=task)):
            raise store_gone()
        found = ((stored[at].decode(), int(stored[at + 1])) for at in range(0, len(stored), 2))
        return tuple(map(DomainInfo._make, sorted(found)))

    def _sweep(self, request: Sweep, task: Task) -> Conversation[int]:
        done = 0
        for info in (yield from self._stores.ids(task)).values():
            keys = self.keys(info)
            arguments = (
                b"%d" % max(0, request.limit - done),
                b"%d" % TOMBSTONE_LIFETIME,
                b"%d" % info,
                self.channel,
            )
            reply = yield from self.router.run(scripts.SWEEP, keys.slot, keys.writing, arguments, task, writes=True)
            done += reply[1] if reply[0] == b"ok" else 0
        return done

    # --- exclusive sessions ---

    def begin(self, store: int, limit: float, node_limit: float) -> Conversation[Held]:
        """Begin an exclusive session, waiting up to ``limit`` seconds for others."""
        # A caller who does not want to wait for others has to wait for the server all the same.
        reaching, waiting = Task(max(limit, node_limit)), Task(limit)
        keys = self.keys(store)
        if not self._knows_format:
            yield from self._check_format(reaching)
        yield from self.router.prepare(reaching)
        held: Held | None = None
        while True:
            link = yield from self.router.listen(keys.slot, reaching)
            if held is None or held.link is not link:
                held = Held(store, link)
            reply = yield from self.router.run(
                scripts.BEGIN,
                keys.slot,
                (keys.meta, keys.exclusive),
                (held.token, link.channel),
                reaching,
                writes=False,
            )
            if reply[0] == b"ok":
                return held
            if reply[0] == b"gone":
                raise store_gone()
            if reply[0] == b"silent":
                link.is_broken = True
                pausing = reaching
            else:
                yield Blocked(store)
                pausing = waiting
            if not (yield from pausing.pause()):
                raise LockTimeoutError(
                    f"{self._name} was locked by others for {limit:g} s; try again, or allow a longer timeout"
                )

    def end(self, held: Held, commit: Commit | None, limit: float) -> Conversation[None]:
        """End an exclusive session with a commit, or without."""
        task, keys = Task(limit), self.keys(held.store)
        if commit is None:
            yield from self.router.run(scripts.RELEASE, keys.slot, (keys.exclusive,), (held.token,), task, writes=False)
            return
        yield from self._commit(commit, task, held.token, held.settings)


def _question(request: GetMany | Page | Count) -> Iterable[bytes]:
    if isinstance(request, GetMany):
        members = [layout.address(domain, key) for domain, key in request.addresses]
        return (b"get", b"%d" % len(members), *members)
    first, behind = layout.bounds(request.range)
    if isinstance(request, Count):
        return (b"count", first, behind)
    return (b"page", first, behind, b"%d" % request.limit, b"1" if request.reverse else b"0")


def _answer(request: GetMany | Page | Count, reply: list[Any]) -> Any:
    if isinstance(request, GetMany):
        return tuple(map(layout.record, reply[3]))
    if isinstance(request, Count):
        return reply[3]
    members = reply[3]
    items: list[tuple[str, Record]] = []
    skipped = len(request.range.domain.encode()) + 1
    for start in range(0, len(members), 2):
        record = layout.record(members[start + 1])
        assert record is not None  # noqa: S101 - only those that are there are listed
        items.append((members[start][skipped:].decode(), record))
    return PageReply(items, bool(reply[4]))


def _change(member: bytes, version: bytes, raw: bytes | None, deleted_at: bytes) -> Change:
    domain, key = layout.split(member)
    record = layout.record(raw)
    if record is None:
        return Change(domain, key, None, int(version), int(deleted_at))
    return Change(domain, key, *record)


def _checks(checks: tuple[VersionCheck | RangeCheck, ...]) -> list[bytes]:
    ranges: list[bytes] = []
    members: list[bytes] = []
    versions: list[bytes] = []
    for check in checks:
        if isinstance(check, RangeCheck):
            ranges += (*layout.bounds(check.range), b"%d" % check.since, b"%d" % check.at)
        else:
            members.append(layout.address(check.domain, check.key))
            versions.append(b"%d" % check.version)
    return [b"%d" % (len(ranges) // 4), *ranges, b"%d" % len(members), *members, *versions]


def _mutations(mutations: tuple[Put | Delete, ...]) -> list[bytes]:
    lives: list[bytes] = []
    pairs: list[bytes] = []
    for mutation in mutations:
        pairs.append(layout.address(mutation.domain, mutation.key))
        if isinstance(mutation, Put):
            pairs.append(mutation.value)
            lives.append(_life(mutation.ttl, mutation.expires_at))
        else:
            pairs.append(b"")
            lives.append(b"d")
    return [b"%d" % len(mutations), b"%b," % b",".join(lives) if any(lives) else b"", *pairs]


def _life(ttl: int | None, expires_at: int | None) -> bytes:
    if expires_at is None:
        return b"" if ttl is None else b"t%d" % ttl
    return b"e%d" % expires_at if ttl is None else b"b%d %d" % (ttl, expires_at)


def _committed(reply: list[Any], commit: Commit) -> CommitReply:
    status = reply[0]
    if status in {b"ok", b"again"}:
        return CommitReply(_versions(int(reply[1]), reply[2], len(commit.mutations)))
    if status == b"before":
        return CommitReply(applied_before=True)
    if status == b"range":
        return CommitReply(range_conflict=True)
    if status == b"conflict":
        pairs = reply[1]
        return CommitReply(
            conflicts={
                Address(*layout.split(pairs[start])): layout.record(pairs[start + 1])
                for start in range(0, len(pairs), 2)
            }
        )
    raise _failure(status, reply)


def _failure(status: bytes, reply: list[Any]) -> Exception:
    if status == b"gone":
        return store_gone()
    if status == b"fence":
        return lease_lost(reply[1].decode())
    if status == b"lost":
        return LeaseLostError(
            "the exclusive session ended when its connection did, and somebody else has written; nothing was written"
        )
    return DatabaseError(f"a server gave an answer that is not known here: {status.decode()}")


def _versions(first: int, marks: bytes, count: int) -> tuple[int, ...]:
    if not marks:
        return tuple(range(first, first + count))
    versions = []
    for mark in marks:
        versions.append(first if mark == 0x31 else 0)
        first += mark == 0x31
    return tuple(versions)
