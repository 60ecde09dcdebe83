"""The SQLite backend of the sync face: one connection, used by one thread at a time, waiting by sleeping.

Exclusive sessions have connections of their own.
"""

from __future__ import annotations

import threading
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING, Any, Final, cast

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT, retry_busy
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.backends.sqlite.leases import Leases
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
from ptb_kvpersistence.backends.sqlite.turns import Luck, take_turns
from ptb_kvpersistence.errors import BusyError, DatabaseError, LockTimeoutError, ReentryError, StoreClosedError

if TYPE_CHECKING:
    from ptb_kvpersistence.model import Commit, R, Requested

FREE_SESSIONS: Final = 4
"""Connections kept for the next exclusive sessions."""

inherited: Final[list[object]] = []
"""Connections that a fork inherited: kept for ever, since closing them would harm the parent's file."""


class SQLiteBackend:
    """Performs requests on an SQLite file.

    Attributes:
        name: The path.
        is_open: False once closed.
    """

    def __init__(self, path: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = path
        self.is_open = True
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pid = process.pid
        self._connection: engine.EngineConnection | None = None
        self._engine: engine.Engine | None = None
        self._leases_lock = threading.Lock()
        self._leases: Leases | None = None
        self._free: list[engine.EngineConnection] = []
        self._holders: set[int] = set()
        self._luck = Luck()

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database.

        Raises:
            ReentryError: It would wait for this very thread, or block a running event loop.
            BusyError: Others had the database's lock all the time.
        """
        if self._pid != process.pid:
            self._leave_to_parent()
        kind = engine.KINDS.get(type(request))
        if kind is None or (kind == "writes" and (self._luck.may_be_tried() or self._why_not_to_wait())):
            try:
                with self._lock:
                    return (self._engine or self._opened()).perform(request)  # type: ignore[no-any-return]
            except BusyError:
                self._refuse_to_wait()
        limit = self._timeout if timeout is None else timeout
        if kind == "leases":
            return cast("R", self._perform_on_leases(request, limit))
        queue = WriterQueue(self.name)
        try:
            return cast("R", take_turns(queue, self._luck, limit, lambda: self._attempt(request)))
        finally:
            queue.leave()

    def _attempt(self, request: Requested[Any]) -> Any:
        # Held for one attempt only: other threads read while this one waits for the database.
        with self._lock:
            return self._opened().perform(request)

    def _perform_on_leases(self, request: Requested[Any], limit: float) -> Any:
        # They have a connection and a lock of their own, since a lease is renewed while others wait for the database.
        with self._leases_lock:
            return retry_busy(lambda: self._opened_leases().perform(request), limit)

    def _opened_leases(self) -> Leases:
        if not self.is_open:
            raise closed(self.name)
        if self._leases is None:
            self._leases = Leases(self.name)
        return self._leases

    def _refuse_to_wait(self) -> None:
        reason = self._why_not_to_wait()
        if reason:
            raise ReentryError(reason)

    def _why_not_to_wait(self) -> str:
        if threading.get_ident() in self._holders:
            return (
                f"this thread is inside an exclusive transaction on {self.name} and would wait for itself; "
                "use the transaction's own store, or end it first"
            )
        if _get_running_loop() is None:
            return ""
        return (
            f"{self.name} is locked by somebody else, and waiting for it would block the running event loop; "
            "use AsyncStore (connect_async, or persistence.store) in coroutines"
        )

    def peek(self, max_age: float = 0.0) -> object | None:  # noqa: ARG002 - an answer is never late
        """Read the file's data version; equal tokens mean that nothing was committed between."""
        with self._lock:
            try:
                return cast("object", self._opened().data_version())
            except DatabaseError:
                return None

    def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:  # noqa: ARG002 - the file
        """Begin an exclusive session, waiting up to ``timeout`` seconds; it holds up every store in the file.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This thread has a session already, or the wait would block a running event loop.
        """
        if self._pid != process.pid:
            self._leave_to_parent()
        if not self.is_open:
            raise closed(self.name)
        ident = threading.get_ident()
        if ident in self._holders:
            self._refuse_to_wait()
        connection = self._free.pop() if self._free else retry_busy(lambda: engine.connect(self.name), timeout)
        session = _Session(self, connection, ident)
        reason = self._why_not_to_wait()
        try:
            session.begin(None if reason else timeout, self._luck, durable=durable)
        except BusyError:
            self.put_back(connection)
            raise (ReentryError(reason) if reason else lock_timeout(self.name, timeout)) from None
        except BaseException:
            self.put_back(connection)
            raise
        self._holders.add(ident)
        return session

    def put_back(self, connection: engine.EngineConnection) -> None:
        """Keep a session's connection for the next one."""
        if self.is_open and self._pid == process.pid and len(self._free) < FREE_SESSIONS:
            self._free.append(connection)
        else:
            connection.close()

    def session_ended(self, ident: int) -> None:
        """Note that a thread's session is over."""
        self._holders.discard(ident)

    def _opened(self) -> engine.Engine:
        if not self.is_open:
            raise closed(self.name)
        if self._connection is None:
            self._connection = engine.connect(self.name)
        self._engine = cast("engine.Engine", self._connection.engine)
        return self._engine

    def _leave_to_parent(self) -> None:
        inherited.extend((self._connection, self._leases, *self._free))
        self._free, self._holders = [], set()
        self._lock, self._leases_lock = threading.Lock(), threading.Lock()
        self._pid = process.pid
        self._connection, self._engine, self._leases = None, None, None

    def close(self) -> None:
        """Close the connection; later requests raise StoreClosedError."""
        self.is_open = False
        if self._pid != process.pid:
            self._leave_to_parent()
        with self._lock:
            connection, self._connection, self._engine = self._connection, None, None
            if connection is not None:
                connection.close()
            while self._free:
                self._free.pop().close()
        with self._leases_lock:
            leases, self._leases = self._leases, None
            if leases is not None:
                leases.close()


class _Session:
    """An exclusive session of one thread."""

    def __init__(self, backend: SQLiteBackend, connection: engine.EngineConnection, ident: int) -> None:
        self._backend = backend
        self._connection = connection
        self._ident = ident
        self._engine = cast("engine.Engine", connection.engine)
        self._queue: WriterQueue | None = None

    def begin(self, timeout: float | None, luck: Luck, *, durable: bool) -> None:
        """Take the lock, waiting up to ``timeout`` seconds; None: not to wait, nor to let those who do go first.

        Raises:
            BusyError: Others had it all the time.
        """
        if timeout is None or luck.may_be_tried():
            try:
                self._engine.begin_exclusive(durable=durable)
            except BusyError:
                if timeout is None:
                    raise
            else:
                return
        self._queue = WriterQueue(self._backend.name)
        try:
            take_turns(self._queue, luck, timeout, lambda: self._engine.begin_exclusive(durable=durable))
        except BaseException:
            self._queue.leave()
            raise

    def perform(self, request: Requested[R]) -> R:
        """Perform a reading request."""
        return cast("R", self._engine.perform(request))

    def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        self._backend.session_ended(self._ident)
        try:
            self._engine.end_exclusive(commit, self._queue)
        finally:
            self._backend.put_back(self._connection)


def closed(name: str) -> StoreClosedError:
    """Build the error for a database that was closed."""
    return StoreClosedError(f"{name} was closed; connect again")


def lock_timeout(name: str, timeout: float) -> LockTimeoutError:
    """Build the error for a lock that was not free in time."""
    return LockTimeoutError(f"{name} was locked by others for {timeout:g} s; try again, or allow a longer timeout")
