"""The memory backend of both faces.

A named memory database (``memory:name``) is one per process; an unnamed one belongs to its opener.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT, retry_busy, retry_busy_async
from ptb_kvpersistence.backends.memory.engine import MemoryEngine, named_engine
from ptb_kvpersistence.errors import BusyError, LockTimeoutError, ReentryError, StoreClosedError, StoreNotFoundError
from ptb_kvpersistence.model import ListDomains, SetDomain

if TYPE_CHECKING:
    from ptb_kvpersistence.model import Commit, R, Requested


class _Shared:
    """What both faces have.

    Attributes:
        name: The URL.
        is_open: False once closed.
        engine: Performs the requests.
    """

    def __init__(self, name: str = "", engine: MemoryEngine | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = f"memory:{name}"
        self.is_open = True
        self.engine = engine or named_engine(name)
        self._timeout = timeout
        self._holders: dict[object, object] = {}

    def _check_open(self) -> None:
        if not self.is_open:
            message = f"{self.name} was closed; connect again"
            raise StoreClosedError(message)

    def _refuse_reentry(self, caller: object) -> None:
        if caller in self._holders:
            message = (
                f"an exclusive transaction on {self.name} would wait for itself; "
                "use the transaction's own store, or end it first"
            )
            raise ReentryError(message)

    def _lock_timeout(self, timeout: float) -> LockTimeoutError:
        return LockTimeoutError(f"{self.name} was locked by others for {timeout:g} s; try again, or wait longer")

    def forget(self, caller: object) -> None:
        """Note that a session is over."""
        self._holders.pop(caller, None)


class MemoryBackend(_Shared):
    """Performs requests in memory for the sync face."""

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for an exclusive session."""
        self._check_open()
        try:
            return self.engine.perform(request)
        except BusyError:
            self._refuse_to_block()
        limit = self._timeout if timeout is None else timeout
        return retry_busy(lambda: self.engine.perform(request), limit)  # type: ignore[no-any-return]

    def _refuse_to_block(self) -> None:
        self._refuse_reentry(threading.get_ident())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        message = f"{self.name} is locked, and waiting would block the running event loop; use AsyncStore in coroutines"
        raise ReentryError(message)

    def peek(self, max_age: float = 0.0) -> object | None:  # noqa: ARG002 - an answer is never late
        """Give the latest version: nothing was committed between two equal ones."""
        return self.engine.version

    def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:  # noqa: ARG002 - all of it
        """Begin an exclusive session, waiting up to ``timeout`` seconds."""
        self._check_open()
        caller = threading.get_ident()
        session = _Session(self, caller)
        try:
            self.engine.begin(session)
        except BusyError:
            self._refuse_to_block()
            try:
                retry_busy(lambda: self.engine.begin(session), timeout)
            except BusyError:
                raise self._lock_timeout(timeout) from None
        self._holders[caller] = session
        return session

    def close(self) -> None:
        """Close; later requests raise StoreClosedError."""
        self.is_open = False


class AsyncMemoryBackend(_Shared):
    """Performs requests in memory for the async face."""

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for an exclusive session."""
        self._check_open()
        try:
            return self.engine.perform(request)
        except BusyError:
            self._refuse_reentry(asyncio.current_task())

        async def attempt() -> R:
            return self.engine.perform(request)

        return await retry_busy_async(attempt, self._timeout if timeout is None else timeout)  # type: ignore[no-any-return]

    async def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _AsyncSession:  # noqa: ARG002 - all
        """Begin an exclusive session, waiting up to ``timeout`` seconds."""
        self._check_open()
        caller = asyncio.current_task()
        self._refuse_reentry(caller)
        session = _Session(self, caller)

        async def attempt() -> None:
            self.engine.begin(session)

        try:
            await retry_busy_async(attempt, timeout)
        except BusyError:
            raise self._lock_timeout(timeout) from None
        self._holders[caller] = session
        return _AsyncSession(session)

    def peek(self, max_age: float = 0.0) -> object | None:  # noqa: ARG002 - an answer is never late
        """Give the latest version: nothing was committed between two equal ones."""
        return self.engine.version

    def blocking(self) -> MemoryBackend:
        """Make a sync backend for the same database."""
        return MemoryBackend(engine=self.engine)

    async def release(self) -> None:
        """Do nothing; memory holds no connections."""

    async def close(self) -> None:
        """Close; later requests raise StoreClosedError."""
        self.is_open = False


class _Session:
    """An exclusive session of one thread or task."""

    def __init__(self, backend: _Shared, caller: object) -> None:
        self._backend = backend
        self._caller = caller
        self._settings: list[SetDomain] = []

    def perform(self, request: Requested[R]) -> R:
        """Perform a reading request, or one that the end may yet undo."""
        if isinstance(request, SetDomain):
            self._settings.append(self._as_it_is(request))
        return self._backend.engine.perform(request, self)

    def _as_it_is(self, request: SetDomain) -> SetDomain:
        domains = self._backend.engine.perform(ListDomains(request.store), self)
        return replace(request, keep=dict(domains).get(request.domain))

    def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        self._backend.forget(self._caller)
        try:
            if commit is not None and self._backend.engine.perform(commit, self).is_committed:
                self._settings.clear()
        finally:
            self._undo()
            self._backend.engine.end()

    def _undo(self) -> None:
        with suppress(StoreNotFoundError):
            while self._settings:
                self._backend.engine.perform(self._settings.pop(), self)


class _AsyncSession:
    """An exclusive session of one task."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    async def perform(self, request: Requested[R]) -> R:
        """Perform a reading request."""
        return self._session.perform(request)

    async def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        self._session.end(commit)
