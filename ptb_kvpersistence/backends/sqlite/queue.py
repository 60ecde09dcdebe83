"""A queue in front of the writer lock, so that waiting processes get their turn.

SQLite's own waiting is a lottery: who sleeps longest loses. A lock on a file of its own wakes waiters in about the
order in which they came. It only orders them; what keeps writers apart is SQLite's lock.

To hand that over from process to process costs more than a short transaction does. So a writer that finds it free may
take it without standing in line, but only so many times in a row: then those who wait have their turn. Who stands first
in line and does not move, since it was frozen, keeps such a writer for :data:`COURTESY` only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from typing import ClassVar, Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

AHEAD: Final = 12
"""Writes in a row that one may try without standing in line."""
COURTESY: Final = 0.25
"""Seconds for which a writer that could well try stands in line after so many."""
POLLED: Final = 0.008
"""Seconds for which a turn is waited for by looking again and again; a thread to wait in costs more than most waits."""
_LOOK_EVERY: Final = 0.002


class Luck:
    """Counts the writes that were tried without standing in line."""

    def __init__(self) -> None:
        self._tries = 0

    def may_be_tried(self) -> bool:
        """Tell whether the next write may be tried at once; if not, it has to stand in line."""
        self._tries += 1
        return self._tries <= AHEAD

    def stood_in_line(self) -> None:
        """Note that the writer's turn has come."""
        self._tries = 0


class WriterQueue:
    """One place in the queue at a time; used by one thread at a time."""

    def __init__(self, path: str) -> None:
        # As SQLite does with its own files: who comes by a symbolic link must meet the others.
        self._path = f"{os.path.realpath(path)}-queue"
        self._handle: int | None = None
        _queues.add(self)

    def leave_to_parent(self) -> None:
        """Let go, in a fork, of a place that is the parent's; a copy would keep it when the parent is killed."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def enter(self, timeout: float) -> bool:
        """Wait for the turn.

        Args:
            timeout: Seconds.

        Returns:
            Whether it came. Where no lock file can be made there is no queue, and it comes at once.
        """
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return True
        self._handle = handle  # known while it waits: a fork in another thread must let go of it
        deadline = time.monotonic() + timeout
        try:
            is_won = _try_lock(handle) or _poll(handle, min(timeout, POLLED))
        except BaseException:
            self._handle = None
            os.close(handle)
            raise
        return is_won or self._wait(handle, deadline - time.monotonic())

    def _wait(self, handle: int, timeout: float) -> bool:
        waiter = None
        if timeout > 0:
            with contextlib.suppress(RuntimeError):  # no new threads at the end of the process
                waiter = _Waiter.in_line(self._path, handle)
        self._handle = None
        if waiter is None or waiter.handle != handle:
            os.close(handle)
        if waiter is None or not waiter.wait(timeout):
            return False
        self._handle = waiter.handle
        waiter.forget()
        return True

    def leave(self) -> None:
        """Let the next one in."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _unlock(handle)


_queues: Final[weakref.WeakSet[WriterQueue]] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for queue in list(_queues):
        queue.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


def _unlock(handle: int) -> None:
    # Closing alone would not do: a fork may have inherited the handle.
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _poll(handle: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        if _try_lock(handle):
            return True
    return False


if sys.platform == "win32":

    class _Waiter:
        def __init__(self, handle: int) -> None:
            self.handle = handle

        @classmethod
        def in_line(cls, _path: str, handle: int) -> _Waiter:
            return cls(handle)

        def wait(self, timeout: float) -> bool:
            is_won = False
            try:
                is_won = _poll(self.handle, timeout)
            finally:
                if not is_won:
                    os.close(self.handle)
            return is_won

        def forget(self) -> None:
            pass

else:

    class _Waiter:
        """A thread in line, since flock knows no timeout. Who gives up leaves it there, for the next one to wait.

        So a first in line that is frozen for hours costs one thread for each that waits at a time, not for each wait.
        """

        _mutex: ClassVar[threading.Lock]
        _all: ClassVar[set[_Waiter]]

        def __init__(self, path: str, handle: int) -> None:
            self.handle = handle
            self._path = path
            self._done = threading.Event()
            self._is_wanted = True
            self._has_lock = False

        @classmethod
        def in_line(cls, path: str, handle: int) -> _Waiter:
            """Give one that has the handle, or one that was left in line; that has the better place.

            Raises:
                RuntimeError: No thread can be started.
            """
            with cls._mutex:
                for waiter in cls._all:
                    if waiter._path == path and not waiter._is_wanted:
                        waiter._is_wanted = True
                        return waiter
                waiter = cls(path, handle)
                threading.Thread(target=waiter._run, name="ptb_kvpersistence:queue", daemon=True).start()
                cls._all.add(waiter)
            return waiter

        @classmethod
        def start_anew(cls) -> None:
            """Begin without any; in a fork they are the parent's, and a copy would keep a place when it is killed."""
            for waiter in getattr(cls, "_all", ()):
                with contextlib.suppress(OSError):  # a queue that knows it, too, was first
                    os.close(waiter.handle)
            cls._mutex, cls._all = threading.Lock(), set()

        def _run(self) -> None:
            has_lock = True
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX)
            except OSError:
                has_lock = False
            with self._mutex:
                self._has_lock = has_lock and self._is_wanted
                if not self._has_lock:
                    self._all.discard(self)
                    _unlock(self.handle)
            self._done.set()

        def wait(self, timeout: float) -> bool:
            """Wait up to so many seconds; tell whether the lock came, which then is the caller's."""
            try:
                self._done.wait(timeout)
            except BaseException:
                if self._has_come():
                    self.forget()
                    _unlock(self.handle)
                raise
            return self._has_come()

        def forget(self) -> None:
            """Leave the handle, which has the lock, to the caller."""
            with self._mutex:
                self._all.discard(self)

        def _has_come(self) -> bool:
            with self._mutex:
                self._is_wanted = self._has_lock
                return self._has_lock

    _Waiter.start_anew()
    os.register_at_fork(after_in_child=_Waiter.start_anew)
