"""Transactions: another performer of the same requests.

A transaction answers from its own writes first, and remembers what it read, keys and ranges, as checks. Each read sends
the checks of all earlier ones along, so that the code inside never sees two states of the store; the commit sends them
once more. Nothing is written before the end, no setting of a domain either. No I/O here: the two faces run these
generators.

Until the commit only this machine's clock can tell when an own write expires: ``ttl`` counts from the write on, and
what has expired inside is not shown again. What lives to see the commit has all of its ``ttl`` from there on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ptb_kvpersistence.backends.base import lifetime
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.errors import ConflictError, KVPersistenceError, StoreClosedError
from ptb_kvpersistence.model import (
    Address,
    Checked,
    Commit,
    CommitReply,
    Count,
    Delete,
    GetMany,
    KeyRange,
    Page,
    PageReply,
    Put,
    RangeCheck,
    Record,
    SetDomain,
    VersionCheck,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.store.operations import Settings

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class _Write(NamedTuple):
    """A write that waits for the commit: its version is a placeholder, its times are milliseconds since the epoch."""

    mutation: Put | Delete
    version: int
    at: int
    expires_at: int | None

    def is_over(self, now: int) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def record(self) -> Record | None:
        if isinstance(self.mutation, Delete) or self.is_over(now_ms()):
            return None
        return Record(self.mutation.value, self.version, self.at, self.mutation.ttl, self.expires_at)

    def final(self, now: int) -> Put | Delete:
        if self.expires_at is not None and isinstance(self.mutation, Put) and self.is_over(now):
            return self.mutation._replace(ttl=None, expires_at=self.expires_at)
        return self.mutation


class Savepoint(NamedTuple):
    """What was written so far."""

    writes: dict[Address, _Write]
    settings: dict[str, int | None]
    to_be_stored: set[Settings]


class Buffer:
    """What one transaction has read and written so far.

    Attributes:
        store: Id of the store.
        is_exclusive: Nobody else can write meanwhile, so reads need no checks.
        is_over: The transaction has ended: what were written now would be lost.
    """

    def __init__(self, store: int, *, is_exclusive: bool, durable: bool) -> None:
        self.store = store
        self.is_exclusive = is_exclusive
        self.is_over = False
        self._durable = durable
        self._writes: dict[Address, _Write] = {}
        self._reads: dict[Address, Record | None] = {}
        self._ranges: dict[KeyRange, RangeCheck] = {}
        self._settings: dict[str, int | None] = {}
        self._to_be_stored: set[Settings] = set()
        self._steps = 0

    def savepoint(self) -> Savepoint:
        """Remember the writes so far, for a nested transaction."""
        return Savepoint(dict(self._writes), dict(self._settings), set(self._to_be_stored))

    def roll_back_to(self, savepoint: Savepoint) -> None:
        """Forget the writes since the savepoint; what was read stays read."""
        self._writes, self._settings, self._to_be_stored = savepoint

    def commit(self) -> Commit | None:
        """Give the commit of everything written; None if nothing was, but for settings outside of a session."""
        if not self._writes and not (self._settings and self.is_exclusive):
            return None
        now = now_ms()
        mutations = [write.final(now) for write in self._writes.values()]
        if self._settings:
            mutations = list(map(self._kept, mutations))
        return Commit(self.store, tuple(mutations), self._checks(), None, self._durable)

    def _kept(self, mutation: Put | Delete) -> Put | Delete:
        """Give what is written the lifetime that the setting of this very transaction will give it."""
        if isinstance(mutation, Put) and mutation.ttl is None and mutation.expires_at is None:
            return mutation._replace(ttl=self._settings.get(mutation.domain))
        return mutation

    def finish(self, commit: Commit | None) -> Generator[Requested[Any], Any, None]:
        """End a transaction that has no session: commit, and then write the settings.

        No commit takes both. Of the two orders this one leaves nothing behind when the commit is refused.

        Raises:
            ConflictError: Something that was read has been changed by somebody else.
        """
        if commit is not None and not (yield commit).is_committed:
            raise conflict()
        if not self._settings:
            return
        try:
            yield from self.settle()
        except KVPersistenceError as error:
            if commit is None:
                raise
            _logger.warning("a transaction is committed, but the keep of a domain is yet to be stored: %s", error)
        else:
            self.settled()

    def settle(self) -> Generator[Requested[Any], Any, None]:
        """Write the settings; in a session these are rolled back with it."""
        for domain, keep in self._settings.items():
            yield SetDomain(self.store, domain, keep)

    def settled(self) -> None:
        """Note that the settings are stored."""
        for settings in self._to_be_stored:
            settings.is_stored = True

    def _checks(self) -> tuple[VersionCheck | RangeCheck, ...]:
        if self.is_exclusive:
            return ()
        reads = (VersionCheck(*address, record.version if record else 0) for address, record in self._reads.items())
        return (*reads, *self._ranges.values())

    def at_once(self, request: Any) -> Any:
        """Answer a request that needs nothing from the store, as most writes; None if it is another one.

        Raises:
            StoreClosedError: The transaction has ended.
        """
        if self.is_over:
            message = "the transaction has ended; use the store itself, or begin another one"
            raise StoreClosedError(message)
        if type(request) is Commit and not request.checks and len(request.mutations) == 1:
            (mutation,) = request.mutations
            return CommitReply((self._put(mutation),)) if type(mutation) is Put else None
        if type(request) is SetDomain:
            self._settings[request.domain] = request.keep
            return self._to_be_stored
        return None

    def perform(self, request: Any) -> Generator[Requested[Any], Any, Any]:
        """Answer a request from the writes, and from the store where these do not know.

        Raises:
            ConflictError: Something read before has been changed by somebody else.
        """
        if isinstance(request, GetMany):
            return self._get_many(request)
        if isinstance(request, Page):
            return self._page(request)
        if isinstance(request, Count):
            return self._count(request)
        if isinstance(request, Commit):
            return self._write(request)
        return _pass_on(request)

    def _ask(self, request: GetMany | Page | Count) -> Generator[Requested[Any], Any, tuple[Any, int, int]]:
        if self.is_exclusive:
            reply = yield request
            return reply, 0, 0
        checked = yield Checked(self.store, request, self._checks())
        if not checked.is_current:
            raise conflict()
        return checked.reply, checked.head, checked.at

    def _get_many(self, request: GetMany) -> Generator[Requested[Any], Any, tuple[Record | None, ...]]:
        writes = self._writes
        unknown = tuple([one for one in request.addresses if one not in writes and not self._is_known(one)])
        if unknown:
            records, _, _ = yield from self._ask(GetMany(self.store, unknown))
            self._reads.update(zip(unknown, records, strict=True))
        return tuple([self._current(address) for address in request.addresses])

    def _is_known(self, address: Address) -> bool:
        record = self._reads.get(address)
        if record is None or not self.is_exclusive or record.expires_at is None:
            return address in self._reads
        # Nobody else can change it, but time can; without the lock, a check would find that out.
        return record.expires_at > now_ms()

    def _current(self, address: Address) -> Record | None:
        written = self._writes.get(address)
        return self._reads[address] if written is None else written.record()

    def _page(self, request: Page) -> Generator[Requested[Any], Any, PageReply]:
        own = self._own(request.range)
        # Each own write may hide one entry of the store.
        reply, head, at = yield from self._ask(
            Page(self.store, request.range, request.limit + len(own), request.reverse)
        )
        keys = request.range
        if reply.more:
            last = reply.items[-1][0]
            keys = keys._replace(start=last) if request.reverse else keys._replace(stop=last + "\0")
        self._note_range(keys, head, at)
        merged = dict(reply.items)
        for key, record in own.items():
            if reply.more and not (keys.start <= key and (keys.stop is None or key < keys.stop)):
                continue
            if record is None:
                merged.pop(key, None)
            else:
                merged[key] = record
        items = sorted(merged.items(), key=lambda item: item[0], reverse=request.reverse)
        return PageReply(items[: request.limit], reply.more or len(items) > request.limit)

    def _own(self, keys: KeyRange) -> dict[str, Record | None]:
        return {
            address.key: write.record()
            for address, write in self._writes.items()
            if address.domain == keys.domain
            and keys.start <= address.key
            and (keys.stop is None or address.key < keys.stop)
        }

    def _note_range(self, keys: KeyRange, head: int, at: int) -> None:
        # The first look at a range counts: later ones have shown that it still held.
        if not self.is_exclusive:
            self._ranges.setdefault(keys, RangeCheck(keys, head, at))

    def _count(self, request: Count) -> Generator[Requested[Any], Any, int]:
        own = self._own(request.range)
        counted, head, at = yield from self._ask(request)
        self._note_range(request.range, head, at)
        before = yield from self._stored(tuple(Address(request.range.domain, key) for key in own))
        gone = sum(1 for record in before if record is not None)
        return int(counted) - gone + sum(1 for record in own.values() if record is not None)

    def _stored(self, addresses: tuple[Address, ...]) -> Generator[Requested[Any], Any, tuple[Record | None, ...]]:
        unknown = tuple(address for address in addresses if not self._is_known(address))
        if unknown:
            records, _, _ = yield from self._ask(GetMany(self.store, unknown))
            self._reads.update(zip(unknown, records, strict=True))
        return tuple(self._reads[address] for address in addresses)

    def _write(self, request: Commit) -> Generator[Requested[Any], Any, CommitReply]:
        """Check and buffer what an operation would commit; versions are placeholders until the end."""
        conflicts: dict[Address, Record | None] = {}
        for check in request.checks:
            if isinstance(check, VersionCheck):
                (record,) = yield from self._get_many(GetMany(self.store, (Address(check.domain, check.key),)))
                if (record.version if record else 0) != check.version:
                    conflicts[Address(check.domain, check.key)] = record
        if conflicts:
            return CommitReply(conflicts=conflicts)
        deletes = tuple(Address(*mutation) for mutation in request.mutations if isinstance(mutation, Delete))
        present = yield from self._get_many(GetMany(self.store, deletes))
        is_present = dict(zip(deletes, present, strict=True))
        versions = []
        for mutation in request.mutations:
            address = Address(mutation.domain, mutation.key)
            if isinstance(mutation, Delete) and is_present[address] is None:
                versions.append(0)
                continue
            versions.append(self._put(mutation))
        return CommitReply(tuple(versions))

    def _put(self, mutation: Put | Delete) -> int:
        self._steps += 1
        now = now_ms()
        expires_at = lifetime(mutation, now, None)[1] if isinstance(mutation, Put) else None
        self._writes[Address(mutation.domain, mutation.key)] = _Write(mutation, -self._steps, now, expires_at)
        return -self._steps


def _pass_on(request: Requested[Any]) -> Generator[Requested[Any], Any, Any]:
    return (yield request)


def conflict() -> ConflictError:
    """Build the error for a transaction whose reads no longer hold."""
    return ConflictError("the transaction read what somebody else has changed since; run it again, or with store.run()")
