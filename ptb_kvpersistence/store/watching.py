"""Watching a store: the change feed, read again whenever a cheap look says that something was committed.

Only the latest change of a key is seen; states in between may coalesce. An entry that expires appears as a deletion:
each reading of the feed tells when the next one will, and a watcher whose time has come sweeps before it reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ptb_kvpersistence.errors import (
    BusyError,
    ConfigurationError,
    DecodeError,
    ReadOnlyError,
    ReentryError,
    StoreNotFoundError,
    WatchGapError,
)
from ptb_kvpersistence.model import Changes, Sweep
from ptb_kvpersistence.store.arguments import patience
from ptb_kvpersistence.store.operations import decode_value, drive, drive_async, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import Self

    from ptb_kvpersistence.backends.base import AsyncBackend, Backend
    from ptb_kvpersistence.model import ChangesReply, Requested
    from ptb_kvpersistence.store.operations import Scope

POLL: Final = 0.02
"""Seconds between two looks."""
PEEK_AGE: Final = 1.0
"""Seconds by which a server's notification channel may have died unnoticed."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks where nothing was written and nothing should expire: clocks are set, machines sleep."""
PAGE: Final = 500
_NEVER: Final = float("inf")


class Event(NamedTuple):
    """A change that a watcher sees.

    Attributes:
        key: The key.
        value: The value now; None if the entry was deleted or has expired, or cannot be read.
        is_deleted: Whether there is no entry any more.
        version: Of the change.
        cursor: Where to go on from later: pass it as ``since``.
        error: Why the value cannot be read, if so.
    """

    key: str
    value: Any
    is_deleted: bool
    version: int
    cursor: str
    error: DecodeError | None = None


class Feed:
    """Where one watcher stands; generators of requests, run by the two faces.

    Args:
        scope: What is watched.
        since: Where to begin.
        peek: Looks cheaply whether something was committed, as backends do.
    """

    def __init__(self, scope: Scope, since: int | str | None, peek: Callable[[float], object | None]) -> None:
        self._scope = scope
        self._peek = peek
        self._token: object | None = None
        self._incarnation, self._since = _parse(since)
        self._due_at = 0.0
        self._sweep_at = 0.0
        self._has_begun = False

    def begin(self) -> Generator[Requested[Any], Any, None]:
        """Find out, once, where to begin, and whether everything since then is still known."""
        if self._has_begun:
            return
        store = yield from prepare(self._scope)
        reply = yield Changes(store, 2**62, (self._scope.domain,), 1)
        self._check(reply.incarnation, reply.horizon, reply.head)
        if self._since is None:
            self._since = reply.head
        self._has_begun = True

    def read(self) -> Generator[Requested[Any], Any, list[Event]]:
        """Read the next page of changes; what has expired is swept before, so that it is among them."""
        store = yield from prepare(self._scope)
        reply = yield from self._changes(store)
        if _is_overdue(reply) and time.monotonic() >= self._sweep_at:
            swept = 0
            with suppress(BusyError, ReentryError, ReadOnlyError):  # the next time, then
                swept = yield Sweep(PAGE)
            reply = yield from self._changes(store)  # with a look of its own: the sweep itself is no news
            # Where it did not help, others would have to end first.
            self._sweep_at = time.monotonic() + LOOK_EVERY if not swept and _is_overdue(reply) else 0.0
        self._note_due(reply.expires_in)
        now = time.time() * 1000
        events = [self._event(change, now, reply.incarnation) for change in reply.changes]
        self._since = max(self._since or 0, reply.head)
        return events

    def is_due(self) -> bool:
        """Tell whether to read though nothing was written, since something may have expired."""
        return time.monotonic() >= self._due_at

    @property
    def can_be_told(self) -> bool:
        """Whether there is a cheap way to learn of news."""
        return self._token is not None

    def has_news(self) -> bool:
        """Tell whether something was committed since it was read, where that can be told."""
        return self._token is not None and self._peek(PEEK_AGE) != self._token

    def _changes(self, store: int) -> Generator[Requested[Any], Any, ChangesReply]:
        assert self._since is not None  # noqa: S101 - set by begin
        self._token = self._peek(PEEK_AGE)
        try:
            reply: ChangesReply = yield Changes(store, self._since, (self._scope.domain,), PAGE)
        except StoreNotFoundError as error:
            message = "the store was deleted while it was watched; create or open it again"
            raise WatchGapError(message) from error
        self._check(reply.incarnation, reply.horizon, reply.head)
        return reply

    def _note_due(self, expires_in: int | None) -> None:
        now = time.monotonic()
        self._due_at = now + LOOK_EVERY
        if expires_in is not None:
            # Where entries expire one after the other, they are swept several at a time.
            soon = max(POLL, expires_in / 1000)
            self._due_at = min(self._due_at, max(now + soon, self._sweep_at))

    def _check(self, incarnation: str, horizon: int, head: int) -> None:
        if self._incarnation not in (None, incarnation):
            message = "the store was made anew since; read it from the start and watch from there"
            raise WatchGapError(message)
        self._incarnation = incarnation
        if self._since is not None and (0 < self._since < horizon or self._since > max(head, horizon)):
            message = (
                "changes after that version are no longer known; read the store from the start and watch from there"
            )
            raise WatchGapError(message)

    def _event(self, change: Any, now: float, incarnation: str) -> Event:
        cursor = f"{incarnation}:{change.version}"
        if change.value is None or (change.expires_at is not None and change.expires_at <= now):
            return Event(change.key, None, True, change.version, cursor)
        try:
            value = decode_value(self._scope, change.key, change.value)
        except DecodeError as error:
            return Event(change.key, None, False, change.version, cursor, error)
        return Event(change.key, value, False, change.version, cursor)


def _is_overdue(reply: ChangesReply) -> bool:
    return reply.expires_in is not None and reply.expires_in <= 0


def _parse(since: int | str | None) -> tuple[str | None, int | None]:
    if isinstance(since, str):
        incarnation, _, version = since.partition(":")
        if incarnation and version.isdigit():
            return incarnation, int(version)
    elif since is None or (type(since) is int and since >= 0):
        return None, since
    message = "since takes a version, the cursor of an event, or None"
    raise ConfigurationError(message)


class Watch(Iterator[Event]):
    """The changes of a domain, one by one as they come; also a context manager that closes it.

    Raises:
        WatchGapError: When it begins, or later: changes were forgotten, or the store was deleted or made anew.
    """

    def __init__(self, backend: Backend, scope: Scope, since: int | str | None, timeout: float | None) -> None:
        feed = Feed(scope, since, backend.peek)
        drive(feed.begin(), backend.perform)
        self._events = _follow(backend, feed, None if timeout is None else patience(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """End it; the next step raises StopIteration."""
        self._events.close()


def _follow(backend: Backend, feed: Feed, timeout: float | None) -> Generator[Event, None, None]:
    seen = time.monotonic()
    while True:
        events = drive(feed.read(), backend.perform)
        if events:
            yield from events
            seen = time.monotonic()
            continue
        while not feed.is_due() and not feed.has_news():
            if timeout is not None and time.monotonic() - seen >= timeout:
                return
            time.sleep(POLL)
            if not feed.can_be_told:
                break


class AsyncWatch(AsyncIterator[Event]):
    """The changes of a domain, one by one as they come; also an async context manager, which closes it.

    It begins on entering ``async with``, or at its first step where it is used without. A step may be cancelled, by
    ``asyncio.wait_for`` say: the next one goes on.

    Raises:
        WatchGapError: When it begins, or later: changes were forgotten, or the store was deleted or made anew.
    """

    def __init__(self, backend: AsyncBackend, scope: Scope, since: int | str | None, timeout: float | None) -> None:
        self._backend = backend
        self._feed = Feed(scope, since, backend.peek)
        self._timeout = _NEVER if timeout is None else patience(timeout)
        self._is_closed = False
        self._events: deque[Event] = deque()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await drive_async(self._feed.begin(), self._backend.perform)
        return self

    async def __aexit__(self, *_details: object) -> None:
        await self.aclose()

    async def __anext__(self) -> Event:
        async with self._turn:
            await drive_async(self._feed.begin(), self._backend.perform)
            until, has_looked = time.monotonic() + self._timeout, False
            while not (self._events or self._is_closed or (has_looked and time.monotonic() >= until)):
                await self._look(until)
                has_looked = True
        if self._is_closed or not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def _look(self, until: float) -> None:
        # A step that is cancelled, by wait_for() say, has lost nothing: the next one begins where it began.
        feed = self._feed
        self._events.extend(await drive_async(feed.read(), self._backend.perform))
        while not (self._events or self._is_closed or feed.is_due() or feed.has_news() or time.monotonic() >= until):
            await asyncio.sleep(POLL)
            if not feed.can_be_told:
                return

    async def aclose(self) -> None:
        """End it; the next step raises StopAsyncIteration."""
        self._is_closed = True
