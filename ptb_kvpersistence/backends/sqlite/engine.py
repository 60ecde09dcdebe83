"""What each request means on an SQLite connection: one attempt, in one call, on the calling thread.

No waiting, no threads, no event loop; those are the business of the two backends that use this.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.sqlite import schema
from ptb_kvpersistence.backends.sqlite.checkpoint import Checkpointer
from ptb_kvpersistence.backends.sqlite.failures import refuse_split_pickle, translated
from ptb_kvpersistence.errors import StoreExistsError, StoreNotFoundError
from ptb_kvpersistence.model import (
    Address,
    Change,
    Changes,
    ChangesReply,
    Commit,
    CommitReply,
    Count,
    GetMany,
    KeyRange,
    ListStores,
    OpenStore,
    Page,
    PageReply,
    Put,
    Record,
    StoreInfo,
    Sweep,
    VersionCheck,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIELDS = "CAST(value AS BLOB), version, updated_at, ttl, expires_at"
_ALIVE = "value IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
_GET = f"SELECT {_FIELDS} FROM entries WHERE store = ? AND domain = ? AND key = ? AND {_ALIVE}"
_VERSION = f"SELECT version FROM entries WHERE store = ? AND domain = ? AND key = ? AND {_ALIVE}"
_PUT = """INSERT OR REPLACE INTO entries(store, domain, key, value, updated_at, ttl, expires_at)
    VALUES(?, ?, ?, CAST(? AS TEXT), ?, ?, ?)"""
_STORE = "SELECT id, name, incarnation FROM stores"


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
        self._handlers: dict[type, Callable[[Any], Any]] = {
            GetMany: self._get_many,
            Page: self._page,
            Count: self._count,
            Commit: self._commit,
            Changes: self._changes,
            OpenStore: self._open_store,
            ListStores: self._list_stores,
            Sweep: self._sweep,
        }

    def perform(self, request: Any) -> Any:
        """Perform a request once.

        Raises:
            BusyError: Another connection has the lock; nothing was done.
            DatabaseError: What SQLite said; nothing was written.
        """
        with translated(self._path):
            # A rollback that failed, on a disk that does, must not keep the connection from ever working again.
            self._end("ROLLBACK")
            return self._handlers[type(request)](request)

    # --- reading ---

    def _get_many(self, request: GetMany) -> tuple[Record | None, ...]:
        now = now_ms()
        if len(request.addresses) == 1:
            domain, key = request.addresses[0]
            row = self._connection.execute(_GET, (request.store, domain, key, now)).fetchone()
            return (None if row is None else Record._make(row),)
        with self._snapshot():
            return tuple(self._record(request.store, domain, key, now) for domain, key in request.addresses)

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
        return PageReply(items, len(rows) > request.limit)

    def _count(self, request: Count) -> int:
        where, parameters = _range_clause(request.store, request.range)
        statement = f"SELECT count(*) FROM entries WHERE {where} AND {_ALIVE}"
        return int(self._connection.execute(statement, (*parameters, now_ms())).fetchone()[0])

    def _changes(self, request: Changes) -> ChangesReply:
        wanted, domains = "", request.domains or ()
        if request.domains is not None:
            wanted = f"AND domain IN ({', '.join('?' * len(domains))})"
        with self._snapshot():
            info = self._connection.execute(
                "SELECT incarnation, horizon, (SELECT max(version) FROM entries) FROM stores WHERE id = ?",
                (request.store,),
            ).fetchone()
            if info is None:
                raise _store_gone()
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

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._end("COMMIT")

    # --- writing ---

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
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
        self._set_durable(request.durable)
        self._checkpointer.before_commit(len(request.mutations))
        committed = False
        try:
            with self._writing():
                reply = self._apply(request)
            committed = reply.is_committed
        finally:
            self._checkpointer.after_commit(committed=committed)
        return reply

    def _apply(self, request: Commit) -> CommitReply:
        now = now_ms()
        if request.id is not None and self._is_applied(request.id):
            return CommitReply(applied_before=True)
        failed = self._failed_checks(request, now)
        if failed is not None:
            return failed
        if not self._connection.execute("SELECT 1 FROM stores WHERE id = ?", (request.store,)).fetchone():
            raise _store_gone()
        versions = self._put_all(request, now) or tuple(
            self._mutate(request.store, mutation, now) for mutation in request.mutations
        )
        if request.id is not None:
            self._connection.execute("INSERT INTO commits VALUES(?, ?)", (request.id, now))
        return CommitReply(versions)

    def _is_applied(self, commit: str) -> bool:
        return self._connection.execute("SELECT 1 FROM commits WHERE id = ?", (commit,)).fetchone() is not None

    def _are_current(self, request: Commit, now: int) -> bool:
        """Whether all that is checked are versions, and all of them are still there: a version is a row's id."""
        versions = [check.version for check in request.checks if isinstance(check, VersionCheck) and check.version]
        if len(versions) < len(request.checks):
            return False
        found: set[Any] = set()
        for start in range(0, len(versions), 500):
            part = versions[start : start + 500]
            marks = ", ".join("?" * len(part))
            where = f"version IN ({marks}) AND store = ? AND {_ALIVE}"
            statement = f"SELECT domain, key, version FROM entries NOT INDEXED WHERE {where}"
            found.update(self._connection.execute(statement, (*part, request.store, now)))
        return found.issuperset(request.checks)

    def _failed_checks(self, request: Commit, now: int) -> CommitReply | None:
        conflicts: dict[Address, Record | None] = {}
        store, execute = request.store, self._connection.execute
        if self._are_current(request, now):
            return None
        for check in request.checks:
            if isinstance(check, VersionCheck):
                row = execute(_VERSION, (store, check.domain, check.key, now)).fetchone()
                if (0 if row is None else row[0]) != check.version:
                    record = self._record(store, check.domain, check.key, now)
                    conflicts[Address(check.domain, check.key)] = record
            else:
                where, parameters = _range_clause(store, check.range)
                statement = f"SELECT 1 FROM entries WHERE {where} AND (version > ? OR expires_at BETWEEN 1 AND ?)"
                if execute(statement, (*parameters, check.since, now)).fetchone():
                    return CommitReply(range_conflict=True)
        return CommitReply(conflicts=conflicts) if conflicts else None

    def _put_all(self, request: Commit, now: int) -> tuple[int, ...]:
        """Write a commit that only puts, in one call; AUTOINCREMENT numbers its rows without a gap."""
        rows = [
            (request.store, put.domain, put.key, put.value, now, put.ttl, put.expires_at)
            for put in request.mutations
            if isinstance(put, Put)
        ]
        if len(rows) < len(request.mutations) or not rows:
            return ()
        self._connection.executemany(_PUT, rows)
        (last,) = self._connection.execute("SELECT last_insert_rowid()").fetchone()
        return tuple(range(last - len(rows) + 1, last + 1))

    def _mutate(self, store: int, mutation: Any, now: int) -> int:
        execute = self._connection.execute
        if isinstance(mutation, Put):
            row = (store, mutation.domain, mutation.key, mutation.value, now, mutation.ttl, mutation.expires_at)
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

    # --- stores ---

    def _open_store(self, request: OpenStore) -> StoreInfo:
        found = self._find_store(request.name)
        if found is None and request.mode == "open":
            message = f"there is no store {request.name!r} in {self._path}; create it, or look at names()"
            raise StoreNotFoundError(message)
        if found is None:
            with self._writing():
                found = self._find_store(request.name)
                if found is None:
                    self._connection.execute(
                        "INSERT INTO stores(name, incarnation, created_at) VALUES(?, ?, ?)",
                        (request.name, uuid.uuid4().hex, now_ms()),
                    )
                    created = self._find_store(request.name)
                    assert created is not None  # noqa: S101 - inserted in this transaction
                    return created
        if request.mode == "create":
            message = f"there is a store {request.name!r} in {self._path} already; open it, or take another name"
            raise StoreExistsError(message)
        return found

    def _find_store(self, name: str) -> StoreInfo | None:
        row = self._connection.execute(f"{_STORE} WHERE name = ?", (name,)).fetchone()
        return None if row is None else StoreInfo._make(row)

    def _list_stores(self, _request: ListStores) -> tuple[StoreInfo, ...]:
        return tuple(map(StoreInfo._make, self._connection.execute(f"{_STORE} ORDER BY name")))


def _store_gone() -> StoreNotFoundError:
    return StoreNotFoundError("the store was deleted meanwhile; open or create it again")


def _range_clause(store: int, keys: KeyRange) -> tuple[str, tuple[Any, ...]]:
    clause, parameters = "store = ? AND domain = ? AND key >= ?", (store, keys.domain, keys.start)
    if keys.stop is None:
        return clause, parameters
    return f"{clause} AND key < ?", (*parameters, keys.stop)
