"""Which transaction the code at hand is inside of, and the watch over those that stay open.

An ambient transaction belongs to one task, one thread and one store. Child tasks and threads inherit the context but
not the transaction: who is not its owner does not see it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
from asyncio.events import _get_running_loop
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ptb_kvpersistence import process

if TYPE_CHECKING:
    from ptb_kvpersistence.model import StoreInfo
    from ptb_kvpersistence.store.buffer import Buffer
    from ptb_kvpersistence.store.face import Face

_logger = logging.getLogger(__name__)

OPEN_TOO_LONG: Final = 10.0
"""Seconds after which an open transaction is reported."""
_LOOK_EVERY: Final = 0.5


class Ambient(NamedTuple):
    """A transaction that is open.

    Attributes:
        key: Backend and name of the store.
        owner: Process, thread and task.
        buffer: What it has read and written.
        view: The store as seen inside.
        outer: The one around it, of another store or owner.
    """

    key: tuple[object, str]
    owner: tuple[int, int, object]
    buffer: Buffer
    view: Any
    outer: Ambient | None


current: ContextVar[Ambient | None] = ContextVar("ptb_kvpersistence_transaction", default=None)


def owner() -> tuple[int, int, object]:
    """Say who is running: the process (a fork is another one), the thread and, in an event loop, the task."""
    loop = _get_running_loop()  # as get_running_loop(), without the cost of an exception
    return process.pid, threading.get_ident(), None if loop is None else asyncio.current_task(loop)


def find(key: tuple[object, str], info: StoreInfo | None = None) -> Ambient | None:
    """Find the open transaction of this caller on a store; ``info`` tells apart stores that had one name in turn."""
    ambient = current.get()
    if ambient is None:
        return None
    caller = owner()
    while ambient is not None:
        if ambient.key == key and ambient.owner == caller and (info is None or info.id == ambient.buffer.store):
            return ambient
        ambient = ambient.outer
    return None


def enter(key: tuple[object, str], buffer: Buffer, view: Any) -> Token[Ambient | None]:
    """Make a transaction the ambient one of this caller."""
    return current.set(Ambient(key, owner(), buffer, view, current.get()))


def leave(token: Token[Ambient | None]) -> None:
    """Undo :func:`enter`."""
    try:
        current.reset(token)
    except ValueError:
        # An async generator may be closed in another context than it was begun in; that context is gone anyway.
        current.set(None)


class Watchman:
    """Reports transactions that stay open too long, from a thread that sleeps while there are none."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everything; a fork has none of these transactions, no thread, and maybe a lock that nobody holds."""
        self._open: dict[int, tuple[float, Face]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_wanted = threading.Event()
        self._is_awake = False

    def opened(self, store: Face) -> int:
        """Note that a transaction on a store begins; the reply is for :meth:`closed`."""
        number = next(self._numbers)
        self._open[number] = (time.monotonic(), store)
        if not self._is_awake:
            self._wake()
        return number

    def closed(self, number: int) -> None:
        """Note that a transaction has ended."""
        self._open.pop(number, None)

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="ptb_kvpersistence:watchman", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no new threads at the end of the process
                    return
                self._thread = thread
        self._is_wanted.set()

    def _watch(self) -> None:
        while True:
            self._is_awake = bool(self._open)
            # Whoever came before that was noted is seen now, and who comes after it wakes this thread.
            if not self._open:
                self._is_wanted.wait()
                self._is_wanted.clear()
                self._is_awake = True
            time.sleep(_LOOK_EVERY)
            self._report(time.monotonic())

    def _report(self, now: float) -> None:
        for number, (since, store) in list(self._open.items()):
            if now - since >= OPEN_TOO_LONG and self._open.pop(number, None) is not None:
                _logger.warning(
                    "a transaction on store %r in %s has been open for %.0f s; keep them short",
                    store.name,
                    store.backend.name,
                    now - since,
                )


watchman: Final = Watchman()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchman.start_anew)
