"""Transactions of the sync face."""

from __future__ import annotations

import inspect
import random
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from ptb_kvpersistence import process
from ptb_kvpersistence.errors import ConflictError, LeaseLostError, ReentryError
from ptb_kvpersistence.store import ambient, leases
from ptb_kvpersistence.store.arguments import patience
from ptb_kvpersistence.store.buffer import Buffer
from ptb_kvpersistence.store.face import Face
from ptb_kvpersistence.store.operations import drive, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

    from ptb_kvpersistence.backends.base import Session
    from ptb_kvpersistence.model import Commit, R, Requested

T = TypeVar("T")
S = TypeVar("S", bound=Face)
LOCK_TIMEOUT: Final = 10.0
"""Seconds that an exclusive transaction waits for its turn by default."""
RUN_ATTEMPTS: Final = 100


class BufferedBackend:
    """Stands in for the backend inside a transaction."""

    def __init__(self, name: str, buffer: Buffer, perform: Callable[[Requested[Any]], Any]) -> None:
        self.name = name
        self._buffer = buffer
        self._perform = perform

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:  # noqa: ARG002 - the port's signature
        """Answer from the transaction's writes, and from the store."""
        reply = self._buffer.at_once(request)
        return cast("R", drive(self._buffer.perform(request), self._perform) if reply is None else reply)


class Transaction(Generic[S]):
    """All or nothing; a context manager that gives the store as seen inside.

    Raises:
        ConflictError: At the end, or at a read: what was read has been changed by somebody else. Nothing was written.
        LockTimeoutError: At the beginning: others had the lock for ``timeout`` seconds.
        LeaseLostError: At the end: a named lock that is held around it was lost. Nothing was written.
        ReentryError: At the beginning: the lock would wait for this very thread.
    """

    def __init__(self, store: S, *, lock: bool, timeout: float) -> None:
        self._store = store
        self._lock = lock
        self._timeout = patience(timeout)
        self._session: Session | None = None
        self._token: Token[Any] | None = None
        self._outer: ambient.Ambient | None = None
        self._number = -1
        self._is_open = False
        self._pid = process.pid

    def __enter__(self) -> S:
        if self._is_open:
            message = "this transaction is open already; call store.transaction() for each block"
            raise ReentryError(message)
        store = self._store
        self._outer = ambient.find(store.key, store.handle.info)
        if self._outer is not None:
            return self._enter_nested(self._outer)
        info = store.handle.info
        store_id = drive(open_store(store.handle), store.backend.perform) if info is None else info.id
        perform: Callable[[Any], Any] = store.backend.perform
        if self._lock:
            self._session = store.backend.exclusive(store_id, self._timeout, durable=store.handle.durable)
            perform = self._session.perform
        self._buffer = Buffer(store_id, is_exclusive=self._lock, durable=store.handle.durable)
        self._view = store.bound_to(BufferedBackend(store.backend.name, self._buffer, perform))
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        if self._outer is not None:
            if kind is not None:
                self._outer.buffer.roll_back_to(self._savepoint)
            return
        if self._pid != process.pid:
            return  # a fork that leaves the block; the transaction is its parent's
        ambient.watchman.closed(self._number)
        assert self._token is not None  # noqa: S101 - set on entering
        ambient.leave(self._token)
        commit = self._buffer.commit() if kind is None else None
        self._buffer.is_over = True
        try:
            commit = leases.fence(self._store.handle.backend, commit)
        except LeaseLostError:
            if self._session is not None:
                self._session.end(None)
            raise
        if self._session is not None:
            self._end(self._session, commit)
        elif kind is None:
            drive(self._buffer.finish(commit), self._store.backend.perform)

    def _end(self, session: Session, commit: Commit | None) -> None:
        try:
            if commit is not None:
                drive(self._buffer.settle(), session.perform)
        except BaseException:
            session.end(None)
            raise
        session.end(commit)
        if commit is not None:
            self._buffer.settled()


def run(store: S, function: Callable[[S], T]) -> T:
    """Call a function inside a transaction until no conflict stops it."""
    for attempt in range(RUN_ATTEMPTS):
        try:
            with Transaction(store, lock=False, timeout=LOCK_TIMEOUT) as view:
                result = function(view)
                if inspect.iscoroutine(result):
                    result.close()
                    message = "run() of a Store takes a plain function; AsyncStore awaits one that is async"
                    raise TypeError(message)
                return result
        except ConflictError:
            if attempt == RUN_ATTEMPTS - 1 or ambient.find(store.key, store.handle.info) is not None:
                raise
            # The jitter keeps rivals from meeting again; no secret depends on it.
            time.sleep(random.uniform(0, 0.001 * min(2**attempt, 64)))  # noqa: S311
    message = "unreachable"
    raise AssertionError(message)
