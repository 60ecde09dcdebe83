"""Named locks, without I/O: what a lease is, who holds which, and what that means for writes.

A lease belongs to the task, or the thread, that acquired it. All that its owner writes to that store while it holds
the lock goes out fenced: the commit itself checks, where it is made, that the lease has not been lost. So a holder that
was frozen past its time cannot overwrite what the next one wrote. The two faces wait and renew, each in its own way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import lease_lost, now
from ptb_kvpersistence.errors import (
    BusyError,
    ConfigurationError,
    LeaseLostError,
    LockTimeoutError,
    ReentryError,
    StoreNotFoundError,
)
from ptb_kvpersistence.model import AcquireLease, Changes, Commit, Fence, LeaseReply, ReleaseLease, check_name
from ptb_kvpersistence.store import ambient
from ptb_kvpersistence.store.arguments import milliseconds, patience
from ptb_kvpersistence.store.operations import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import timedelta

    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.store.operations import Handle

_logger = logging.getLogger(__name__)

LEASE_TTL: Final = 30.0
"""Seconds after which a lock is free when its holder has neither given it back nor renewed it."""
SHORTEST_TTL: Final = 100
"""Milliseconds."""
RENEWALS: Final = 3
"""How often a lease is renewed within its lifetime."""
ANSWER_TIMEOUT: Final = 1.0
"""Seconds for the database to answer, whatever the patience with other holders, and where it is about to be closed."""
_NO_VERSION: Final = 2**62


class Lease:
    """A named lock while it is held.

    Attributes:
        name: Of the lock.
        token: Grows with each lease of this lock, for fencing other systems: they refuse a lower one than they saw.
    """

    owner: tuple[int, object]

    def __init__(self, backend: object, request: AcquireLease, token: int, since: Moment) -> None:
        self.name = request.name
        self.token = token
        self.backend = backend
        self.store = request.store
        self.holder = request.holder
        self.ttl = request.ttl
        self.is_over = False
        self._pid = process.pid
        self._is_lost = False
        self.renewed(since)

    def __repr__(self) -> str:
        state = "held" if self.is_held else "not held"
        return f"<Lease {self.name!r}, token {self.token}, {state}>"

    @property
    def is_held(self) -> bool:
        """Whether the lock is held, as far as this process knows."""
        # Two clocks: one does not count while the machine sleeps, the other may be set back.
        return (
            not self._is_lost
            and not self.is_over
            and time.monotonic() < self._until.monotonic
            and now() < self._until.wall
            and self._pid == process.pid
        )

    def check(self) -> None:
        """Make sure, before doing something that the store knows nothing of, that the lock is still held.

        Raises:
            LeaseLostError: It is not.
        """
        if self.is_over:
            message = (
                f"the lock {self.name!r} was given back, at the end of its block or with the database; acquire it again"
            )
            raise LeaseLostError(message)
        if not self.is_held:
            raise lease_lost(self.name)

    @property
    def is_own(self) -> bool:
        """Whether this process acquired it, not one that it was forked from."""
        return self._pid == process.pid

    @property
    def seconds_left(self) -> float:
        """How long it is held without being renewed."""
        return max(0.0, self._until.monotonic - time.monotonic())

    def renewed(self, since: Moment) -> None:
        """Note a renewal that was asked for at a moment."""
        self._until = Moment(since.monotonic + self.ttl / 1000, since.wall + self.ttl)

    def lost(self) -> None:
        """Note, and say, that it is held no longer."""
        if self.is_over or self._is_lost:
            return
        self._is_lost = True
        _logger.warning("the lock %r was lost while it was held; somebody else may have it", self.name)

    def is_lost_after(self, failure: Exception) -> bool:
        """Decide what a renewal that failed means."""
        if self.is_held:
            _logger.debug("could not renew the lock %r, trying again: %s", self.name, failure)
            return False
        self.lost()
        return True


class Moment:
    """A moment by both clocks: seconds of the monotonic one, milliseconds since the epoch."""

    __slots__ = ("monotonic", "wall")

    def __init__(self, monotonic: float | None = None, wall: int | None = None) -> None:
        self.monotonic = time.monotonic() if monotonic is None else monotonic
        self.wall = now() if wall is None else wall


# --- who holds what ---

held: Final[dict[tuple[int, object], list[Lease]]] = {}
"""The leases of this process, by owner."""


def caller() -> tuple[int, object]:
    """Say who is running; a forked child counts as the same, so that it is told that it holds nothing."""
    _, ident, task = ambient.owner()
    return ident, task


def entered(lease: Lease) -> None:
    """Note that the caller is inside."""
    lease.owner = caller()
    held.setdefault(lease.owner, []).append(lease)


def left(backend: object, name: str) -> Lease | None:
    """Note that the caller leaves; gives the lease that it had."""
    owner = caller()
    leases = held.get(owner, [])
    for lease in reversed(leases):
        if lease.backend is backend and lease.name == name:
            leases.remove(lease)
            if not leases:
                del held[owner]
            return lease
    return None


def of(backend: object) -> list[Lease]:
    """List the leases that this process holds by a backend, whoever their owners are."""
    every = [lease for leases in list(held.values()) for lease in list(leases)]
    return [lease for lease in every if lease.backend is backend and lease.is_own and not lease.is_over]


def fence(backend: object, request: Any) -> Any:
    """Make a commit depend on the locks of that store which the caller holds.

    Raises:
        LeaseLostError: One of them is known to be lost.
    """
    if not held or type(request) is not Commit:
        return request
    leases = [lease for lease in held.get(caller(), ()) if lease.backend is backend and lease.store == request.store]
    for lease in leases:
        lease.check()
    return replace(request, fences=tuple(Fence(lease.name, lease.token) for lease in leases)) if leases else request


def fenced(backend: object, perform: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Perform requests with commits fenced."""
    return lambda request: perform(fence(backend, request))


# --- acquiring ---

_tasks: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
_numbers: Final = itertools.count(1)
_process = (process.pid, uuid.uuid4().hex)


def holder() -> str:
    """Name the caller, so that no other thread, task or process has the same name."""
    global _process  # noqa: PLW0603 - a fork is another process
    if _process[0] != process.pid:
        _process = (process.pid, uuid.uuid4().hex)
    _, task = caller()
    number = _tasks.setdefault(task, next(_numbers)) if isinstance(task, asyncio.Task) else 0
    return f"{_process[1]}:{threading.get_ident()}:{number}"


class Wanted:
    """A lock that the caller wants.

    Raises:
        InvalidKeyError: The name cannot be used.
        ConfigurationError: ``ttl`` is no duration, or too short.
    """

    def __init__(self, handle: Handle, name: str, ttl: float | timedelta, timeout: float) -> None:
        self.handle = handle
        self.name = check_name(name, "lock name")
        self.ttl = milliseconds(ttl, "ttl")
        self.timeout = patience(timeout)
        if self.ttl < SHORTEST_TTL:
            message = f"a lock needs a ttl of at least {SHORTEST_TTL / 1000:g} s, to be renewed in time"
            raise ConfigurationError(message)

    def acquire(self, name_of_holder: str, *, waits: bool) -> Generator[Requested[Any], Any, Lease | LeaseReply]:
        """Try once; gives the lease, or the reply that says who has it.

        Raises:
            ReentryError: The caller has it.
            StoreNotFoundError: The store was deleted.
        """
        store = yield from open_store(self.handle)
        request = AcquireLease(store, self.name, name_of_holder, self.ttl, waits)
        since = Moment()
        try:
            reply: LeaseReply = yield request
        except BusyError:
            # Somebody was frozen in the middle of acquiring or committing; the time limit is the caller's.
            reply = LeaseReply(None, None, 0)
        if reply.token is None:
            if reply.holder == name_of_holder:
                message = f"the lock {self.name!r} would wait for itself: this thread or task holds it already"
                raise ReentryError(message)
            return reply
        try:
            # Leases are kept apart from the stores; this fails where the store is gone.
            yield Changes(store, _NO_VERSION, (), 1)
        except StoreNotFoundError:
            yield ReleaseLease(store, self.name, name_of_holder, reply.token)
            raise
        return Lease(self.handle.backend, request, reply.token, since)

    def give_up(self, name_of_holder: str, token: int | None = None) -> Generator[Requested[Any], Any, None]:
        """Leave the line, or give back what was acquired."""
        store = yield from open_store(self.handle)
        yield ReleaseLease(store, self.name, name_of_holder, token)

    def impatient(self, perform: Callable[..., Any]) -> Callable[[Requested[Any]], Any]:
        """Perform requests so that one that is not answered does not use up the time for waiting."""
        return lambda request: perform(request, timeout=ANSWER_TIMEOUT)

    def pauses(self) -> Generator[float, int, None]:
        """Yield the pauses between attempts; is sent how many are ahead. Ends when the time is up.

        The first in line looks often, the others just often enough to keep their places.
        """
        deadline = time.monotonic() + self.timeout
        pause, ahead = 0.001, 0
        while (left := deadline - time.monotonic()) > 0:
            # The jitter keeps those who wait from coming back in step; no secret depends on it.
            length = (0.04 if ahead else pause) * random.uniform(0.5, 1.5)  # noqa: S311
            ahead = yield min(left, length)
            pause = min(pause * 1.3, 0.025)

    def refuse_in_transaction(self) -> None:
        """Refuse to wait for a lock whose holder may be waiting for this transaction.

        Raises:
            ReentryError: The caller is inside a transaction on the store.
        """
        if ambient.find((self.handle.backend, self.handle.name), self.handle.info) is not None:
            message = (
                f"the lock {self.name!r} cannot be acquired inside a transaction, which would end after it; "
                "acquire the lock first and begin the transaction inside"
            )
            raise ReentryError(message)

    def timed_out(self) -> LockTimeoutError:
        """Build the error for a lock that was not free in time."""
        message = f"the lock {self.name!r} was held by others for {self.timeout:g} s; try again, or wait longer"
        return LockTimeoutError(message)
