"""The end of the process, and its forks: who is told, in which order, and what a fork waits for.

Threads that are no daemons (aiosqlite's workers are none) keep a process alive before its atexit callbacks run. So a
daemon thread waits for the main thread to end and runs the callbacks then; atexit runs whatever is left. Both go
through the same list, so each callback runs once.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from _thread import RLock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger(__name__)

SAVE_FIRST: Final = 0
"""Order of callbacks that save data."""
THEN_CLOSE: Final = 1
"""Order of callbacks that close connections and end threads."""

pid: int = os.getpid()
"""Of this process; to ask the system for it takes longer than some of what is done for each request."""
FORK_PATIENCE: Final = 10.0
"""Seconds that a fork waits for other threads."""
COURTESY: Final = 0.005
"""Seconds for which those who come out of a gate stay away while a fork waits."""

_is_fork_waiting = False


class _Gate(RLock):  # type: ignore[misc]  # typeshed says final; CPython and PyPy do not
    """A lock that goes to a waiting fork next; of its own accord it goes to whoever runs, again and again."""

    def __exit__(self, *_exc: object) -> None:
        self.release()
        if _is_fork_waiting:
            time.sleep(COURTESY)


class _Gates:
    """The locks of which a fork waits for each, since its copy of one that is held would never be released."""

    def __init__(self) -> None:
        self._forking = threading.RLock()
        self._changing = threading.RLock()
        self._outer: weakref.WeakSet[_Gate] = weakref.WeakSet()
        self._inner: weakref.WeakSet[_Gate] = weakref.WeakSet()
        self._held: list[_Gate] = []

    def make(self, *, is_inner: bool) -> _Gate:
        gate = _Gate()
        with self._changing:
            (self._inner if is_inner else self._outer).add(gate)
        return gate

    def shut(self) -> None:
        global _is_fork_waiting  # noqa: PLW0603 - asked for at each request
        deadline = time.monotonic() + FORK_PATIENCE
        held: list[_Gate] = []

        def take(gates: list[_Gate]) -> None:
            held.extend(gate for gate in gates if gate.acquire(timeout=max(0.0, deadline - time.monotonic())))

        self._forking.acquire()
        self._changing.acquire()
        _is_fork_waiting = True
        while (others := [gate for gate in self._outer if gate not in held]) and time.monotonic() < deadline:
            # Whoever holds one of them may be about to make one.
            self._changing.release()
            take(others)
            self._changing.acquire()
        take(list(self._inner))
        self._held = held

    def open(self) -> None:
        global _is_fork_waiting  # noqa: PLW0603
        _is_fork_waiting = False
        held, self._held = self._held, []
        for gate in held:
            gate.release()
        self._changing.release()
        self._forking.release()

    def open_in_child(self) -> None:
        global pid  # noqa: PLW0603 - a fork is another process
        pid = os.getpid()
        self.open()


_gates: Final = _Gates()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gates.shut, after_in_parent=_gates.open, after_in_child=_gates.open_in_child)


def gate(*, is_inner: bool = False) -> RLock:
    """Make a lock that no fork finds held by another thread: forks wait for it, for :data:`FORK_PATIENCE` at most.

    Args:
        is_inner: Whether it is taken inside of others. While one holds an inner one one takes no other, while one
            holds another one only inner ones, so that nobody waits for a fork that waits for him.
    """
    return _gates.make(is_inner=is_inner)


class _Ending:
    """The callbacks of one process."""

    def __init__(self) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._running = threading.RLock()
        self._callbacks: dict[object, tuple[int, Callable[[], None]]] = {}
        self._owners: dict[threading.Thread, None] = {}
        self._has_watcher = False

    def register(self, token: object, order: int, callback: Callable[[], None]) -> None:
        with self._lock:
            self._callbacks[token] = (order, callback)
            self._owners[threading.current_thread()] = None
            if self._has_watcher:
                return
            self._has_watcher = True
        atexit.register(self._run)
        # From Python 3.12 on no thread can be started once the main thread has ended; atexit is left.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._watch, name="ptb_kvpersistence:exit", daemon=True).start()

    def unregister(self, token: object) -> None:
        with self._lock:
            self._callbacks.pop(token, None)

    def _watch(self) -> None:
        threading.main_thread().join()
        # A loop may run in a thread of its own and outlive the main thread; a daemon does not count.
        for owner in list(self._owners):
            if not owner.daemon and owner is not threading.current_thread():
                owner.join()
        self._run()

    def _run(self) -> None:
        if pid != self.pid:
            return
        with self._running:
            while True:
                with self._lock:
                    if not self._callbacks:
                        return
                    token = min(self._callbacks, key=lambda item: self._callbacks[item][0])
                    _, callback = self._callbacks.pop(token)
                try:
                    callback()
                except Exception:
                    _logger.exception("could not finish properly at the end of the process")


_ending = _Ending()


def _current() -> _Ending:
    global _ending  # noqa: PLW0603 - a fork starts with callbacks of its own
    if _ending.pid != pid:
        _ending = _Ending()
    return _ending


def at_end(token: object, order: int, callback: Callable[[], None]) -> None:
    """Have ``callback`` called once when this process ends, in a thread that has no event loop.

    Args:
        token: Identifies the callback; registering it again replaces it.
        order: :data:`SAVE_FIRST` or :data:`THEN_CLOSE`.
        callback: What to call; it must not start threads.
    """
    _current().register(token, order, callback)


def forget(token: object) -> None:
    """Take back what :func:`at_end` registered."""
    _current().unregister(token)
