"""The SQLite backend of the async face: requests go to worker threads of aiosqlite, one hop each.

Reading and writing have a worker each, so that a slow disk does not hold up reads. Workers belong to one event loop
and one process; a loop that was closed, or a fork, starts with none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT, retry_busy_async
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.backends.sqlite.lane import STOP_TIMEOUT, Lane
from ptb_kvpersistence.backends.sqlite.leases import Leases
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend, closed, inherited, lock_timeout
from ptb_kvpersistence.backends.sqlite.turns import Luck, take_turns_async
from ptb_kvpersistence.errors import BusyError, DatabaseError, ReentryError
from ptb_kvpersistence.loops import LoopEnd
from ptb_kvpersistence.model import R, Requested

if TYPE_CHECKING:
    from ptb_kvpersistence.model import Commit

_logger = logging.getLogger(__name__)


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
        self._pid = process.pid
        self._lanes: dict[tuple[asyncio.AbstractEventLoop, engine.Kind], Lane] = {}
        self._free: dict[asyncio.AbstractEventLoop, list[Lane]] = {}
        self._holders: dict[object, _Session] = {}
        self._ends: dict[asyncio.AbstractEventLoop, LoopEnd] = {}
        self._peeker: _Peeker | None = None
        self._luck = Luck()

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database.

        Cancellation: an attempt that has begun is carried out all the same.
        """
        kind = engine.KINDS.get(type(request), "reads")
        limit = self._timeout if timeout is None else timeout
        if kind != "writes" or self._luck.may_be_tried():
            try:
                return await self._lane(kind).perform(request)
            except BusyError:
                if kind == "leases":
                    return cast("R", await retry_busy_async(lambda: self._lane(kind).perform(request), limit))
        self._refuse_reentry()
        queue = WriterQueue(self.name)
        try:
            return await take_turns_async(queue, self._luck, limit, lambda: self._lane(kind).perform(request))
        finally:
            queue.leave()

    def _refuse_reentry(self) -> None:
        if asyncio.current_task() in self._holders:
            message = (
                f"this task is inside an exclusive transaction on {self.name} and would wait for itself; "
                "use the transaction's own store, or end it first"
            )
            raise ReentryError(message)

    async def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:  # noqa: ARG002 - the file
        """Begin an exclusive session, waiting up to ``timeout`` seconds; it holds up every store in the file.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This task has a session already.
        """
        if not self.is_open:
            raise closed(self.name)
        self._refuse_reentry()
        self._leave_foreign()
        loop = asyncio.get_running_loop()
        free = self._free.setdefault(loop, [])
        session = _Session(self, free.pop() if free else Lane(self.name, engine.connect), asyncio.current_task())
        self._expect_end(loop)
        self._holders[session.holder] = session
        try:
            await session.begin(timeout, self._luck, durable=durable)
        except asyncio.CancelledError:
            self._abandon(session)
            raise
        except BusyError:
            self.session_ended(session)
            raise lock_timeout(self.name, timeout) from None
        except BaseException:
            self.session_ended(session)
            raise
        return session

    def _abandon(self, session: _Session) -> None:
        if not session.lane.is_ready:
            self.session_ended(session)
            return
        # A try may be under way; when it has the lock, nobody is there to give it back.
        self._holders.pop(session.holder, None)
        session.holder = session
        self._holders[session.holder] = session
        session.abandon()

    def session_ended(self, session: _Session) -> None:
        """Note that a session is over, and keep its worker for the next one."""
        self._holders.pop(session.holder, None)
        loop = asyncio.get_running_loop()
        self._free.setdefault(loop, []).append(session.lane)

    def _lane(self, kind: engine.Kind) -> Lane:
        key = (asyncio.get_running_loop(), kind)
        lane = self._lanes.get(key)
        if lane is not None and self.is_open and self._pid == process.pid:
            return lane
        if not self.is_open:
            raise closed(self.name)
        self._leave_foreign()
        lane = self._lanes[key] = Lane(self.name, Leases if kind == "leases" else engine.connect)
        self._expect_end(key[0])
        return lane

    def _expect_end(self, loop: asyncio.AbstractEventLoop) -> None:
        process.at_end(self, process.THEN_CLOSE, self._stop_all)
        if loop not in self._ends:
            self._ends[loop] = LoopEnd(lambda: self._settle(loop))

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the workers of a loop have nothing more to answer; one that answers a closed loop dies aloud."""
        self._ends.pop(loop, None)
        sessions = [session.lane for session in list(self._holders.values())]
        lanes = [
            lane for lane in (*list(self._lanes.values()), *self._free.get(loop, ()), *sessions) if lane.loop is loop
        ]
        settling = [asyncio.ensure_future(lane.settle()) for lane in lanes]
        settling += [task for task in _abandoning if task.get_loop() is loop]
        if settling:
            await asyncio.wait(settling, timeout=STOP_TIMEOUT)

    def _leave_foreign(self) -> None:
        if self._pid != process.pid:
            inherited.extend((*self._lanes.values(), *self._free.values(), *self._holders.values(), self._peeker))
            self._free, self._holders = {}, {}
            self._forget_ends()
            self._lanes, self._peeker, self._pid = {}, None, process.pid
        # Loops of other threads come and go meanwhile.
        for key in [key for key in list(self._lanes) if key[0].is_closed()]:
            left = self._lanes.pop(key, None)
            if left is not None:
                left.stop()
        for loop in [loop for loop in list(self._free) if loop.is_closed()]:
            for lane in self._free.pop(loop, ()):
                lane.stop()
        for loop in [loop for loop in list(self._ends) if loop.is_closed()]:
            end = self._ends.pop(loop, None)
            if end is not None:
                end.forget()

    def _forget_ends(self) -> None:
        while self._ends:
            self._ends.popitem()[1].forget()

    def peek(self, max_age: float = 0.0) -> object | None:  # noqa: ARG002 - an answer is never late
        """Read the file's data version without I/O that could wait.

        Returns:
            A token; equal tokens mean that nothing was committed between. None when it cannot be told.

        Source: https://www.sqlite.org/pragma.html#pragma_data_version
        """
        if self._pid != process.pid or not self._lanes:
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
        end = self._ends.pop(loop, None)
        if end is not None:
            end.forget()
        for lane in (*mine, *self._free.pop(loop, ())):
            await lane.close()
        if not self._lanes and not self._free and not self._holders:
            self._close_peeker()
            process.forget(self)

    async def close(self) -> None:
        """Close for good; later requests raise StoreClosedError."""
        self.is_open = False
        await self.release()
        self._stop_all()

    def _stop_all(self) -> None:
        if self._pid != process.pid:
            return
        self._forget_ends()
        while self._lanes:
            self._lanes.popitem()[1].stop()
        while self._free:
            for lane in self._free.popitem()[1]:
                lane.stop()
        while self._holders:
            self._holders.popitem()[1].lane.stop()
        self._close_peeker()

    def _close_peeker(self) -> None:
        peeker, self._peeker = self._peeker, None
        if peeker is not None:
            peeker.close()


class _Session:
    """An exclusive session of one task, with a worker of its own; of nobody once its task gave up waiting."""

    def __init__(self, backend: AsyncSQLiteBackend, lane: Lane, task: asyncio.Task[Any] | None) -> None:
        self._backend = backend
        self.lane = lane
        self.holder: object = task
        self._queue: WriterQueue | None = None

    async def begin(self, timeout: float, luck: Luck, *, durable: bool) -> None:
        """Take the writer lock, waiting up to ``timeout`` seconds.

        Raises:
            BusyError: Others had it all the time.
        """
        begin = engine.BeginExclusive(durable)
        if luck.may_be_tried():
            with contextlib.suppress(BusyError):
                return await self.lane.perform(begin)
        self._queue = WriterQueue(self._backend.name)
        try:
            return await take_turns_async(self._queue, luck, timeout, lambda: self.lane.perform(begin))
        except BaseException:
            self._queue.leave()
            raise

    def abandon(self) -> None:
        """Give back a lock that comes after its caller was cancelled."""
        task = asyncio.create_task(self.end(None))
        _abandoning.add(task)
        task.add_done_callback(_abandoned)

    async def perform(self, request: Requested[R]) -> R:
        """Perform a reading request."""
        self._refuse_closed()
        return await self.lane.perform(request)

    def _refuse_closed(self) -> None:
        if self.lane.is_stopped:
            raise closed(self._backend.name)

    async def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on; done to the end though the caller is cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._end(commit)))

    async def _end(self, commit: Commit | None) -> None:
        self._refuse_closed()
        try:
            await self.lane.perform(engine.EndExclusive(commit, self._queue))
        finally:
            self._backend.session_ended(self)


_abandoning: Final[set[asyncio.Task[None]]] = set()


def _abandoned(task: asyncio.Task[None]) -> None:
    _abandoning.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it; without its connection it holds no lock


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
            return cast("engine.Engine", self._connection.engine).data_version()
        except DatabaseError:
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
