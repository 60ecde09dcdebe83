"""The PostgreSQL backend of the sync face: each request on a free connection, by the calling thread."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.backends.postgres import statements as sql
from ptb_kvpersistence.backends.postgres.attempts import (
    SWEEP_STEP,
    BeginExclusive,
    Deadline,
    Prepared,
    lane_of,
    lock_timeout,
    reentry,
    resolved,
    would_block,
)
from ptb_kvpersistence.backends.postgres.channel import Channel
from ptb_kvpersistence.backends.postgres.connection import Connection, LateError, connect, finish
from ptb_kvpersistence.backends.postgres.failures import Failed
from ptb_kvpersistence.backends.postgres.jobs import Claim, identified
from ptb_kvpersistence.backends.postgres.location import locate
from ptb_kvpersistence.backends.postgres.pool import inherited
from ptb_kvpersistence.backends.postgres.sync_runner import Runner
from ptb_kvpersistence.errors import BusyError, DatabaseError, StoreClosedError
from ptb_kvpersistence.model import Commit, DeleteStore, R, RenameStore, Requested, SetDomain, Sweep

if TYPE_CHECKING:
    from ptb_kvpersistence.model import CommitReply

LOOP_PATIENCE: Final = 0.05
"""Seconds for which a running loop may be held up by others' commits."""


class PostgresBackend:
    """Performs requests on a PostgreSQL database.

    Attributes:
        name: The URL without user and password.
        is_open: False once closed.
    """

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._location = locate(url)
        self.name = self._location.name
        self.is_open = True
        self._timeout = timeout
        self._begin_process()

    def _begin_process(self) -> None:
        self._pid = process.pid
        self.runner = Runner(self._location, self._timeout)
        self._sessions: dict[tuple[int, int], _Session] = {}
        self._channel: Channel | None = None
        self._channel_lock = threading.Lock()

    def _check_usable(self) -> None:
        if not self.is_open:
            message = f"{self.name} was closed; connect again"
            raise StoreClosedError(message)
        if self._pid != process.pid:
            inherited.extend((*self.runner.pool.all(), *self._sessions.values(), self._channel))
            self._begin_process()

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, within ``timeout`` seconds.

        Raises:
            ReentryError: It would wait for this very thread, or block a running event loop.
            BusyError: Others had the store's lock all the time.
            DatabaseUnavailableError: The server cannot be reached.
            OutcomeUnknownError: It was sent, but nobody answered.
        """
        self._check_usable()
        limit = self._timeout if timeout is None else timeout
        waits = lane_of(request) == "writes"
        if waits and self._sessions:
            self._refuse_reentry(request)
        if not waits or not _is_loop_running():
            reply = cast("R", self.runner.drive(request, Deadline.after(limit)))
            if self.runner.is_sweep_due(request):
                with suppress(DatabaseError):
                    self.runner.drive(Sweep(SWEEP_STEP), Deadline.after(1))
            return reply
        deadline = Deadline.after(limit)
        deadline.at = min(deadline.at, time.monotonic() + LOOP_PATIENCE)
        try:
            return cast("R", self.runner.drive(request, deadline))
        except BusyError:
            if limit <= LOOP_PATIENCE:
                raise
            raise would_block(self.name) from None

    def _refuse_reentry(self, request: Any) -> None:
        ident = threading.get_ident()
        if isinstance(request, (Commit, SetDomain)):
            mine = (ident, request.store) in self._sessions
        else:
            mine = isinstance(request, (DeleteStore, RenameStore)) and any(who == ident for who, _ in self._sessions)
        if mine:
            raise reentry(self.name, "thread")

    # --- exclusive sessions ---

    def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:
        """Begin an exclusive session on a store, waiting up to ``timeout`` seconds.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This thread has a session already, or the wait would block a running event loop.
        """
        self._check_usable()
        key = (threading.get_ident(), store)
        if key in self._sessions:
            raise reentry(self.name, "thread")
        deadline = Deadline.after(timeout)
        in_loop = _is_loop_running()
        if in_loop:
            deadline.at = min(deadline.at, time.monotonic() + LOOP_PATIENCE)
        try:
            connection, gates = self.runner.drive(BeginExclusive(store, durable), deadline)
        except BusyError:
            if in_loop and timeout > LOOP_PATIENCE:
                raise would_block(self.name) from None
            raise lock_timeout(self.name, timeout) from None
        session = self._sessions[key] = _Session(self, key, connection, gates)
        return session

    def session_ended(self, session: _Session) -> None:
        """Note that a session is over, and keep its connection for others."""
        self._sessions.pop(session.key, None)
        if self._pid == process.pid:
            session.gates.close()
            self.runner.pool.give(session.connection)

    def session_script(self, request: Any, deadline: Deadline) -> tuple[Any, list[Any]]:
        """Give the job of a request in a session, and its statements."""
        prepared = cast("Prepared", self.runner.prepared)
        job = prepared.jobs.make(request)
        return job, job.script(prepared.jobs.schema, deadline.io_left, deadline.left, in_session=True)

    def default_deadline(self) -> Deadline:
        """Give the deadline of a request that was given none."""
        return Deadline.after(self._timeout)

    # --- notifications ---

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look whether anybody committed, by the server's notifications; the first look makes a connection for them.

        Returns:
            A token; equal tokens mean that nothing was committed between, as far as was known ``max_age`` seconds ago.
            None where that cannot be told: always for less than 0.1 s, and through a pooler.
        """
        if not self.is_open:
            return None
        self._check_usable()
        with self._channel_lock:
            if self._channel is None:
                self._channel = Channel(self.name)
            channel = self._channel
            prepared = self.runner.prepared
            if channel.wants_connection(max_age) and prepared is not None and not prepared.is_pooled:
                channel.tried()
                try:
                    connection = connect(self._location.parameters, time.monotonic() + 1.0)
                    begin, check = channel.hello(prepared.jobs.sql(sql.CHANNEL))
                    connection.run(begin)
                    channel.listen(connection, connection.run(check))
                except (psycopg.Error, LateError, OSError) as error:
                    channel.failed(error)
            return channel.look_waiting(max_age)

    def close(self) -> None:
        """Close the connections; later requests raise StoreClosedError."""
        if self._pid != process.pid:
            self.is_open = True
            self._check_usable()
        self.is_open = False
        self.runner.pool.drain()
        for session in list(self._sessions.values()):
            finish(session.connection)
        with self._channel_lock:
            if self._channel is not None:
                self._channel.close()


class _Session:
    """An exclusive session of one thread: a connection with a transaction that holds the store's lock."""

    def __init__(
        self, backend: PostgresBackend, key: tuple[int, int], connection: Connection, gates: ExitStack
    ) -> None:
        self._backend = backend
        self.key = key
        self.connection = connection
        self.gates = gates
        self._has_written = False

    def perform(self, request: Requested[R]) -> R:
        """Perform a reading request, or a domain's setting."""
        backend, deadline = self._backend, self._backend.default_deadline()
        self._has_written |= isinstance(request, SetDomain)
        self.connection.deadline = deadline.io_at
        job, script = backend.session_script(request, deadline)
        try:
            return cast("R", job.reply(backend.runner.run(self.connection, script, in_session=True), in_session=True))
        except Failed as failure:
            raise failure.error from failure.__cause__

    def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        try:
            if commit is not None:
                self._commit(identified(commit))
        finally:
            self._roll_back()
            self._backend.session_ended(self)

    def _commit(self, commit: Commit) -> None:
        backend, deadline = self._backend, self._backend.default_deadline()
        self.connection.deadline = deadline.io_at
        job, script = backend.session_script(commit, deadline)
        end = [(sql.END, ())]
        try:
            # With nothing else written, a commit that was refused has left nothing to undo: one round trip.
            rows = backend.runner.run(self.connection, script if self._has_written else script + end, in_session=True)
            reply: CommitReply = job.reply(rows[: len(script)], in_session=True)
            if self._has_written and reply.is_committed:
                backend.runner.run(self.connection, end, in_session=True)
        except Failed as failure:
            if not failure.was_sent:
                raise failure.error from failure.__cause__
            finish(self.connection)
            claim = Claim(commit.store, commit.id)
            is_applied = backend.runner.drive(claim, backend.default_deadline())
            resolved(backend.name, failure, is_applied=is_applied)

    def _roll_back(self) -> None:
        if self._backend._pid != process.pid or self.connection.closed:  # noqa: SLF001 - as one
            return
        self.connection.deadline = time.monotonic() + 1.0
        try:
            self.connection.rollback()
        except (psycopg.Error, LateError):
            finish(self.connection)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
