"""One worker thread of aiosqlite with its connection: how it is begun, asked, and ended, whatever its loop does."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Final, cast

import aiosqlite

from ptb_kvpersistence.backends.sqlite.hop import Idle
from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.model import R, Requested

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptb_kvpersistence.backends.sqlite import engine
    from ptb_kvpersistence.backends.sqlite.leases import Leases

STOP_TIMEOUT: Final = 10.0
"""Seconds to wait for a worker that is in the middle of a call."""


class Lane:
    """One worker thread with one connection, for one event loop.

    Args:
        path: Of the file.
        connect: Makes the connection, in the worker.

    Attributes:
        loop: That loop.
        is_stopped: It was ended in the middle of what it did.
    """

    _abandoned: Final[list[object]] = []

    def __init__(self, path: str, connect: Callable[[str], engine.EngineConnection | Leases]) -> None:
        self.loop = asyncio.get_running_loop()
        self._path = path
        self._connect_to = connect
        self._raw: engine.EngineConnection | Leases | None = None
        self._connection: aiosqlite.Connection | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self.is_stopped = False

    async def perform(self, request: Requested[R]) -> R:
        """Have the worker perform a request, after opening the connection if need be."""
        opening = self._opening
        if opening is None:
            # A task of its own: a caller that is cancelled must not leave a thread half started.
            opening = self._opening = asyncio.create_task(self._open())
        connection = opening.result() if opening.done() else await asyncio.shield(opening)
        (reply,) = await connection.execute_fetchall(cast("str", request))
        return cast("R", reply)

    @property
    def is_ready(self) -> bool:
        """Whether it has a connection, so that what it is asked gets to its worker."""
        opening = self._opening
        return opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None

    async def _open(self) -> aiosqlite.Connection:
        failures: list[Exception] = []
        made: list[engine.EngineConnection | Leases] = []

        def connect() -> sqlite3.Connection:
            # An exception here would make aiosqlite end its thread without waiting, and a loop that is closed right
            # afterwards (asyncio.run with that very error) would make the thread fail aloud.
            try:
                made.append(self._connect_to(self._path))
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                failures.append(error)
                return cast("sqlite3.Connection", None)
            self._raw = made[0]
            return cast("sqlite3.Connection", made[0])

        connection = self._connection = aiosqlite.core.Connection(connect, iter_chunk_size=64)
        try:
            _ = await connection
            if failures:
                await cast("asyncio.Future[None]", connection.stop())
                raise failures[0]  # noqa: TRY301 - cleaned up below like any other
        except BaseException as error:
            # Another one may be opened from here on.
            self._connection, self._opening = None, None
            if isinstance(error, asyncio.CancelledError):
                # It is the loop's end, and the worker is to end before it.
                await asyncio.shield(self.loop.run_in_executor(None, _worker(connection).join, STOP_TIMEOUT))
            for raw in made:
                raw.close()
            raise
        return connection

    async def settle(self) -> None:
        """Wait until the worker has answered whatever it was asked."""
        if self._opening is None:
            return
        with contextlib.suppress(DatabaseError, ValueError):  # what cannot be opened, or is closed
            await self.perform(Idle())

    async def close(self) -> None:
        """Close the connection and end the worker, once it has done what it was asked."""
        if self._opening is not None:
            with contextlib.suppress(DatabaseError):
                _ = await asyncio.shield(self._opening)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def stop(self) -> None:
        """End the worker from any thread, without a loop."""
        self.is_stopped = True
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
        worker = _worker(connection)
        if worker.is_alive():
            worker.join(STOP_TIMEOUT)
        if not _is_closed(self._raw):
            self._abandoned.append(connection)
            if not worker.is_alive():
                with contextlib.suppress(sqlite3.Error):
                    cast("engine.EngineConnection", self._raw).close()


def _worker(connection: aiosqlite.Connection) -> threading.Thread:
    return connection._thread  # noqa: SLF001 - no public way


def _is_closed(raw: engine.EngineConnection | Leases | None) -> bool:
    if raw is None:
        return True
    try:
        _ = raw.total_changes
    except sqlite3.ProgrammingError:
        return True
    return False
