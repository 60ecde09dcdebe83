"""The PostgreSQL backend of the async face: each request in a task of its own, on a free connection of its loop.

Connections belong to one event loop and one process; a loop that was closed, or a fork, starts with none.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import psycopg

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.backends.postgres import statements as sql
from ptb_kvpersistence.backends.postgres.aio_runner import AsyncRunner
from ptb_kvpersistence.backends.postgres.attempts import (
    SWEEP_STEP,
    BeginExclusive,
    Deadline,
    Prepared,
    lane_of,
    lock_timeout,
    reentry,
    resolved,
)
from ptb_kvpersistence.backends.postgres.channel import Channel
from ptb_kvpersistence.backends.postgres.connection import AsyncConnection, LateError, connect_async, finish
from ptb_kvpersistence.backends.postgres.failures import Failed
from ptb_kvpersistence.backends.postgres.jobs import Claim, identified
from ptb_kvpersistence.backends.postgres.location import locate
from ptb_kvpersistence.backends.postgres.pool import inherited
from ptb_kvpersistence.backends.postgres.sync import PostgresBackend
from ptb_kvpersistence.errors import BusyError, StoreClosedError
from ptb_kvpersistence.model import Commit, DeleteStore, R, RenameStore, Requested, SetDomain, Sweep

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ptb_kvpersistence.backends.postgres.location import Location
    from ptb_kvpersistence.model import CommitReply


class _OfLoop:
    """What belongs to one event loop."""

    def __init__(self, location: Location, patience: float) -> None:
        self.runner = AsyncRunner(location, patience)
        self.sessions: dict[tuple[object, int], _Session] = {}
        self.channel = Channel(location.name)
        self.watched = -1
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_idle(self) -> bool:
        is_at_rest = not self.sessions and not self._tasks
        return is_at_rest and self.runner.pool.is_empty and not self.channel.is_listening

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine to its end, whatever becomes of those who wait for it."""
        task = asyncio.ensure_future(coroutine)
        # A loop that is closed in the middle of a request is no reason for a second complaint.
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - no public way
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    def finish(self) -> None:
        """Close the connections without a loop; those in use too, if their loop was closed in the middle of it."""
        self.runner.pool.drain()
        for session in self.sessions.values():
            finish(session.connection)
        self.channel.close()
        for task in [task for task in self._tasks if task.get_loop().is_closed()]:
            self._tasks.discard(task)
            # The closed loop refuses what asyncio wants to tidy up; the connection is closed on the way out.
            with contextlib.suppress(RuntimeError):
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()


class AsyncPostgresBackend:
    """Performs requests on a PostgreSQL database without blocking the loop.

    Attributes:
        name: The URL without user and password.
        is_open: False once closed.
    """

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._location = locate(url)
        self._url = url
        self.name = self._location.name
        self.is_open = True
        self._timeout = timeout
        self._pid = process.pid
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}

    def _here(self) -> _OfLoop:
        if not self.is_open:
            message = f"{self.name} was closed; connect again"
            raise StoreClosedError(message)
        self._leave_foreign()
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = _OfLoop(self._location, self._timeout)
            process.at_end(self, process.THEN_CLOSE, self._stop_all)
        return found

    def _leave_foreign(self) -> None:
        if self._pid != process.pid:
            inherited.append(self._loops)
            self._loops, self._pid = {}, process.pid
        for loop in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(loop).finish()

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, within ``timeout`` seconds.

        Cancellation: a request that was begun is carried out all the same.

        Raises:
            ReentryError: It would wait for this very task.
            BusyError: Others had the store's lock all the time.
            DatabaseUnavailableError: The server cannot be reached.
            OutcomeUnknownError: It was sent, but nobody answered.
        """
        here = self._here()
        if here.sessions and lane_of(request) == "writes":
            self._refuse_reentry(here, request)
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        reply = cast("R", await asyncio.shield(here.start(here.runner.drive(request, deadline))))
        if here.runner.is_sweep_due(request):
            _ = here.start(here.runner.drive(Sweep(SWEEP_STEP), Deadline.after(self._timeout)))
        return reply

    def _refuse_reentry(self, here: _OfLoop, request: Any) -> None:
        task = asyncio.current_task()
        if isinstance(request, (Commit, SetDomain)):
            mine = (task, request.store) in here.sessions
        else:
            mine = isinstance(request, (DeleteStore, RenameStore)) and any(who is task for who, _ in here.sessions)
        if mine:
            raise reentry(self.name, "task")

    # --- exclusive sessions ---

    async def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:
        """Begin an exclusive session on a store, waiting up to ``timeout`` seconds.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This task has a session already.
        """
        here = self._here()
        key = (asyncio.current_task(), store)
        if key in here.sessions:
            raise reentry(self.name, "task")
        beginning = here.start(here.runner.drive(BeginExclusive(store, durable), Deadline.after(timeout)))
        try:
            connection, gates = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # It goes on waiting for the lock; when it has it, nobody is there to give it back.
            beginning.add_done_callback(lambda done: self._abandon(here, key, done))
            raise
        except BusyError:
            raise lock_timeout(self.name, timeout) from None
        session = here.sessions[key] = _Session(self, here, key, connection, gates)
        return session

    def _abandon(self, here: _OfLoop, key: tuple[object, int], begun: asyncio.Task[Any]) -> None:
        if begun.cancelled() or begun.exception() is not None:
            return
        connection, gates = begun.result()
        session = _Session(self, here, key, connection, gates)
        if begun.get_loop().is_closed():
            finish(connection)
        else:
            _ = here.start(session.end_alone(None))

    async def release(self) -> None:
        """Close what the current loop has opened; the next request opens it again."""
        self._leave_foreign()
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is not None:
            here.runner.pool.drain()
            self._stop_listening(loop, here)
            if here.is_idle:
                del self._loops[loop]
        if not self._loops:
            process.forget(self)

    async def close(self) -> None:
        """Close for good; later requests raise StoreClosedError."""
        self.is_open = False
        await self.release()
        self._stop_all()

    def blocking(self) -> PostgresBackend:
        """Make a sync backend for the same database."""
        return PostgresBackend(self._url, timeout=self._timeout)

    def _stop_all(self) -> None:
        if self._pid != process.pid:
            return
        while self._loops:
            self._loops.popitem()[1].finish()

    # --- notifications ---

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look whether anybody committed, by the server's notifications; the first look makes a connection for them.

        Returns:
            A token; equal tokens mean that nothing was committed between, as far as was known ``max_age`` seconds ago.
            None where that cannot be told: always for less than 0.1 s, and through a pooler.
        """
        if not self.is_open or self._pid != process.pid:
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        here = self._loops.get(loop)
        if here is None:
            return None
        prepared = here.runner.prepared
        if here.channel.wants_connection(max_age) and prepared is not None and not prepared.is_pooled:
            here.channel.tried()
            _ = here.start(self._listen(loop, here, prepared.jobs.sql(sql.CHANNEL)))
        return here.channel.look(max_age)

    async def _listen(self, loop: asyncio.AbstractEventLoop, here: _OfLoop, find_channel: str) -> None:
        try:
            connection = await connect_async(self._location.parameters, monotonic() + self._timeout)
            try:
                begin, check = here.channel.hello(find_channel)
                await connection.run(begin)
                rows = await connection.run(check)
            except BaseException:
                finish(connection)
                raise
        except (psycopg.Error, LateError, OSError) as error:
            here.channel.failed(error)
            return
        if not self.is_open or self._loops.get(loop) is not here:
            finish(connection)
            return
        here.channel.listen(connection, rows)
        if here.channel.is_listening:
            here.watched = here.channel.socket
            loop.add_reader(here.watched, self._readable, loop, here)
            loop.call_later(here.channel.interval, self._beat, loop, here, here.watched)

    def _readable(self, loop: asyncio.AbstractEventLoop, here: _OfLoop) -> None:
        here.channel.read()
        if not here.channel.is_listening:
            self._stop_listening(loop, here)

    def _beat(self, loop: asyncio.AbstractEventLoop, here: _OfLoop, watched: int) -> None:
        if here.watched != watched or not here.channel.is_listening or here.channel.is_unasked:
            self._stop_listening(loop, here, watched)
            return
        here.channel.beat()
        loop.call_later(here.channel.interval, self._beat, loop, here, watched)

    @staticmethod
    def _stop_listening(loop: asyncio.AbstractEventLoop, here: _OfLoop, watched: int | None = None) -> None:
        if here.watched >= 0 and watched in (None, here.watched):
            loop.remove_reader(here.watched)
            here.watched = -1
            here.channel.close()


class _Session:
    """An exclusive session of one task: a connection with a transaction that holds the store's lock."""

    def __init__(
        self,
        backend: AsyncPostgresBackend,
        here: _OfLoop,
        key: tuple[object, int],
        connection: AsyncConnection,
        gates: AsyncExitStack,
    ) -> None:
        self._backend = backend
        self._here = here
        self._key = key
        self.connection = connection
        self._gates = gates
        self._has_written = False

    def _script(self, request: Any) -> tuple[Any, list[Any]]:
        deadline = Deadline.after(self._backend._timeout)  # noqa: SLF001 - as one
        self.connection.deadline = deadline.io_at
        prepared = cast("Prepared", self._here.runner.prepared)
        job = prepared.jobs.make(request)
        return job, job.script(prepared.jobs.schema, deadline.io_left, deadline.left, in_session=True)

    async def _run(self, script: list[Any]) -> list[Any]:
        return await self._here.runner.run(self.connection, script, in_session=True)

    async def perform(self, request: Requested[R]) -> R:
        """Perform a reading request, or a domain's setting."""
        return cast("R", await asyncio.shield(self._here.start(self._perform(request))))

    async def _perform(self, request: Any) -> Any:
        self._has_written |= isinstance(request, SetDomain)
        job, script = self._script(request)
        try:
            return job.reply(await self._run(script), in_session=True)
        except Failed as failure:
            raise failure.error from failure.__cause__

    async def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on; done to the end though the caller is cancelled."""
        self._here.sessions.pop(self._key, None)
        await asyncio.shield(self._here.start(self.end_alone(commit)))

    async def end_alone(self, commit: Commit | None) -> None:
        """End it on the calling task."""
        try:
            if commit is not None:
                await self._commit(identified(commit))
        finally:
            await self._roll_back()
            await self._gates.aclose()
            self._here.runner.pool.give(self.connection)

    async def _commit(self, commit: Commit) -> None:
        job, script = self._script(commit)
        end = [(sql.END, ())]
        try:
            # With nothing else written, a commit that was refused has left nothing to undo: one round trip.
            rows = await self._run(script if self._has_written else script + end)
            reply: CommitReply = job.reply(rows[: len(script)], in_session=True)
            if self._has_written and reply.is_committed:
                await self._run(end)
        except Failed as failure:
            if not failure.was_sent:
                raise failure.error from failure.__cause__
            finish(self.connection)
            backend, claim = self._backend, Claim(commit.store, commit.id)
            deadline = Deadline.after(backend._timeout)  # noqa: SLF001 - as one
            is_applied = await self._here.runner.drive(claim, deadline)
            resolved(backend.name, failure, is_applied=is_applied)

    async def _roll_back(self) -> None:
        if self.connection.closed:
            return
        self.connection.deadline = monotonic() + 1.0
        try:
            await self.connection.rollback()
        except (psycopg.Error, LateError):
            finish(self.connection)
        except BaseException:
            finish(self.connection)
            raise
