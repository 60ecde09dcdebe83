"""Named locks of the sync face, and the thread that renews them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from ptb_kvpersistence import process
from ptb_kvpersistence.errors import KVPersistenceError, ReentryError
from ptb_kvpersistence.model import ReleaseLease, RenewLease
from ptb_kvpersistence.store import leases
from ptb_kvpersistence.store.leases import ANSWER_TIMEOUT, RENEWALS, Lease, Moment, Wanted
from ptb_kvpersistence.store.operations import drive

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.store.operations import Handle


_logger = logging.getLogger(__name__)


class Lock:
    """A named lock; a context manager that gives a :class:`~ptb_kvpersistence.store.leases.Lease`.

    It may be used again and again, and by several threads.

    Raises:
        LockTimeoutError: At the beginning: others had it for ``timeout`` seconds.
        ReentryError: At the beginning: this thread has it, or is inside a transaction on the store, or waiting would
            block the running event loop.
        StoreNotFoundError: At the beginning: the store was deleted.
    """

    def __init__(self, backend: Backend, handle: Handle, name: str, *, ttl: float | timedelta, timeout: float) -> None:
        self._wanted = Wanted(handle, name, ttl, timeout)
        self._backend = backend

    def __enter__(self) -> Lease:
        self._wanted.refuse_in_transaction()
        holder = leases.holder()
        try:
            lease = self._acquire(holder)
        except ReentryError:
            raise
        except BaseException:
            self._leave(holder)
            raise
        leases.entered(lease)
        _current().add(lease, self._backend)
        return lease

    def _acquire(self, holder: str) -> Lease:
        wanted, perform = self._wanted, self._wanted.impatient(self._backend.perform)
        in_loop = _is_in_loop()
        pauses = wanted.pauses()
        pause = next(pauses, None)
        while True:
            attempt = drive(wanted.acquire(holder, waits=pause is not None and not in_loop), perform)
            if isinstance(attempt, Lease):
                return attempt
            if pause is None:
                raise wanted.timed_out()
            if in_loop:
                message = (
                    f"somebody else has the lock {wanted.name!r}, and waiting for it would block the running event "
                    "loop; use AsyncStore (connect_async, or persistence.store) in coroutines"
                )
                raise ReentryError(message)
            time.sleep(pause)
            try:
                pause = pauses.send(attempt.ahead)
            except StopIteration:
                pause = None

    def _leave(self, holder: str) -> None:
        try:
            drive(self._wanted.give_up(holder), self._wanted.impatient(self._backend.perform))
        except KVPersistenceError as error:
            _logger.debug("could not leave the line for the lock %r: %s", self._wanted.name, error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = leases.left(self._wanted.handle.backend, self._wanted.name)
        if lease is not None and lease.is_own and not lease.is_over:
            _release(lease, self._backend)


def _release(lease: Lease, backend: Backend, timeout: float | None = None) -> None:
    _current().remove(lease)
    was_held, lease.is_over = lease.is_held, True
    try:
        request = ReleaseLease(lease.store, lease.name, lease.holder, lease.token)
        released = backend.perform(request, timeout=timeout)
    except KVPersistenceError as failure:
        _logger.warning("could not give back the lock %r, it ends by itself: %s", lease.name, failure)
    else:
        if was_held and not released:
            _logger.warning("the lock %r was lost while it was held; somebody else may have it", lease.name)


def give_back(backend: Backend) -> None:
    """Give back all locks that are held by a backend which is about to be closed."""
    for lease in leases.of(backend):
        _release(lease, backend, ANSWER_TIMEOUT)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Renewer:
    """Renews the leases of one process, from one thread that sleeps while there are none."""

    def __init__(self) -> None:
        self.pid = process.pid
        self._condition = threading.Condition()
        self._due: dict[Lease, tuple[float, Backend]] = {}
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease, backend: Backend) -> None:
        with self._condition:
            self._due[lease] = (time.monotonic() + lease.ttl / 1000 / RENEWALS, backend)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="ptb_kvpersistence:leases", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no new threads at the end of the process
                    self._thread = None
            else:
                self._condition.notify()

    def remove(self, lease: Lease) -> None:
        with self._condition:
            self._due.pop(lease, None)

    def _work(self) -> None:
        while True:
            with self._condition:
                lease = min(self._due, key=lambda each: self._due[each][0], default=None)
                if lease is None:
                    self._condition.wait()
                    continue
                due, backend = self._due[lease]
                delay = due - time.monotonic()
                if delay > 0:
                    self._condition.wait(delay)
                    continue
            pause = self._renew(lease, backend)
            with self._condition:
                if pause is None:
                    self._due.pop(lease, None)
                elif lease in self._due:
                    self._due[lease] = (time.monotonic() + pause, backend)

    def _renew(self, lease: Lease, backend: Backend) -> float | None:
        """Renew once; gives the pause until the next time, None when there is none."""
        interval = lease.ttl / 1000 / RENEWALS
        since = Moment()
        try:
            request = RenewLease(lease.store, lease.name, lease.token, lease.ttl)
            is_held = backend.perform(request, timeout=interval / 2)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others have to be renewed
            return None if lease.is_lost_after(error) else interval / 4
        if not is_held:
            lease.lost()
            return None
        lease.renewed(since)
        return interval


_renewer = _Renewer()


def _current() -> _Renewer:
    global _renewer  # noqa: PLW0603 - a fork has no threads, and no leases
    if _renewer.pid != process.pid:
        _renewer = _Renewer()
    return _renewer
