"""What each request means on an SQLite connection: one attempt, in one call, on the calling thread.

No waiting, no threads, no event loop; those are the business of the two backends that use this.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.sqlite import forks, schema
from ptb_kvpersistence.backends.sqlite.checkpoint import CHECKPOINT_EVERY, Checkpointer
from ptb_kvpersistence.backends.sqlite.failures import refuse_split_pickle, translate, translated
from ptb_kvpersistence.backends.sqlite.hop import Replies
from ptb_kvpersistence.backends.sqlite.leases import Leases
from ptb_kvpersistence.backends.sqlite.reads import Reads, StatementConnection
from ptb_kvpersistence.backends.sqlite.stores import Stores
from ptb_kvpersistence.backends.sqlite.writes import HalfWrittenError, Writes
from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.model import (
    LEASE_REQUESTS,
    Changes,
    ChangesReply,
    Checked,
    CheckedReply,
    Commit,
    CommitReply,
    Count,
    DeleteStore,
    GetMany,
    ListDomains,
    ListStores,
    OpenStore,
    Page,
    Put,
    Record,
    RenameStore,
    Requested,
    SetDomain,
    Sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ptb_kvpersistence.backends.sqlite.queue import WriterQueue

Kind = Literal["reads", "writes", "leases"]
KINDS: Final[dict[type, Kind]] = {
    **dict.fromkeys((Commit, DeleteStore, OpenStore, RenameStore, SetDomain, Sweep), "writes"),
    **dict.fromkeys(LEASE_REQUESTS, "leases"),
}
"""What a request needs: the writer lock, or the file of the leases; all others read."""
SWEEP_EVERY: Final = 30.0
"""Seconds between two sweeps of a connection that commits."""
SWEEP_STEP: Final = 200
"""Entries per sweep."""
SWEEP_ON: Final = 0.05
"""Seconds until the next one where that was not enough."""

SWEEP_FEED_AFTER: Final = 1000
"""Mutations of a connection after which it sweeps the feed without waiting for the time."""
_NOTHING: Final = nullcontext()


@dataclass(frozen=True)
class BeginExclusive(Requested[None]):
    """Take the file's one writer lock, which raises BusyError unless it is free."""

    durable: bool


@dataclass(frozen=True)
class EndExclusive(Requested[None]):
    """Apply a commit, if given, give the writer lock back, and leave the line if one stands there."""

    commit: Commit | None
    place: WriterQueue | None


class EngineConnection(StatementConnection):
    """A connection that performs whole requests."""

    engine: Engine | None = None

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """Run a statement, or perform a request."""
        if isinstance(sql, str):
            return super().execute(sql, parameters)
        if self.engine is None:
            message = "the connection has no engine yet"
            raise sqlite3.ProgrammingError(message)
        return Replies(self.engine.perform, sql)

    def close(self) -> None:
        """Close the connection and what belongs to it."""
        if self.engine is None:
            super().close()
            return
        with self.engine.gate:
            self.engine.close()
            super().close()


def connect(path: str, *, create: bool = True) -> EngineConnection:
    """Open a connection that is ready to perform requests, on any thread but one at a time.

    Raises:
        DatabaseError: The file cannot be used; the subclass says why.
    """
    if create:
        refuse_split_pickle(path)
    gate = process.gate()
    with translated(path), gate:
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
            connection.engine = Engine(connection, path, gate, is_wal=is_wal)
        except BaseException:
            connection.close()
            raise
    return connection


class Engine:
    """Performs requests on one connection.

    Args:
        connection: The connection.
        path: Of its file.
        gate: Held during each call, so that no fork happens in the middle of one.
        is_wal: Whether the file has a write-ahead log.

    Attributes:
        gate: As given.
        is_wal: As given.
    """

    def __init__(
        self, connection: StatementConnection, path: str, gate: AbstractContextManager[Any], *, is_wal: bool
    ) -> None:
        self._connection = connection
        self.gate = gate
        self._run = connection.statement
        self._path = path
        self.is_wal = is_wal
        self._is_durable: bool | None = None
        self._reads = Reads(connection)
        self._writes = Writes(connection, self._reads)
        self._checkpointer = Checkpointer(connection, path)
        self._leases: Leases | None = None
        stores = Stores(connection, path, self._writing, self._opened_leases)
        self._handlers: dict[type, Callable[[Any], Any]] = {
            GetMany: self._get_many,
            Page: lambda request: self._reads.page(request, now_ms()),
            Count: lambda request: self._reads.count(request, now_ms()),
            Commit: self._commit,
            Changes: self._changes,
            Checked: self._checked,
            OpenStore: stores.open,
            ListStores: stores.list,
            RenameStore: stores.rename,
            DeleteStore: self._checkpointed(stores.delete),
            SetDomain: self._set_domain,
            ListDomains: self._reads.domains,
            Sweep: self._sweep,
            BeginExclusive: lambda request: self.begin_exclusive(durable=request.durable),
            EndExclusive: lambda request: self.end_exclusive(request.commit, request.place),
        }
        self._sweep_due = 0.0  # at the first commit: a script may end before another one
        self._feed_due = time.monotonic() + SWEEP_EVERY
        self._unswept = 0
        self._in_session = False
        forks.know(self)

    def locked_file(self) -> str | None:
        """Give the path of the file while a transaction is under way on it."""
        try:
            return self._path if self._connection.in_transaction else None
        except sqlite3.ProgrammingError:  # it was closed
            return None

    def begin_exclusive(self, *, durable: bool) -> None:
        """Take the file's one writer lock for a session, if it is free.

        Args:
            durable: Whether the session's commit waits for the disk.

        Raises:
            BusyError: Another connection has it.
            DatabaseError: What SQLite said.
        """
        try:
            with self.gate:
                self._roll_back_leftovers()
                self._set_durable(durable)
                self._run("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        self._in_session = True

    def end_exclusive(self, commit: Commit | None, place: WriterQueue | None) -> None:
        """Apply a commit, if given, give the writer lock back, and leave the line.

        Raises:
            DatabaseError: What SQLite said; nothing was written.
        """
        try:
            with self.gate:
                self._end_exclusive(commit, place)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def _end_exclusive(self, commit: Commit | None, place: WriterQueue | None) -> None:
        committed = False
        self._in_session = False
        try:
            if commit is not None:
                if not self._connection.in_transaction:
                    message = f"{self._path}: SQLite ended the transaction after a failure; nothing of it was written"
                    raise DatabaseError(message)
                self._checkpointer.before_commit(len(commit.mutations), _size(commit))
                with self._fenced(commit) if commit.fences else _NOTHING:
                    if self._apply(commit).is_committed:
                        self._end("COMMIT")
                        committed = True
        finally:
            try:
                self._end("ROLLBACK")
            finally:
                # The next one need not wait for a checkpoint.
                if place is not None:
                    place.leave()
                self._checkpointer.after_commit(committed=committed)

    def data_version(self) -> int | None:
        """Give a number that changes with the commits of other connections; None where that cannot be had cheaply.

        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        if not self.is_wal:
            return None
        with translated(self._path), self.gate:
            own = self._connection.total_changes
            return int(self._connection.execute("PRAGMA data_version").fetchall()[0][0]) + (own << 32)

    def perform(self, request: Any) -> Any:
        """Perform a request once.

        Raises:
            BusyError: Another connection has the lock; nothing was done.
            DatabaseError: What SQLite said; nothing was written.
        """
        try:
            with self.gate:
                if self._connection.in_transaction and not self._in_session:
                    self._roll_back_leftovers()
                return self._handlers[type(request)](request)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def _roll_back_leftovers(self) -> None:
        # A rollback that failed, on a disk that does, must not keep the connection from ever working again.
        self._end("ROLLBACK")

    def close(self) -> None:
        """Close what the engine opened besides its connection."""
        if self._leases is not None:
            self._leases.close()

    def _opened_leases(self) -> Leases:
        if self._leases is None:
            self._leases = Leases(self._path, self.gate)
        return self._leases

    # --- reading ---

    def _get_many(self, request: GetMany) -> tuple[Record | None, ...]:
        now, reads = now_ms(), self._reads
        if len(request.addresses) == 1:
            domain, key = request.addresses[0]
            record = reads.record(request.store, domain, key, now)
            if record is None:
                reads.check_store(request.store)
            return (record,)
        with self._snapshot():
            records = tuple(reads.record(request.store, domain, key, now) for domain, key in request.addresses)
            if not any(records):
                reads.check_store(request.store)
            return records

    def _changes(self, request: Changes) -> ChangesReply:
        with self._snapshot():
            return self._reads.changes(request, now_ms())

    def _checked(self, request: Checked) -> CheckedReply:
        with self._snapshot():
            head, at = self._reads.head(), now_ms()
            failed = self._reads.failed_checks(request.store, request.checks, at)
            reply = None if failed is not None else self._handlers[type(request.request)](request.request)
        return CheckedReply(reply, failed is None, head, at)

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
            self._run(statement)

    def _set_durable(self, durable: bool) -> None:
        if durable is not self._is_durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable

    def _commit(self, request: Commit) -> CommitReply:
        if not self._connection.in_transaction:
            self._set_durable(request.durable)
        self._checkpointer.before_commit(len(request.mutations), _size(request))
        committed = False
        try:
            try:
                reply = self._commit_once(request, quick=not self._connection.in_transaction)
            except HalfWrittenError:
                reply = self._commit_once(request, quick=False)
            committed = reply.is_committed
        finally:
            self._checkpointer.after_commit(committed=committed)
        self._sweep_sometimes()
        return reply

    def _commit_once(self, request: Commit, *, quick: bool) -> CommitReply:
        if request.fences or self._connection.in_transaction:
            with self._writing_fenced(request) if request.fences else self._writing():
                return self._apply(request, quick=quick)
        # As _writing does, without the cost of a context manager.
        self._run("BEGIN IMMEDIATE")
        try:
            reply = self._apply(request, quick=quick)
            self._run("COMMIT")
        except BaseException:
            self._end("ROLLBACK")
            raise
        return reply

    @contextmanager
    def _writing_fenced(self, request: Commit) -> Iterator[None]:
        # Leases are let go of last, so that none changes hands before the commit.
        with ExitStack() as fences, self._writing():
            fences.enter_context(self._fenced(request))
            yield

    def _fenced(self, request: Commit) -> AbstractContextManager[None]:
        if request.id is not None and self._writes.is_applied(request.id):
            return _NOTHING
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
        if self._connection.in_transaction:
            return
        now = time.monotonic()
        with contextlib.suppress(sqlite3.Error):
            if now >= self._sweep_due:
                self._sweep_due = now + SWEEP_EVERY
                if self._sweep(Sweep(SWEEP_STEP)) >= SWEEP_STEP:
                    self._sweep_due = now + SWEEP_ON
            if now >= self._feed_due or self._unswept >= SWEEP_FEED_AFTER:
                self._feed_due = now + SWEEP_EVERY
                unswept, self._unswept = self._unswept, 0
                with self._writing():
                    self._writes.sweep_feed(3 * unswept)

    def _apply(self, request: Commit, *, quick: bool = False) -> CommitReply:
        reply = self._writes.apply(request, now_ms(), quick=quick)
        self._unswept += len(reply.versions)
        return reply

    def _sweep(self, request: Sweep) -> int:
        with self._writing():
            return self._writes.sweep(request.limit, now_ms())

    def _set_domain(self, request: SetDomain) -> None:
        with self._writing():
            self._writes.set_domain(request)


def _size(commit: Commit) -> int:
    return sum([len(mutation.value) for mutation in commit.mutations if type(mutation) is Put])
