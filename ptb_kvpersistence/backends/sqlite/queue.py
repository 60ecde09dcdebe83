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
from typing import Final

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
        self._handle, is_won = handle, False  # known while it waits: a fork in another thread must let go of it
        try:
            is_won = _win(handle, timeout)
        finally:
            if not is_won:
                self._handle = None
        return is_won

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


def _win(handle: int, timeout: float) -> bool:
    """Wait for the lock; the handle is closed where it does not come."""
    deadline = time.monotonic() + timeout
    try:
        is_won = _try_lock(handle) or _poll(handle, min(timeout, POLLED))
    except BaseException:
        os.close(handle)
        raise
    return is_won or _wait(handle, deadline - time.monotonic())


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

    def _wait(handle: int, timeout: float) -> bool:
        is_won = False
        try:
            is_won = _poll(handle, timeout)
        finally:
            if not is_won:
                os.close(handle)
        return is_won

else:

    def _wait(handle: int, timeout: float) -> bool:
        if timeout <= 0:
            os.close(handle)
            return False
        # flock knows no timeout; a thread that is left waiting gives the lock back when it comes.
        waiter = _Waiter(handle)
        thread = threading.Thread(target=waiter.run, name="ptb_kvpersistence:queue", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no new threads at the end of the process
            os.close(handle)
            return False
        return waiter.wait(timeout)

    class _Waiter:
        def __init__(self, handle: int) -> None:
            self._handle = handle
            self._mutex = threading.Lock()
            self._done = threading.Event()
            self._is_abandoned = False
            self._has_lock = False

        def run(self) -> None:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX)
            except OSError:
                self._done.set()
                return
            with self._mutex:
                self._has_lock = True
                if self._is_abandoned:
                    _unlock(self._handle)
            self._done.set()

        def wait(self, timeout: float) -> bool:
            try:
                self._done.wait(timeout)
            except BaseException:
                if self._give_up():
                    _unlock(self._handle)
                raise
            return self._give_up()

        def _give_up(self) -> bool:
            """Stop waiting; tell whether the lock came before."""
            with self._mutex:
                self._is_abandoned = not self._has_lock
                return self._has_lock
