"""Named locks of the async face; a task beside the holder renews each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.errors import KVPersistenceError, ReentryError
from ptb_kvpersistence.model import ReleaseLease, RenewLease
from ptb_kvpersistence.store import leases
from ptb_kvpersistence.store.leases import ANSWER_TIMEOUT, RENEWALS, Lease, Moment, Wanted
from ptb_kvpersistence.store.operations import drive_async

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta
    from types import TracebackType

    from ptb_kvpersistence.backends.base import AsyncBackend
    from ptb_kvpersistence.model import LeaseReply
    from ptb_kvpersistence.store.operations import Handle

_logger = logging.getLogger(__name__)


class AsyncLock:
    """A named lock; an async context manager that gives a :class:`~ptb_kvpersistence.store.leases.Lease`.

    It may be used again and again, and by several tasks.

    Raises:
        LockTimeoutError: At the beginning: others had it for ``timeout`` seconds.
        ReentryError: At the beginning: this task has it, or is inside a transaction on the store.
        StoreNotFoundError: At the beginning: the store was deleted.

    Cancellation:
        While waiting, the place in the line is given up, and so is a lock that came just then.
    """

    def __init__(
        self, backend: AsyncBackend, handle: Handle, name: str, *, ttl: float | timedelta, timeout: float
    ) -> None:
        self._wanted = Wanted(handle, name, ttl, timeout)
        self._backend = backend

    async def __aenter__(self) -> Lease:
        self._wanted.refuse_in_transaction()
        holder = leases.holder()
        attempts: list[asyncio.Future[Lease | LeaseReply]] = []
        try:
            lease = await self._acquire(holder, attempts)
        except ReentryError:
            raise
        except Exception:
            await self._abandon(holder, None)
            raise
        except BaseException:
            _ = _in_background(self._abandon(holder, attempts[-1] if attempts else None))
            raise
        leases.entered(lease)
        _renewals[lease] = asyncio.ensure_future(_renew(lease, self._backend))
        return lease

    async def _acquire(self, holder: str, attempts: list[asyncio.Future[Lease | LeaseReply]]) -> Lease:
        wanted, perform = self._wanted, self._wanted.impatient(self._backend.perform)
        pauses = wanted.pauses()
        pause = next(pauses, None)
        while True:
            # Attempts go on when the caller is cancelled; what they bring is given back then.
            attempts[:] = [asyncio.ensure_future(drive_async(wanted.acquire(holder, waits=pause is not None), perform))]
            attempt = await asyncio.shield(attempts[0])
            if isinstance(attempt, Lease):
                return attempt
            if pause is None:
                raise wanted.timed_out()
            await asyncio.sleep(pause)
            try:
                pause = pauses.send(attempt.ahead)
            except StopIteration:
                pause = None

    async def _abandon(self, holder: str, attempt: asyncio.Future[Lease | LeaseReply] | None) -> None:
        token = None
        if attempt is not None:
            with contextlib.suppress(Exception):
                token = (await attempt).token
        try:
            await drive_async(self._wanted.give_up(holder, token), self._wanted.impatient(self._backend.perform))
        except Exception as error:  # noqa: BLE001 - the database may be closed just now; nobody waits for this
            _logger.debug("could not leave the line for the lock %r: %s", self._wanted.name, error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = leases.left(self._wanted.handle.backend, self._wanted.name)
        if lease is not None and lease.is_own and not lease.is_over:
            await _give_back(lease, self._backend)


async def _give_back(lease: Lease, backend: AsyncBackend, timeout: float | None = None) -> None:
    was_held, lease.is_over = lease.is_held, True
    await asyncio.shield(_in_background(_release(lease, backend, was_held, timeout)))


async def _release(lease: Lease, backend: AsyncBackend, was_held: bool, timeout: float | None) -> None:
    renewal = _renewals.pop(lease)
    if renewal.get_loop() is asyncio.get_running_loop():
        renewal.cancel()
        await asyncio.wait([renewal])
    else:
        with contextlib.suppress(RuntimeError):  # that loop is closed
            renewal.get_loop().call_soon_threadsafe(renewal.cancel)
    try:
        request = ReleaseLease(lease.store, lease.name, lease.holder, lease.token)
        released = await backend.perform(request, timeout=timeout)
    except KVPersistenceError as failure:
        _logger.warning("could not give back the lock %r, it ends by itself: %s", lease.name, failure)
    else:
        if was_held and not released:
            _logger.warning("the lock %r was lost while it was held; somebody else may have it", lease.name)


async def give_back(backend: AsyncBackend) -> None:
    """Give back all locks that are held by a backend which is about to be closed."""
    for lease in leases.of(backend):
        await _give_back(lease, backend, ANSWER_TIMEOUT)


async def _renew(lease: Lease, backend: AsyncBackend) -> None:
    interval = lease.ttl / 1000 / RENEWALS
    pause = interval
    while True:
        await asyncio.sleep(pause)
        since, pause = Moment(), interval
        try:
            request = RenewLease(lease.store, lease.name, lease.token, lease.ttl)
            is_held = await backend.perform(request, timeout=interval / 2)
        except Exception as error:  # noqa: BLE001 - the connection may be closed just now, and opened again
            if lease.is_lost_after(error):
                return
            pause = interval / 4
            continue
        if not is_held:
            lease.lost()
            return
        lease.renewed(since)


_renewals: Final[dict[Lease, asyncio.Task[None]]] = {}
_running: Final[set[asyncio.Task[None]]] = set()


def _in_background(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
