"""Transactions of the async face."""

from __future__ import annotations

import asyncio
import inspect
import random
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ptb_kvpersistence.errors import ConflictError, LeaseLostError, ReentryError
from ptb_kvpersistence.store import ambient, leases
from ptb_kvpersistence.store.arguments import patience
from ptb_kvpersistence.store.buffer import Buffer
from ptb_kvpersistence.store.face import Face
from ptb_kvpersistence.store.operations import drive_async, open_store
from ptb_kvpersistence.store.transaction import LOCK_TIMEOUT, RUN_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Token
    from types import TracebackType

    from ptb_kvpersistence.backends.base import AsyncSession
    from ptb_kvpersistence.model import Commit, R, Requested

T = TypeVar("T")
S = TypeVar("S", bound=Face)


class AsyncBufferedBackend:
    """Stands in for the backend inside a transaction."""

    def __init__(self, name: str, buffer: Buffer, perform: Callable[[Requested[Any]], Awaitable[Any]]) -> None:
        self.name = name
        self._buffer = buffer
        self._perform = perform

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:  # noqa: ARG002 - the port's
        """Answer from the transaction's writes, and from the store."""
        reply = self._buffer.at_once(request)
        return await drive_async(self._buffer.perform(request), self._perform) if reply is None else reply


class AsyncTransaction(Generic[S]):
    """All or nothing; an async context manager that gives the store as seen inside.

    Raises:
        ConflictError: At the end, or at a read: what was read has been changed by somebody else. Nothing was written.
        LockTimeoutError: At the beginning: others had the lock for ``timeout`` seconds.
        LeaseLostError: At the end: a named lock that is held around it was lost. Nothing was written.
        ReentryError: At the beginning: the lock would wait for this very task.

    Cancellation:
        Inside, nothing is written. Once the end has begun, the commit is carried out.
    """

    def __init__(self, store: S, *, lock: bool, timeout: float) -> None:
        self._store = store
        self._lock = lock
        self._timeout = patience(timeout)
        self._session: AsyncSession | None = None
        self._token: Token[Any] | None = None
        self._outer: ambient.Ambient | None = None
        self._number = -1
        self._is_open = False

    async def __aenter__(self) -> S:
        if self._is_open:
            message = "this transaction is open already; call store.transaction() for each block"
            raise ReentryError(message)
        store = self._store
        self._outer = ambient.find(store.key, store.handle.info)
        if self._outer is not None:
            return self._enter_nested(self._outer)
        store_id = await drive_async(open_store(store.handle), store.backend.perform)
        perform: Callable[[Any], Awaitable[Any]] = store.backend.perform
        if self._lock:
            self._session = await store.backend.exclusive(store_id, self._timeout, durable=store.handle.durable)
            perform = self._session.perform
        self._buffer = Buffer(store_id, is_exclusive=self._lock, durable=store.handle.durable)
        self._view = store.bound_to(AsyncBufferedBackend(store.backend.name, self._buffer, perform))
        self._token = ambient.enter(store.key, self._buffer, self._view)
        self._number = ambient.watchman.opened(store)
        self._is_open = True
        return self._view  # type: ignore[no-any-return]

    def _enter_nested(self, outer: ambient.Ambient) -> S:
        if self._lock and not outer.buffer.is_exclusive:
            message = "a transaction cannot take the lock half-way; open the outer one with lock=True"
            raise ReentryError(message)
        self._savepoint = outer.buffer.savepoint()
        self._is_open = True
        return self._store.bound_to(outer.view.backend)  # type: ignore[no-any-return]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        if self._outer is not None:
            if kind is not None:
                self._outer.buffer.roll_back_to(self._savepoint)
            return
        ambient.watchman.closed(self._number)
        assert self._token is not None  # noqa: S101 - set on entering
        ambient.leave(self._token)
        commit = self._buffer.commit() if kind is None else None
        self._buffer.is_over = True
        try:
            commit = leases.fence(self._store.handle.backend, commit)
        except LeaseLostError:
            if self._session is not None:
                await self._session.end(None)
            raise
        if self._session is not None:
            await self._end(self._session, commit)
        elif kind is None:
            finishing = drive_async(self._buffer.finish(commit), self._store.backend.perform)
            await asyncio.shield(asyncio.ensure_future(finishing))

    async def _end(self, session: AsyncSession, commit: Commit | None) -> None:
        try:
            if commit is not None:
                await drive_async(self._buffer.settle(), session.perform)
        except BaseException:
            await session.end(None)
            raise
        await session.end(commit)
        if commit is not None:
            self._buffer.settled()


async def run(store: S, function: Callable[[S], Awaitable[T]]) -> T:
    """Call a coroutine function inside a transaction until no conflict stops it."""
    for attempt in range(RUN_ATTEMPTS):
        try:
            async with AsyncTransaction(store, lock=False, timeout=LOCK_TIMEOUT) as view:
                result: Any = function(view)
                if not inspect.isawaitable(result):
                    message = f"run() of an AsyncStore takes an async function; this gave a {type(result).__name__}"
                    raise TypeError(message)
                return cast("T", await result)
        except ConflictError:
            if attempt == RUN_ATTEMPTS - 1 or ambient.find(store.key, store.handle.info) is not None:
                raise
            # The jitter keeps rivals from meeting again; no secret depends on it.
            await asyncio.sleep(random.uniform(0, 0.001 * min(2**attempt, 64)))  # noqa: S311
    message = "unreachable"
    raise AssertionError(message)
