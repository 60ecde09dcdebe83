"""The port that every backend fills, and the waiting for a busy database that all of them share."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from ptb_kvpersistence.errors import BusyError, LeaseLostError, StoreExistsError, StoreInUseError, StoreNotFoundError
from ptb_kvpersistence.model import BotInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ptb_kvpersistence.model import Commit, Put, R, Requested

TOMBSTONE_LIFETIME: Final = 7 * 86_400_000
"""Milliseconds that a deletion stays in the change feed, and a commit's id is remembered."""

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds to wait for a database that somebody else has locked."""

HEARTBEAT: Final = 20.0
"""Seconds between two signs of life of an attached bot."""

ATTACHED_FOR: Final = 60_000
"""Milliseconds after its last sign of life that a bot still counts as attached."""

LINE_PATIENCE: Final = 250
"""Milliseconds after which someone waiting for a named lock who did not ask again is passed over."""


class Session(Protocol):
    """An exclusive session: until it ends, every other writer waits."""

    def perform(self, request: Requested[R]) -> R:
        """Perform a reading request."""
        ...

    def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        ...


class AsyncSession(Protocol):
    """An exclusive session of the async face."""

    async def perform(self, request: Requested[R]) -> R:
        """Perform a reading request."""
        ...

    async def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        ...


class Backend(Protocol):
    """Performs requests for the sync face.

    Attributes:
        name: What to call the database in messages; never holds a password.
        is_open: False once closed.
    """

    name: str
    is_open: bool

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database."""
        ...

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look cheaply: equal tokens mean that nothing was committed between; None: unknown.

        Args:
            max_age: Seconds by which the answer may be late, so that a server's notifications can give it.
        """
        ...

    def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> Session:
        """Begin an exclusive session on a store (or on more, where nothing less can be locked), waiting ``timeout`` s.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: The same thread has a session already.
        """
        ...

    def close(self) -> None:
        """Close; later requests raise StoreClosedError."""
        ...


class AsyncBackend(Protocol):
    """Performs requests for the async face; a request that was started goes on when its caller is cancelled.

    Attributes:
        name: What to call the database in messages; never holds a password.
        is_open: False once closed.
    """

    name: str
    is_open: bool

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database."""
        ...

    async def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> AsyncSession:
        """Begin an exclusive session on a store (or on more, where nothing less can be locked), waiting ``timeout`` s.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: The same task has a session already.
        """
        ...

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look without I/O that could block: equal tokens mean that nothing was committed between; None: unknown.

        Args:
            max_age: Seconds by which the answer may be late, so that a server's notifications can give it.
        """
        ...

    def blocking(self) -> Backend:
        """Make a sync backend for the same database, for the end of the process."""
        ...

    async def release(self) -> None:
        """Let go of connections and threads; the next request opens them again."""
        ...

    async def close(self) -> None:
        """Close; later requests raise StoreClosedError."""
        ...


def now() -> int:
    """Milliseconds since the epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def lifetime(put: Put, now: int, keep: int | None) -> tuple[int | None, int | None]:
    """Work out ``ttl`` and ``expires_at`` of an entry that is written now; ``keep`` is its domain's setting."""
    if put.expires_at is not None:
        return put.ttl, put.expires_at
    ttl = keep if put.ttl is None else put.ttl
    return ttl, None if ttl is None else now + ttl


LONGEST_PAUSE: Final = 0.05
"""Seconds between two attempts of one among many who wait."""

LONGEST_PAUSE_IN_TURN: Final = 0.005
"""Seconds between two attempts of the one whose turn it is."""


def pauses(
    timeout: float, *, first: float = 0.0005, growth: float = 1.5, longest: float = LONGEST_PAUSE
) -> Iterator[float]:
    """Yield the pauses between attempts until ``timeout`` seconds have passed; they grow and carry jitter."""
    deadline = time.monotonic() + timeout
    pause = first
    while (left := deadline - time.monotonic()) > 0:
        # The jitter keeps waiters from coming back in step; no secret depends on it.
        yield min(left, pause * random.uniform(0.5, 1.5))  # noqa: S311
        pause = min(pause * growth, longest)


def pauses_in_turn(timeout: float) -> Iterator[float]:
    """Yield the pauses of the one whose turn it is, about a tenth of what it has waited: nobody works meanwhile."""
    return pauses(timeout, first=0.0001, growth=1.1, longest=LONGEST_PAUSE_IN_TURN)


def retry_busy(attempt: Callable[[], Any], timeout: float) -> Any:
    """Call ``attempt`` until it no longer raises BusyError or the time is up."""
    for pause in pauses(timeout):
        try:
            return attempt()
        except BusyError:
            time.sleep(pause)
    return attempt()


async def retry_busy_async(attempt: Callable[[], Any], timeout: float) -> Any:
    """Await ``attempt()`` until it no longer raises BusyError or the time is up."""
    for pause in pauses(timeout):
        try:
            return await attempt()
        except BusyError:
            await asyncio.sleep(pause)
    return await attempt()


def summed_up(infos: Iterable[BotInfo]) -> tuple[BotInfo, ...]:
    """Make one of all that is known about a bot; those who use a store for it come one after another, bot by bot."""
    bots = []
    for name, group in itertools.groupby(infos, lambda info: info.name):
        known = list(group)
        attached = [info.attached_at for info in known if info.is_attached]
        since = min(attached) if attached else max(info.attached_at for info in known)
        bots.append(BotInfo(name, since, max(info.last_seen for info in known), bool(attached)))
    return tuple(bots)


def no_such_store(name: str, place: str) -> StoreNotFoundError:
    """Build the error for a store that is not there."""
    return StoreNotFoundError(f"there is no store {name!r} in {place}; create it, or look at names()")


def store_gone() -> StoreNotFoundError:
    """Build the error for a store that was there."""
    return StoreNotFoundError("the store was deleted meanwhile; open or create it again")


def store_exists(name: str, place: str) -> StoreExistsError:
    """Build the error for a name that is taken."""
    return StoreExistsError(f"there is a store {name!r} in {place} already; open it, or take another name")


def in_use(name: str, bots: tuple[str, ...]) -> StoreInUseError:
    """Build the error for a store that bots are attached to."""
    shown = ", ".join(map(repr, bots))
    message = f"store {name!r} is in use by {shown}; stop them first, or force it with force=True"
    return StoreInUseError(message, bots=bots)


def lease_lost(name: str) -> LeaseLostError:
    """Build the error for a named lock that is no longer held."""
    return LeaseLostError(f"the lock {name!r} was lost while it was held; nothing was written, acquire it again")
