"""Connections of psycopg whose every wait has a deadline, the connecting included.

psycopg's own timeout for connecting is at least two seconds, and it waits without limit for a server that is silent.
Here the generators that it drives are watched from outside.
"""

from __future__ import annotations

import os
import selectors
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import waiting

from ptb_kvpersistence.backends.postgres.arrays import adapters
from ptb_kvpersistence.backends.postgres.exchange import Memory, exchange

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ptb_kvpersistence.backends.postgres.exchange import Rows, Statement

    T = TypeVar("T")

_INTERVAL: Final = 0.1
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)
_until: ContextVar[float] = ContextVar("_until", default=float("inf"))
"""The deadline of the connection that is being made; set before each, since psycopg hands nothing of ours on."""
_adapters: Final = adapters()


class LateError(Exception):
    """The deadline passed before the server answered."""


def _limited(steps: Generator[Any, Any, T], deadline: float) -> Generator[Any, Any, T]:
    """Let psycopg's steps run until the deadline; it is looked at whenever there was nothing to read or write."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and monotonic() >= deadline:
                raise LateError
            wanted = steps.send(ready)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _wait(steps: Generator[Any, Any, T], socket: int, deadline: float) -> T:
    """Drive psycopg's steps; its own loop looks at no deadline in some of its versions."""
    try:
        wanted = next(steps)
        with _Selector() as selector:
            selector.register(socket, wanted)
            while True:
                found = selector.select(_interval(deadline))
                if not found:
                    if monotonic() >= deadline:
                        raise LateError
                    continue
                before, wanted = wanted, steps.send(found[0][1])
                if wanted != before:
                    selector.modify(socket, wanted)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _interval(deadline: float) -> float:
    return max(0.001, min(_INTERVAL, deadline - monotonic()))


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of the sync face.

    Attributes:
        deadline: By the monotonic clock; what is not answered then raises LateError.
        memory: Which statements the server remembers.
        generation: Of the pool that it belongs to.
        idle_since: When it was put back.
    """

    memory: Memory
    deadline = float("inf")
    generation = 0
    idle_since = 0.0
    _pool = None  # a connection that ends with its process is nothing to warn of

    @classmethod
    def _connect_gen(cls, *arguments: Any, **options: Any) -> Any:
        return _limited(super()._connect_gen(*arguments, **options), _until.get())

    def wait(self, gen: Any, interval: float = _INTERVAL, *_timeout: Any, **_options: Any) -> Any:  # noqa: ARG002
        """Drive one of psycopg's generators, until the deadline."""
        return _wait(gen, self.pgconn.socket, self.deadline)

    def run(self, statements: list[Statement]) -> list[Rows]:
        """Run statements in one round trip; gives the rows of each."""
        with self.lock:
            return self.wait(exchange(self, self.memory, statements))  # type: ignore[no-any-return]


class AsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection of the async face.

    Attributes:
        deadline: By the monotonic clock; what is not answered then raises LateError.
        memory: Which statements the server remembers.
        generation: Of the pool that it belongs to.
        idle_since: When it was put back.
    """

    memory: Memory
    deadline = float("inf")
    generation = 0
    idle_since = 0.0
    _pool = None

    @classmethod
    def _connect_gen(cls, *arguments: Any, **options: Any) -> Any:
        return _limited(super()._connect_gen(*arguments, **options), _until.get())

    async def wait(self, gen: Any, interval: float = _INTERVAL, *_timeout: Any, **_options: Any) -> Any:  # noqa: ARG002
        """Drive one of psycopg's generators, until the deadline."""
        steps = _limited(gen, self.deadline)
        return await waiting.wait_async(steps, self.pgconn.socket, interval=_interval(self.deadline))

    async def run(self, statements: list[Statement]) -> list[Rows]:
        """Run statements in one round trip; gives the rows of each."""
        # What a cancelled caller had begun goes on, while its session is ended already.
        async with self.lock:
            return await self.wait(exchange(self, self.memory, statements))  # type: ignore[no-any-return]


def _options(parameters: Mapping[str, str | int], deadline: float) -> dict[str, Any]:
    options: dict[str, Any] = dict(parameters)
    # The driver's own limit is for each of several hosts, ours for all: a silent one must leave time for the others.
    hosts = str(parameters.get("host", "")).count(",") + 1
    options.setdefault("connect_timeout", max(2, round((deadline - monotonic()) / hosts)))
    return {**options, "autocommit": True, "context": _adapters_context}


class _Context:
    adapters = _adapters
    connection = None


_adapters_context: Final = _Context()


def connect(parameters: Mapping[str, str | int], deadline: float) -> Connection:
    """Connect.

    Raises:
        psycopg.Error: It did not work.
        LateError: Nor was it refused in time.
    """
    _until.set(deadline)
    connection = Connection.connect(**_options(parameters, deadline))
    connection.deadline = deadline
    connection.memory = Memory()
    _connections.add(connection)
    return connection


async def connect_async(parameters: Mapping[str, str | int], deadline: float) -> AsyncConnection:
    """Connect, as :func:`connect` does."""
    _until.set(deadline)
    connection = await AsyncConnection.connect(**_options(parameters, deadline))
    connection.deadline = deadline
    connection.memory = Memory()
    _connections.add(connection)
    return connection


_connections: Final[WeakSet[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]]] = WeakSet()


def _leave_to_parent() -> None:
    """Let go of the sockets in a forked child, so that the server sees when the parent dies, and its locks with it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for connection in list(_connections):
        if not connection.closed:
            # The number stays taken: libpq still has it.
            os.dup2(nowhere, connection.pgconn.socket)
    os.close(nowhere)
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def finish(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Close a connection from anywhere, without a loop and without waiting."""
    connection.pgconn.finish()
    connection._closed = True  # noqa: SLF001 - as its close() does, which is a coroutine in one of the two
