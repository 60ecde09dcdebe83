"""The memory engine: the same requests on dicts, for tests and for bots that need no disk.

A named memory database (``memory:name``) is one per process; an unnamed one belongs to its opener.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import (
    TOMBSTONE_LIFETIME,
    in_use,
    lifetime,
    no_such_store,
    store_exists,
    store_gone,
)
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.memory.leases import MemoryLeases
from ptb_kvpersistence.errors import BusyError
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
    DeleteStore,
    DomainInfo,
    GetMany,
    KeyRange,
    ListDomains,
    ListStores,
    OpenStore,
    Page,
    PageReply,
    Put,
    R,
    RangeCheck,
    Record,
    RenameStore,
    Requested,
    SetDomain,
    StoreInfo,
    Sweep,
    VersionCheck,
)

if TYPE_CHECKING:
    from collections.abc import Callable


_WRITES: Final = (Commit, DeleteStore, RenameStore, SetDomain, Sweep)


SWEEP_EVERY: Final = 30_000
"""Milliseconds between two sweeps."""


@dataclass
class _StoreData:
    info: StoreInfo
    horizon: int = 0
    changes: dict[tuple[str, str], Change] = field(default_factory=dict)
    """In version order: a write takes its key out and puts it back at the end."""
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Sorted keys per domain, tombstones included; made when first asked for."""
    keep: dict[str, int] = field(default_factory=dict)
    """Milliseconds for which a domain keeps its entries."""
    expiries: list[tuple[int, tuple[str, str]]] = field(default_factory=list)
    """A heap of when entries expire; some had other lifetimes since, or are gone."""

    def note_expiry(self, at: int, address: tuple[str, str]) -> None:
        """Note when an entry expires that was written."""
        heappush(self.expiries, (at, address))
        if len(self.expiries) > 2 * len(self.changes) + 100:
            self.expiries = [(change.expires_at, key) for key, change in self.changes.items() if change.expires_at]
            heapify(self.expiries)

    def next_expiry(self) -> int | None:
        """Give the time at which the next entry expires, or has expired that was not swept yet."""
        while self.expiries:
            at, address = self.expiries[0]
            change = self.changes.get(address)
            if change is not None and change.expires_at == at:
                return at
            heappop(self.expiries)
        return None


class MemoryEngine:
    """Performs requests on dicts, one at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = process.gate()
        self._version = 0
        self._owner: object = None
        self._pid = process.pid
        self._swept_at = now_ms()
        self._stores: dict[int, _StoreData] = {}
        self._commits: dict[str, int] = {}
        self._leases = MemoryLeases()
        self._handlers: dict[type, Callable[[Any], Any]] = {
            GetMany: self._get_many,
            Page: self._page,
            Count: self._count,
            Commit: self._commit,
            Changes: self._changes,
            Checked: self._checked,
            OpenStore: self._open_store,
            ListStores: self._list_stores,
            RenameStore: self._rename_store,
            DeleteStore: self._delete_store,
            SetDomain: self._set_domain,
            ListDomains: self._list_domains,
            Sweep: self._sweep,
            **self._leases.handlers,
        }

    @property
    def version(self) -> int:
        """The latest version in the database."""
        return self._version

    def perform(self, request: Requested[R], owner: object = None) -> R:
        """Perform a request.

        Raises:
            BusyError: It writes, and somebody other than ``owner`` has an exclusive session.
        """
        with self._lock:
            if self._is_owned and owner is not self._owner and self._writes(request):
                message = f"{self._name} is locked by an exclusive transaction; try again, or end it"
                raise BusyError(message)
            return cast("R", self._handlers[type(request)](request))

    def _writes(self, request: Requested[Any]) -> bool:
        if isinstance(request, OpenStore):
            return request.mode != "open" and self._find(request.name) is None
        return isinstance(request, _WRITES)

    @property
    def _is_owned(self) -> bool:
        # A fork has a copy of its own, and nothing of what goes on in its parent.
        return self._owner is not None and self._pid == process.pid

    def begin(self, owner: object) -> None:
        """Begin an exclusive session; BusyError while there is one."""
        with self._lock:
            if self._is_owned:
                message = f"{self._name} is locked by an exclusive transaction; try again, or end it"
                raise BusyError(message)
            self._owner, self._pid = owner, process.pid

    def end(self) -> None:
        """End the exclusive session."""
        self._owner = None

    def _get_many(self, request: GetMany) -> tuple[Record | None, ...]:
        now, data = now_ms(), self._data(request.store)
        return tuple(_alive(data.changes.get(address), now) for address in request.addresses)

    def _checked(self, request: Checked) -> CheckedReply:
        at, data = now_ms(), self._data(request.store)
        if self._failed_checks(data, request.checks, at) is not None:
            return CheckedReply(None, is_current=False, head=self._version, at=at)
        reply = self._handlers[type(request.request)](request.request)
        return CheckedReply(reply, is_current=True, head=self._version, at=at)

    def _range(self, data: _StoreData, keys: KeyRange) -> list[str]:
        ordered = data.keys.get(keys.domain)
        if ordered is None:
            ordered = data.keys[keys.domain] = sorted(key for domain, key in data.changes if domain == keys.domain)
        stop = len(ordered) if keys.stop is None else bisect_left(ordered, keys.stop)
        return ordered[bisect_left(ordered, keys.start) : stop]

    def _alive_in(self, request: Page | Count) -> list[tuple[str, Record]]:
        now, data, domain = now_ms(), self._data(request.store), request.range.domain
        found = ((key, _alive(data.changes[domain, key], now)) for key in self._range(data, request.range))
        return [(key, record) for key, record in found if record is not None]

    def _page(self, request: Page) -> PageReply:
        items = self._alive_in(request)
        if request.reverse:
            items.reverse()
        return PageReply(items[: request.limit], len(items) > request.limit)

    def _count(self, request: Count) -> int:
        return len(self._alive_in(request))

    def _changes(self, request: Changes) -> ChangesReply:
        data = self._data(request.store)
        found: list[Change] = []
        for change in reversed(data.changes.values()):
            if change.version <= request.since:
                break
            if request.domains is None or change.domain in request.domains:
                found.append(change)
        found.reverse()
        more = len(found) > request.limit
        found = found[: request.limit]
        newest = max(data.horizon, next(reversed(data.changes.values())).version if data.changes else 0)
        head = found[-1].version if more else newest
        expires_at = data.next_expiry()
        expires_in = None if expires_at is None else expires_at - now_ms()
        return ChangesReply(found, head, data.horizon, data.info.incarnation, more, expires_in)

    def _commit(self, request: Commit) -> CommitReply:
        now, data = now_ms(), self._data(request.store)
        if request.id is not None and request.id in self._commits:
            return CommitReply(applied_before=True)
        self._leases.check(request.store, request.fences)
        failed = self._failed_checks(data, request.checks, now)
        if failed is not None:
            return failed
        if request.id is not None:
            self._commits[request.id] = now
        if now >= self._swept_at + SWEEP_EVERY:
            self._swept_at = now
            self._sweep(Sweep())
        return CommitReply(tuple(self._mutate(data, mutation, now) for mutation in request.mutations))

    def _failed_checks(
        self, data: _StoreData, checks: tuple[VersionCheck | RangeCheck, ...], now: int
    ) -> CommitReply | None:
        conflicts: dict[Address, Record | None] = {}
        for check in checks:
            if isinstance(check, RangeCheck):
                if self._has_changed(data, check, now):
                    return CommitReply(range_conflict=True)
                continue
            domain, key, version = check
            change = data.changes.get((domain, key))
            if (change.version if _is_alive(change, now) else 0) != version:
                conflicts[Address(domain, key)] = _alive(change, now)
        return CommitReply(conflicts=conflicts) if conflicts else None

    def _has_changed(self, data: _StoreData, check: RangeCheck, now: int) -> bool:
        changes = (data.changes[check.range.domain, key] for key in self._range(data, check.range))
        return any(change.version > check.since or check.at < (change.expires_at or 0) <= now for change in changes)

    def _mutate(self, data: _StoreData, mutation: Any, now: int) -> int:
        if isinstance(mutation, Put):
            domain, key, value, *_ = mutation
            life = lifetime(mutation, now, data.keep.get(domain))
            return self._write(data, domain, key, value, now, life)
        domain, key = mutation
        if not _is_alive(data.changes.get((domain, key)), now):
            return 0
        return self._write(data, domain, key, None, now)

    def _write(
        self,
        data: _StoreData,
        domain: str,
        key: str,
        value: bytes | None,
        now: int,
        life: tuple[int | None, int | None] = (None, None),
    ) -> int:
        self._version += 1
        address = (domain, key)
        if data.changes.pop(address, None) is None:
            data.keys.pop(domain, None)
        data.changes[address] = Change(domain, key, value, self._version, now, *life)
        if life[1] is not None:
            data.note_expiry(life[1], address)
        return self._version

    def _sweep(self, request: Sweep) -> int:
        now, done = now_ms(), 0
        for data in self._stores.values():
            for change in list(data.changes.values()):
                if change.value is None and change.updated_at < now - TOMBSTONE_LIFETIME:
                    del data.changes[change.domain, change.key]
                    data.keys.pop(change.domain, None)
                    data.horizon = max(data.horizon, change.version)
                    done += 1
                elif done < request.limit and change.value is not None and 0 < (change.expires_at or 0) <= now:
                    self._write(data, change.domain, change.key, None, now)
                    done += 1
        self._commits = {commit: at for commit, at in self._commits.items() if at >= now - TOMBSTONE_LIFETIME}
        return done

    def _data(self, store: int) -> _StoreData:
        if store not in self._stores:
            raise store_gone()
        return self._stores[store]

    def _find(self, name: str) -> _StoreData | None:
        return next((data for data in self._stores.values() if data.info.name == name), None)

    def _named(self, name: str) -> _StoreData:
        data = self._find(name)
        if data is None:
            raise no_such_store(name, self._name)
        return data

    def _open_store(self, request: OpenStore) -> StoreInfo:
        found = self._find(request.name)
        if found is not None:
            if request.mode == "create":
                raise store_exists(request.name, self._name)
            return found.info
        if request.mode == "open":
            raise no_such_store(request.name, self._name)
        self._version += 1
        info = StoreInfo(self._version, request.name, uuid.uuid4().hex)
        # Versions of an earlier store of that name are no place to go on from.
        self._stores[info.id] = _StoreData(info, horizon=self._version)
        return info

    def _rename_store(self, request: RenameStore) -> None:
        data = self._named(request.name)
        if self._find(request.new_name) is not None:
            raise store_exists(request.new_name, self._name)
        if not request.force:
            self._refuse_while_attached(data.info)
        data.info = data.info._replace(name=request.new_name)

    def _delete_store(self, request: DeleteStore) -> None:
        data = self._named(request.name)
        if not request.force:
            self._refuse_while_attached(data.info)
        del self._stores[data.info.id]
        self._leases.forget(data.info.id)
        self._version += 1  # for peek()

    def _refuse_while_attached(self, store: StoreInfo) -> None:
        bots = self._leases.attached(store.id)
        if bots:
            raise in_use(store.name, tuple(info.name for info in bots))

    def _set_domain(self, request: SetDomain) -> None:
        keep = self._data(request.store).keep
        keep.pop(request.domain, None)
        if request.keep is not None:
            keep[request.domain] = request.keep

    def _list_domains(self, request: ListDomains) -> tuple[DomainInfo, ...]:
        return tuple(map(DomainInfo._make, sorted(self._data(request.store).keep.items())))

    def _list_stores(self, _request: ListStores) -> tuple[StoreInfo, ...]:
        return tuple(sorted((data.info for data in self._stores.values()), key=lambda info: info.name))


def _is_alive(change: Change | None, now: int) -> TypeGuard[Change]:
    return change is not None and change.value is not None and not 0 < (change.expires_at or 0) <= now


def _alive(change: Change | None, now: int) -> Record | None:
    if not _is_alive(change, now):
        return None
    return Record(cast("bytes", change.value), change.version, change.updated_at, change.ttl, change.expires_at)


_named: dict[str, MemoryEngine] = {}
_named_lock = process.gate()


def named_engine(name: str) -> MemoryEngine:
    """Give the engine of a memory database: one per name and process, a new one without a name."""
    if not name:
        return MemoryEngine("memory:")
    with _named_lock:
        return _named.setdefault(name, MemoryEngine(f"memory:{name}"))
