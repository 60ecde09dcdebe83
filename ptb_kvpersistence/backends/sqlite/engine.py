"""What each request means on an SQLite connection: one attempt, in one call, on the calling thread.

No waiting, no threads, no event loop; those are the business of the two backends that use this.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME, lifetime, pauses, store_gone
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.sqlite import schema
from ptb_kvpersistence.backends.sqlite.checkpoint import CHECKPOINT_EVERY, Checkpointer
from ptb_kvpersistence.backends.sqlite.failures import refuse_split_pickle, translate, translated
from ptb_kvpersistence.backends.sqlite.leases import Leases
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
from ptb_kvpersistence.backends.sqlite.stores import Stores
from ptb_kvpersistence.errors import BusyError, DatabaseError
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
    GetMany,
    KeyRange,
    ListStores,
    OpenStore,
    Page,
    PageReply,
    Put,
    Record,
    RenameStore,
    Requested,
    SetDomain,
    Sweep,
    VersionCheck,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ptb_kvpersistence.model import RangeCheck

    Lifetimes = Callable[[Put], tuple[int | None, int | None]]
    Checks = tuple[VersionCheck | RangeCheck, ...]

SWEEP_EVERY: Final = 30.0
"""Seconds between two sweeps of a connection that commits."""
SWEEP_STEP: Final = 200
"""Entries per sweep."""

_FIELDS = "CAST(value AS BLOB), version, updated_at, ttl, expires_at"
_ALIVE = "value IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
_GET = f"SELECT {_FIELDS} FROM entries WHERE store = ? AND domain = ? AND key = ? AND {_ALIVE}"
_VERSION = f"SELECT version FROM entries WHERE store = ? AND domain = ? AND key = ? AND {_ALIVE}"
_PUT = """INSERT OR REPLACE INTO entries(store, domain, key, value, updated_at, ttl, expires_at)
    VALUES(?, ?, ?, CAST(? AS TEXT), ?, ?, ?)"""
_EXISTS = "SELECT 1 FROM stores WHERE id = ?"


@dataclass(frozen=True)
class BeginExclusive(Requested[bool]):
    """Take the file's one writer lock, waiting on this thread; reply: whether it was free in time."""

    timeout: float
    durable: bool


@dataclass(frozen=True)
class EndExclusive(Requested[None]):
    """Apply a commit, if given, and give the writer lock back."""

    commit: Commit | None


class EngineConnection(sqlite3.Connection):
    """A connection that performs whole requests.

    aiosqlite runs ``execute(...).fetchall()`` in one hop to its thread; given a request instead of a statement,
    ``execute`` performs it, so that a commit of any size costs one hop.
    """

    engine: Engine | None = None

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """Run a statement, or perform a request."""
        if isinstance(sql, str):
            return super().execute(sql, parameters)
        if self.engine is None:
            message = "the connection has no engine yet"
            raise sqlite3.ProgrammingError(message)
        return _Replies(self.engine.perform(sql))

    def close(self) -> None:
        """Close the connection and what belongs to it."""
        if self.engine is not None:
            self.engine.close()
        super().close()


class _Replies:
    """Looks like a cursor to aiosqlite."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def fetchall(self) -> list[Any]:
        return [self._reply]


def connect(path: str, *, create: bool = True) -> EngineConnection:
    """Open a connection that is ready to perform requests, on any thread but one at a time.

    Raises:
        DatabaseError: The file cannot be used; the subclass says why.
    """
    if create:
        refuse_split_pickle(path)
    with translated(path):
        connection = sqlite3.connect(
            path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=EngineConnection,
            cached_statements=64,
        )
        try:
            is_wal = schema.prepare(connection, path, create=create)
            connection.engine = Engine(connection, path, is_wal=is_wal)
        except BaseException:
            connection.close()
            raise
    return connection


class Engine:
    """Performs requests on one connection.

    Attributes:
        is_wal: Whether the file has a write-ahead log.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, *, is_wal: bool) -> None:
        self._connection = connection
        self._path = path
        self.is_wal = is_wal
        self._is_durable: bool | None = None
        self._checkpointer = Checkpointer(connection, path)
        self._leases: Leases | None = None
        stores = Stores(connection, path, self._writing, self._opened_leases)
        self._handlers: dict[type, Callable[[Any], Any]] = {
            GetMany: self._get_many,
            Page: self._page,
            Count: self._count,
            Commit: self._commit,
            Changes: self._changes,
            Checked: self._checked,
            OpenStore: stores.open,
            ListStores: stores.list,
            RenameStore: stores.rename,
            DeleteStore: self._checkpointed(stores.delete),
            SetDomain: self._set_domain,
            Sweep: self._sweep,
            BeginExclusive: self._begin_exclusive,
            EndExclusive: self._end_exclusive,
        }
        self._queue = WriterQueue(path)
        self._swept_at = time.monotonic()
        self._in_session = False

    def _begin_exclusive(self, request: BeginExclusive) -> bool:
        deadline = time.monotonic() + request.timeout
        if not self._queue.enter(request.timeout):
            return False
        try:
            self._set_durable(request.durable)
            return self._take_writer_lock(deadline)
        except BaseException:
            self._queue.leave()
            raise

    def _take_writer_lock(self, deadline: float) -> bool:
        if self._try_writer_lock():
            return True
        for pause in pauses(deadline - time.monotonic()):
            time.sleep(pause)
            if self._try_writer_lock():
                return True
        self._queue.leave()
        return False

    def _try_writer_lock(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not isinstance(translate(error, self._path), BusyError):
                raise
            return False
        self._in_session = True
        return True

    def _end_exclusive(self, request: EndExclusive) -> None:
        commit, committed = request.commit, False
        self._in_session = False
        try:
            if commit is not None:
                if not self._connection.in_transaction:
                    message = f"{self._path}: SQLite ended the transaction after a failure; nothing of it was written"
                    raise DatabaseError(message)
                self._checkpointer.before_commit(len(commit.mutations))
                with self._fenced(commit):
                    if self._apply(commit).is_committed:
                        self._end("COMMIT")
                        committed = True
        finally:
            try:
                self._end("ROLLBACK")
                self._checkpointer.after_commit(committed=committed)
            finally:
                self._queue.leave()

    def data_version(self) -> int | None:
        """Give a number that changes with the commits of other connections; None where that cannot be had cheaply.

        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        if not self.is_wal:
            return None
        with translated(self._path):
            own = self._connection.total_changes
            return int(self._connection.execute("PRAGMA data_version").fetchall()[0][0]) + (own << 32)

    def perform(self, request: Any) -> Any:
        """Perform a request once.

        Raises:
            BusyError: Another connection has the lock; nothing was done.
            DatabaseError: What SQLite said; nothing was written.
        """
        with translated(self._path):
            # A rollback that failed, on a disk that does, must not keep the connection from ever working again.
            if not self._in_session:
                self._end("ROLLBACK")
            return self._handlers[type(request)](request)

    def close(self) -> None:
        """Close what the engine opened besides its connection."""
        if self._leases is not None:
            self._leases.close()

    def _opened_leases(self) -> Leases:
        if self._leases is None:
            self._leases = Leases(self._path)
        return self._leases

    # --- reading ---

    def _check_store(self, store: int) -> None:
        # Entries go together with their store, so only who found none has to ask.
        if self._connection.execute(_EXISTS, (store,)).fetchone() is None:
            raise store_gone()

    def _get_many(self, request: GetMany) -> tuple[Record | None, ...]:
        now = now_ms()
        if len(request.addresses) == 1:
            domain, key = request.addresses[0]
            row = self._connection.execute(_GET, (request.store, domain, key, now)).fetchone()
            if row is not None:
                return (Record._make(row),)
            self._check_store(request.store)
            return (None,)
        with self._snapshot():
            records = tuple(self._record(request.store, domain, key, now) for domain, key in request.addresses)
            if not any(records):
                self._check_store(request.store)
            return records

    def _record(self, store: int, domain: str, key: str, now: int) -> Record | None:
        row = self._connection.execute(_GET, (store, domain, key, now)).fetchone()
        return None if row is None else Record._make(row)

    def _page(self, request: Page) -> PageReply:
        where, parameters = _range_clause(request.store, request.range)
        order = "DESC" if request.reverse else "ASC"
        rows = self._connection.execute(
            f"SELECT key, {_FIELDS} FROM entries WHERE {where} AND {_ALIVE} ORDER BY key {order} LIMIT ?",
            (*parameters, now_ms(), request.limit + 1),
        ).fetchall()
        items = [(row[0], Record._make(row[1:])) for row in rows[: request.limit]]
        if not items:
            self._check_store(request.store)
        return PageReply(items, len(rows) > request.limit)

    def _count(self, request: Count) -> int:
        where, parameters = _range_clause(request.store, request.range)
        statement = f"SELECT count(*) FROM entries WHERE {where} AND {_ALIVE}"
        counted = int(self._connection.execute(statement, (*parameters, now_ms())).fetchone()[0])
        if not counted:
            self._check_store(request.store)
        return counted

    def _changes(self, request: Changes) -> ChangesReply:
        wanted, domains = "", request.domains or ()
        if request.domains is not None:
            wanted = f"AND domain IN ({', '.join('?' * len(domains))})"
        with self._snapshot():
            info = self._connection.execute(
                # Not the highest version of the entries, which a deleted store takes along.
                "SELECT incarnation, horizon, (SELECT seq FROM sqlite_sequence WHERE name = 'entries')"
                " FROM stores WHERE id = ?",
                (request.store,),
            ).fetchone()
            if info is None:
                raise store_gone()
            rows = self._connection.execute(
                f"SELECT domain, key, {_FIELDS} FROM entries NOT INDEXED"
                f" WHERE store = ? AND version > ? {wanted} ORDER BY version LIMIT ?",
                (request.store, request.since, *domains, request.limit + 1),
            ).fetchall()
        incarnation, horizon, head = info
        more = len(rows) > request.limit
        changes = list(map(Change._make, rows[: request.limit]))
        if more:
            head = changes[-1].version
        return ChangesReply(changes, max(head or 0, horizon), horizon, incarnation, more)

    def _checked(self, request: Checked) -> CheckedReply:
        with self._snapshot():
            (head,) = self._connection.execute("SELECT max(version) FROM entries").fetchone()
            at = now_ms()
            failed = self._failed_checks(request.store, request.checks, at)
            reply = None if failed is not None else self._handlers[type(request.request)](request.request)
        return CheckedReply(reply, failed is None, head or 0, at)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._end("COMMIT")

    # --- writing ---

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._connection.in_transaction:
            yield  # inside an exclusive session, which commits or rolls back
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._end("COMMIT")
        except BaseException:
            self._end("ROLLBACK")
            raise

    def _end(self, statement: str) -> None:
        # SQLite ends the transaction by itself on some errors.
        if self._connection.in_transaction:
            self._connection.execute(statement)

    def _set_durable(self, durable: bool) -> None:
        if durable is not self._is_durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable

    def _commit(self, request: Commit) -> CommitReply:
        if not self._connection.in_transaction:
            self._set_durable(request.durable)
        self._checkpointer.before_commit(len(request.mutations))
        committed = False
        try:
            with self._writing_fenced(request) if request.fences else self._writing():
                reply = self._apply(request)
            committed = reply.is_committed
        finally:
            self._checkpointer.after_commit(committed=committed)
        self._sweep_sometimes()
        return reply

    @contextmanager
    def _writing_fenced(self, request: Commit) -> Iterator[None]:
        # Leases are let go of last, so that none changes hands before the commit.
        with ExitStack() as fences, self._writing():
            fences.enter_context(self._fenced(request))
            yield

    def _fenced(self, request: Commit) -> AbstractContextManager[None]:
        if not request.fences or (request.id is not None and self._is_applied(request.id)):
            return nullcontext()
        return self._opened_leases().fenced(request.store, request.fences)

    def _checkpointed(self, handler: Callable[[DeleteStore], None]) -> Callable[[DeleteStore], None]:
        def perform(request: DeleteStore) -> None:
            self._checkpointer.before_commit(CHECKPOINT_EVERY)
            committed = False
            try:
                handler(request)
                committed = True
            finally:
                self._checkpointer.after_commit(committed=committed)

        return perform

    def _sweep_sometimes(self) -> None:
        """Sweep a little, in the shadow of a commit, once in a while."""
        if not self._connection.in_transaction and time.monotonic() >= self._swept_at + SWEEP_EVERY:
            self._swept_at = time.monotonic()
            with contextlib.suppress(sqlite3.Error):
                self._sweep(Sweep(SWEEP_STEP))

    def _apply(self, request: Commit) -> CommitReply:
        now = now_ms()
        if request.id is not None and self._is_applied(request.id):
            return CommitReply(applied_before=True)
        failed = self._failed_checks(request.store, request.checks, now)
        if failed is not None:
            return failed
        self._check_store(request.store)
        versions = self._put_all(request, now)
        if not versions:
            life = self._lifetimes(request, now)
            versions = tuple(self._mutate(request.store, mutation, now, life) for mutation in request.mutations)
        if request.id is not None:
            self._connection.execute("INSERT INTO commits VALUES(?, ?)", (request.id, now))
        return CommitReply(versions)

    def _is_applied(self, commit: str) -> bool:
        return self._connection.execute("SELECT 1 FROM commits WHERE id = ?", (commit,)).fetchone() is not None

    def _are_current(self, store: int, checks: Checks, now: int) -> bool:
        """Whether all that is checked are versions, and all of them are still there: a version is a row's id."""
        versions = [check.version for check in checks if isinstance(check, VersionCheck) and check.version]
        if len(versions) < len(checks):
            return False
        found: set[Any] = set()
        for start in range(0, len(versions), 500):
            part = versions[start : start + 500]
            marks = ", ".join("?" * len(part))
            where = f"version IN ({marks}) AND store = ? AND {_ALIVE}"
            statement = f"SELECT domain, key, version FROM entries NOT INDEXED WHERE {where}"
            found.update(self._connection.execute(statement, (*part, store, now)))
        return found.issuperset(checks)

    def _failed_checks(self, store: int, checks: Checks, now: int) -> CommitReply | None:
        conflicts: dict[Address, Record | None] = {}
        execute = self._connection.execute
        if self._are_current(store, checks, now):
            return None
        for check in checks:
            if isinstance(check, VersionCheck):
                row = execute(_VERSION, (store, check.domain, check.key, now)).fetchone()
                if (0 if row is None else row[0]) != check.version:
                    record = self._record(store, check.domain, check.key, now)
                    conflicts[Address(check.domain, check.key)] = record
            else:
                where, parameters = _range_clause(store, check.range)
                statement = (
                    f"SELECT 1 FROM entries WHERE {where} AND (version > ? OR (expires_at > ? AND expires_at <= ?))"
                )
                if execute(statement, (*parameters, check.since, check.at, now)).fetchone():
                    return CommitReply(range_conflict=True)
        return CommitReply(conflicts=conflicts) if conflicts else None

    def _put_all(self, request: Commit, now: int) -> tuple[int, ...]:
        """Write a commit that only puts, in one call; AUTOINCREMENT numbers its rows without a gap."""
        life = self._lifetimes(request, now)
        rows = [
            (request.store, put.domain, put.key, put.value, now, *life(put))
            for put in request.mutations
            if isinstance(put, Put)
        ]
        if len(rows) < len(request.mutations) or not rows:
            return ()
        self._connection.executemany(_PUT, rows)
        (last,) = self._connection.execute("SELECT last_insert_rowid()").fetchone()
        return tuple(range(last - len(rows) + 1, last + 1))

    def _lifetimes(self, request: Commit, now: int) -> Lifetimes:
        domains = {mutation.domain for mutation in request.mutations}
        marks = ", ".join("?" * len(domains))
        statement = f"SELECT domain, keep FROM domains WHERE store = ? AND domain IN ({marks}) AND keep IS NOT NULL"
        kept = dict(self._connection.execute(statement, (request.store, *domains)))
        return lambda put: lifetime(put, now, kept.get(put.domain))

    def _mutate(self, store: int, mutation: Any, now: int, life: Lifetimes) -> int:
        execute = self._connection.execute
        if isinstance(mutation, Put):
            row = (store, mutation.domain, mutation.key, mutation.value, now, *life(mutation))
            return int(execute(_PUT, row).lastrowid or 0)
        domain, key = mutation
        if execute(_VERSION, (store, domain, key, now)).fetchone() is None:
            return 0
        return int(execute(_PUT, (store, domain, key, None, now, None, None)).lastrowid or 0)

    def _sweep(self, request: Sweep) -> int:
        now = now_ms()
        with self._writing():
            expired = self._connection.execute(
                "SELECT store, domain, key FROM entries WHERE expires_at <= ? LIMIT ?", (now, request.limit)
            ).fetchall()
            for store, domain, key in expired:
                self._connection.execute(_PUT, (store, domain, key, None, now, None, None))
            old = (now - TOMBSTONE_LIFETIME,)
            self._connection.execute(
                "UPDATE stores SET horizon = max(horizon, coalesce((SELECT max(version) FROM entries"
                " WHERE store = stores.id AND value IS NULL AND updated_at < ?), 0))",
                old,
            )
            dropped = self._connection.execute("DELETE FROM entries WHERE value IS NULL AND updated_at < ?", old)
            self._connection.execute("DELETE FROM commits WHERE committed_at < ?", old)
            return len(expired) + dropped.rowcount

    def _set_domain(self, request: SetDomain) -> None:
        with self._writing():
            self._check_store(request.store)
            self._connection.execute(
                "INSERT OR REPLACE INTO domains(store, domain, keep) VALUES(?, ?, ?)",
                (request.store, request.domain, request.keep),
            )


def _range_clause(store: int, keys: KeyRange) -> tuple[str, tuple[Any, ...]]:
    clause, parameters = "store = ? AND domain = ? AND key >= ?", (store, keys.domain, keys.start)
    if keys.stop is None:
        return clause, parameters
    return f"{clause} AND key < ?", (*parameters, keys.stop)
