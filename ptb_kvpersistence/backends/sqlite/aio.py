"""The SQLite backend of the async face: requests go to worker threads of aiosqlite, one hop each.

Reading and writing have a worker each, so that a slow disk does not hold up reads. Workers belong to one event loop
and one process; a loop that was closed, or a fork, starts with none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from typing import Final, cast

import aiosqlite

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT, retry_busy_async
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend, inherited
from ptb_kvpersistence.errors import BusyError, DatabaseError, StoreClosedError
from ptb_kvpersistence.model import Commit, OpenStore, R, Requested, Sweep

_logger = logging.getLogger(__name__)
STOP_TIMEOUT: Final = 10.0
"""Seconds to wait for a worker that is in the middle of a call."""
_WRITES: Final = (Commit, OpenStore, Sweep)


class AsyncSQLiteBackend:
    """Performs requests on an SQLite file without blocking the loop.

    Attributes:
        name: The path.
        is_open: False once closed.
    """

    def __init__(self, path: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = path
        self.is_open = True
        self._timeout = timeout
        self._pid = os.getpid()
        self._lanes: dict[tuple[asyncio.AbstractEventLoop, bool], _Lane] = {}
        self._peeker: _Peeker | None = None

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database.

        Cancellation: an attempt that has begun is carried out all the same.
        """
        limit = self._timeout if timeout is None else timeout

        async def attempt() -> R:
            return cast("R", await self._lane(isinstance(request, _WRITES)).perform(request))

        try:
            return await attempt()
        except BusyError:
            return cast("R", await retry_busy_async(attempt, limit))

    def _lane(self, writes: bool) -> _Lane:
        if not self.is_open:
            message = f"{self.name} was closed; connect again"
            raise StoreClosedError(message)
        self._leave_foreign()
        key = (asyncio.get_running_loop(), writes)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self.name)
            process.at_end(self, process.THEN_CLOSE, self._stop_all)
        return lane

    def _leave_foreign(self) -> None:
        if self._pid != os.getpid():
            inherited.extend((*self._lanes.values(), self._peeker))
            self._lanes, self._peeker, self._pid = {}, None, os.getpid()
        for key in [key for key in self._lanes if key[0].is_closed()]:
            self._lanes.pop(key).stop()

    def peek(self) -> object | None:
        """Read the file's data version without I/O that could wait.

        Returns:
            A token; equal tokens mean that nothing was committed between. None when it cannot be told.

        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        if self._pid != os.getpid() or not self._lanes:
            return None
        if self._peeker is None:
            self._peeker = _Peeker(self.name)
        return self._peeker.look()

    def blocking(self) -> SQLiteBackend:
        """Make a sync backend for the same file."""
        return SQLiteBackend(self.name, timeout=self._timeout)

    async def release(self) -> None:
        """Close what the current loop has opened; the next request opens it again."""
        self._leave_foreign()
        loop = asyncio.get_running_loop()
        mine = [self._lanes.pop(key) for key in list(self._lanes) if key[0] is loop]
        for lane in mine:
            await lane.close()
        if not self._lanes:
            self._close_peeker()
            process.forget(self)

    async def close(self) -> None:
        """Close for good; later requests raise StoreClosedError."""
        self.is_open = False
        await self.release()
        self._stop_all()

    def _stop_all(self) -> None:
        if self._pid != os.getpid():
            return
        while self._lanes:
            self._lanes.popitem()[1].stop()
        self._close_peeker()

    def _close_peeker(self) -> None:
        peeker, self._peeker = self._peeker, None
        if peeker is not None:
            peeker.close()


class _Lane:
    """One worker thread with one connection, for one event loop."""

    _abandoned: Final[list[object]] = []

    def __init__(self, path: str) -> None:
        self._path = path
        self._raw: engine.EngineConnection | None = None
        self._failure: Exception | None = None
        self._connection: aiosqlite.Connection | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None

    async def perform(self, request: Requested[R]) -> R:
        if self._opening is None:
            # A task of its own: a caller that is cancelled must not leave a thread half started.
            self._opening = asyncio.create_task(self._open())
        if self._opening.done():
            connection = self._opening.result()
        else:
            connection = await asyncio.shield(self._opening)
        (reply,) = await connection.execute_fetchall(cast("str", request))
        return cast("R", reply)

    async def _open(self) -> aiosqlite.Connection:
        connection = aiosqlite.core.Connection(self._connect, iter_chunk_size=64)
        self._connection = connection
        try:
            connection = await connection
            if self._failure is not None:
                await cast("asyncio.Future[None]", connection.stop())
                raise self._failure  # noqa: TRY301 - cleaned up below like any other
        except BaseException:
            self._connection, self._opening, self._failure = None, None, None
            if self._raw is not None:
                self._raw.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        # An exception here would make aiosqlite end its thread without waiting, and a loop that is closed right
        # afterwards (asyncio.run with that very error) would make the thread fail aloud.
        try:
            self._raw = engine.connect(self._path)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            self._failure = error
        return cast("sqlite3.Connection", self._raw)

    async def close(self) -> None:
        if self._opening is not None:
            with contextlib.suppress(DatabaseError):
                _ = await asyncio.shield(self._opening)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def stop(self) -> None:
        """End the worker from any thread, without a loop."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # stop() would make a future on whatever loop this thread has; a fresh thread has none.
        thread = threading.Thread(target=connection.stop)
        try:
            thread.start()
        except RuntimeError:  # no new threads at the end of the process
            connection.stop()
        else:
            thread.join()
        self._close_raw(connection)

    def _close_raw(self, connection: aiosqlite.Connection) -> None:
        # A worker whose loop was closed in the middle of a call dies of the answer; nobody else closes its file. As
        # long as it lives, its connection is its own: to close that during a call may crash the process.
        worker = connection._thread  # noqa: SLF001 - no public way
        if worker.is_alive():
            worker.join(STOP_TIMEOUT)
        if not _is_closed(self._raw):
            self._abandoned.append(connection)
            if not worker.is_alive():
                with contextlib.suppress(sqlite3.Error):
                    cast("sqlite3.Connection", self._raw).close()


def _is_closed(raw: sqlite3.Connection | None) -> bool:
    if raw is None:
        return True
    try:
        _ = raw.total_changes
    except sqlite3.ProgrammingError:
        return True
    return False


class _Peeker:
    """A connection that only ever reads ``PRAGMA data_version``, on the loop's own thread."""

    def __init__(self, path: str) -> None:
        self._connection: engine.EngineConnection | None
        try:
            self._connection = engine.connect(path, create=False)
        except DatabaseError as error:
            _logger.debug("cannot look for changes cheaply: %s", error)
            self._connection = None
        if self._connection is not None and not cast("engine.Engine", self._connection.engine).is_wal:
            self._connection.close()
            self._connection = None

    def look(self) -> object | None:
        if self._connection is None:
            return None
        try:
            return cast("object", self._connection.execute("PRAGMA data_version").fetchall()[0][0])
        except sqlite3.Error:
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
