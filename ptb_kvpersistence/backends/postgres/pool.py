"""The connections of one process or event loop: which are free, and how many a kind of request may use at once.

Not psycopg's own pool: its workers belong to one loop and one process, and cannot be left behind when the loop is
closed or the process forks. Here nothing runs in the background.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ptb_kvpersistence.backends.postgres.connection import AsyncConnection, Connection, finish

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C", Connection, AsyncConnection)
S = TypeVar("S")

LANES: Final = {"reads": 4, "writes": 6, "leases": 2}
"""How many connections a kind of request may use at once; exclusive sessions have theirs besides."""
PER_STORE: Final = 3
"""How many of a process stand in the server's line for one store; the others wait here, and other stores go on."""
IDLE: Final = 300.0
"""Seconds after which a free connection is closed."""

inherited: Final[list[object]] = []
"""What a fork inherited: kept for ever, since closing it would end the parent's connections."""


class Pool(Generic[C, S]):
    """Free connections and gates.

    Args:
        semaphore: Makes a gate for so many.
    """

    def __init__(self, semaphore: Callable[[int], S]) -> None:
        self._semaphore = semaphore
        self._gates: dict[object, S] = {}
        self._lock = threading.Lock()
        self._free: list[C] = []
        self._generation = 0

    def gates(self, lane: str, store: int | None) -> list[S]:
        """Give the gates that a request has to pass, in this order."""
        with self._lock:
            found = []
            if store is not None:
                found.append(self._gate((lane, store), PER_STORE))
            if lane in LANES:
                found.append(self._gate(lane, LANES[lane]))
            return found

    def _gate(self, key: object, size: int) -> S:
        if key not in self._gates:
            self._gates[key] = self._semaphore(size)
        return self._gates[key]

    @property
    def is_empty(self) -> bool:
        """Whether no connection is kept."""
        return not self._free

    def take(self) -> C | None:
        """Take the connection that was used last."""
        with self._lock:
            while self._free:
                connection = self._free.pop()
                if not connection.closed:
                    return connection
        return None

    def adopt(self, connection: C) -> None:
        """Note that a connection was made."""
        connection.generation = self._generation

    def give(self, connection: C) -> None:
        """Put a connection back, or close it where it is of no use."""
        connection.idle_since = now = monotonic()
        with self._lock:
            if connection.closed or connection.generation != self._generation:
                finish(connection)
            else:
                self._free.append(connection)
            while self._free and self._free[0].idle_since < now - IDLE:
                finish(self._free.pop(0))

    def drain(self) -> None:
        """Close what is free, and what is in use as soon as it is put back."""
        with self._lock:
            self._generation += 1
            while self._free:
                finish(self._free.pop())

    def all(self) -> list[Any]:
        """Give the free connections, for :data:`inherited`."""
        return list(self._free)
