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
from typing import ClassVar, Final

from ptb_kvpersistence.backends.sqlite.lock_file import LockFile

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
        self._place: LockFile | None = None

    def enter(self, timeout: float) -> bool:
        """Wait for the turn.

        Args:
            timeout: Seconds.

        Returns:
            Whether it came. Where no lock file can be made there is no queue, and it comes at once.
        """
        try:
            place = LockFile(self._path)
        except OSError:
            return True
        deadline = time.monotonic() + timeout
        try:
            is_won = place.try_lock() or _poll(place, min(timeout, POLLED))
        except BaseException:
            place.close()
            raise
        if is_won:
            self._place = place
        else:
            self._place = _wait(self._path, place, deadline - time.monotonic())
        return self._place is not None

    def leave(self) -> None:
        """Let the next one in."""
        place, self._place = self._place, None
        if place is not None:
            place.close()


def _poll(place: LockFile, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        if place.try_lock():
            return True
    return False


if sys.platform == "win32":

    def _wait(_path: str, place: LockFile, timeout: float) -> LockFile | None:
        is_won = False
        try:
            is_won = _poll(place, timeout)
        finally:
            if not is_won:
                place.close()
        return place if is_won else None

else:

    def _wait(path: str, place: LockFile, timeout: float) -> LockFile | None:
        """Wait on a thread, since the system's own waiting knows no timeout; give the place whose turn came."""
        waiter = None
        if timeout > 0:
            with contextlib.suppress(RuntimeError):  # no new threads at the end of the process
                waiter = _Waiter.in_line(path, place)
        if waiter is None or waiter.place is not place:
            place.close()
        return waiter.place if waiter is not None and waiter.wait(timeout) else None

    class _Waiter:
        """A thread in line. Who gives up leaves it there, for the next one of this process that has to wait.

        So a first in line that is frozen for hours costs one thread for each that waits at a time, not for each wait.
        """

        _mutex: ClassVar[threading.Lock]
        _left: ClassVar[list[_Waiter]]

        def __init__(self, path: str, place: LockFile) -> None:
            self.place = place
            self.path = path
            self._done = threading.Event()
            self.is_wanted = True
            self._is_over = False
            self._has_lock = False

        @classmethod
        def in_line(cls, path: str, place: LockFile) -> _Waiter:
            """Give one for a place, or one that was left, whose place is better.

            Raises:
                RuntimeError: No thread can be started.
            """
            with cls._mutex:
                for waiter in cls._left:
                    if waiter.path == path:
                        cls._left.remove(waiter)
                        waiter.is_wanted = True
                        return waiter
            waiter = cls(path, place)
            threading.Thread(target=waiter.run, name="ptb_kvpersistence:queue", daemon=True).start()
            return waiter

        @classmethod
        def start_anew(cls) -> None:
            """Begin without any; a fork has none of the threads, and maybe a mutex that nobody holds."""
            cls._mutex, cls._left = threading.Lock(), []

        def run(self) -> None:
            """Wait for the lock, without an end."""
            has_lock = self.place.wait_for_lock()
            with self._mutex:
                self._is_over = True
                self._has_lock = has_lock and self.is_wanted
                if not self.is_wanted:
                    self._left.remove(self)
            if not self._has_lock:
                self.place.close()
            self._done.set()

        def wait(self, timeout: float) -> bool:
            """Wait up to so many seconds; tell whether the lock came, which then is the caller's."""
            try:
                self._done.wait(timeout)
            except BaseException:
                if self._give_up():
                    self.place.close()
                raise
            return self._give_up()

        def _give_up(self) -> bool:
            """Stop waiting; tell whether the lock came before."""
            with self._mutex:
                if not self._is_over:
                    self.is_wanted = False
                    self._left.append(self)
                return self._has_lock

    _Waiter.start_anew()
    os.register_at_fork(after_in_child=_Waiter.start_anew)
