"""Runs requests on the connections of one process, on the calling thread; ``sync`` has the backend of the port."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import psycopg

from ptb_kvpersistence.backends.postgres.attempts import (
    Attempt,
    BeginExclusive,
    Deadline,
    Pause,
    Prepared,
    performing,
    pool_exhausted,
    preparing,
    sweeping,
)
from ptb_kvpersistence.backends.postgres.connection import Connection, LateError, connect, finish
from ptb_kvpersistence.backends.postgres.failures import Failed, Verdict, failed, not_connected
from ptb_kvpersistence.backends.postgres.jobs import beginning
from ptb_kvpersistence.backends.postgres.pool import Pool

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.postgres.location import Location


class Runner:
    """Runs requests on connections of its own.

    Args:
        location: Where the database is.
        patience: Seconds, for messages.

    Attributes:
        pool: The connections.
        prepared: What is known of the database; None before the first request.
        is_sweep_due: Tells after a request whether to sweep a little now, which is once in a while after a commit.
    """

    def __init__(self, location: Location, patience: float) -> None:
        self._location = location
        self._place = location.name
        self._patience = patience
        self.pool: Pool[Connection, threading.Semaphore] = Pool(threading.Semaphore)
        self.prepared: Prepared | None = None
        self.is_sweep_due = sweeping()

    def drive(self, request: Any, deadline: Deadline) -> Any:
        """Perform a request on the calling thread."""
        steps = performing(request, self._place, deadline)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    reply = self._attempt(step, deadline)
                except Failed as failure:
                    step = steps.throw(failure)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            return stop.value

    def _attempt(self, step: Attempt, deadline: Deadline) -> Any:
        with ExitStack() as gates:
            for gate in self.pool.gates(step.lane, step.store):
                until = deadline.at if step.store is not None else deadline.io_at
                if not gate.acquire(timeout=max(0.0, until - time.monotonic())):
                    raise Failed(Verdict.FINAL, pool_exhausted(self._place, self._patience), was_sent=False)
                gates.callback(gate.release)
            connection = self._connection(deadline)
            connection.deadline = deadline.io_at
            prepared = cast("Prepared", self.prepared)
            request, schema = step.request, prepared.jobs.schema
            if isinstance(request, BeginExclusive):
                store, durable = request.store, request.durable
                self.run(connection, beginning(schema, store, deadline.io_left, deadline.left, durable=durable))
                return connection, gates.pop_all()
            job = prepared.jobs.make(request, again=step.again)
            rows = self.run(connection, job.script(schema, deadline.io_left, deadline.left))
            self.pool.give(connection)
        return job.reply(rows)

    def run(self, connection: Connection, script: list[Any], *, in_session: bool = False) -> list[Any]:
        """Run statements on a connection, which is put back or closed when they fail.

        Raises:
            Failed: They did.
        """
        try:
            return connection.run(script)
        except (psycopg.Error, LateError) as error:
            failure = failed(error, self._place)
            if failure.verdict is Verdict.BROKEN:
                self._broken(connection)
            elif not in_session:
                self._roll_back(connection)
            if failure.verdict is Verdict.UNPREPARED:
                self.prepared = None
            raise failure from error
        except BaseException:
            finish(connection)
            raise

    def _broken(self, connection: Connection) -> None:
        finish(connection)
        # The others were made before, and most likely broke with it.
        self.pool.drain()

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except (psycopg.Error, LateError):
            finish(connection)
        self.pool.give(connection)

    def _connection(self, deadline: Deadline) -> Connection:
        connection = self.pool.take()
        if connection is not None and self.prepared is not None:
            return connection
        if connection is None:
            connection = self._connect(deadline)
            self.pool.adopt(connection)
        if self.prepared is None:
            self._prepare(connection)
        connection.memory.is_used = self.prepared is not None and not self.prepared.is_pooled
        return connection

    def _connect(self, deadline: Deadline) -> Connection:
        try:
            return connect(self._location.parameters, deadline.io_at)
        except (psycopg.Error, LateError, OSError) as error:
            raise not_connected(error, self._place) from error

    def _prepare(self, connection: Connection) -> None:
        steps = preparing(self._location, connection.pgconn.backend_pid)
        try:
            script = next(steps)
            while True:
                script = steps.send(self.run(connection, script))
        except StopIteration as stop:
            self.prepared = stop.value
        except Failed as failure:
            failure.was_sent = False  # not the request, at any rate
            raise
        except BaseException:
            finish(connection)
            raise
