"""A queue in front of the writer lock, so that waiting processes get their turn.

SQLite's own waiting is a lottery: who sleeps longest loses. A lock on a file of its own wakes waiters in about the
order in which they came. It only orders them; what keeps writers apart is SQLite's lock.

To hand that over from process to process costs more than a short transaction does. So a writer that finds it free may
take it without standing in line, but only so many times in a row: then those who wait have their turn. Who stands first
in line and does not move, since it was frozen, keeps such a writer for :data:`COURTESY` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from ptb_kvpersistence.backends.sqlite.lock_file import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """One place in the queue at a time; used by one thread, or one task, at a time."""

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
        began = time.monotonic()
        try:
            is_first = self._try()
            while not is_first and time.monotonic() - began < min(timeout, POLLED):
                time.sleep(_LOOK_EVERY)
                is_first = self._try()
        except OSError:
            return True
        if not is_first and timeout > POLLED:
            came = threading.Event()
            ticket = _Ticket(came.set)
            try:
                _Line.join(self._path, ticket)
                came.wait(timeout - (time.monotonic() - began))
            except BaseException:
                self._place = ticket.give_up()
                self.leave()
                raise
            self._place = ticket.give_up()
        return self._place is not None

    async def enter_async(self, timeout: float) -> bool:
        """As :meth:`enter`, without blocking the loop."""
        try:
            is_first = self._try()
        except OSError:
            return True
        if not is_first and timeout > 0:
            loop, came = asyncio.get_running_loop(), asyncio.Event()
            ticket = _Ticket(lambda: loop.call_soon_threadsafe(came.set))
            timer = loop.call_later(timeout, came.set)
            try:
                _Line.join(self._path, ticket)
                await came.wait()
            except BaseException:
                self._place = ticket.give_up()
                self.leave()
                raise
            finally:
                timer.cancel()
            self._place = ticket.give_up()
        return self._place is not None

    def leave(self) -> None:
        """Let the next one in."""
        place, self._place = self._place, None
        if place is not None:
            place.close()

    def _try(self) -> bool:
        place = LockFile(self._path)
        if place.try_lock():
            self._place = place
            return True
        place.close()
        return False


class _Ticket:
    """Somebody of this process who waits for a place."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell
        self._mutex = threading.Lock()
        self._is_wanted = True
        self._place: LockFile | None = None

    def give(self, place: LockFile) -> bool:
        """Hand a place over; tell whether it was still wanted."""
        with self._mutex:
            if not self._is_wanted:
                return False
            try:
                self._tell()
            except RuntimeError:  # its loop was closed
                return False
            self._place = place
        return True

    def give_up(self) -> LockFile | None:
        """Stop waiting; gives the place if it has come before."""
        with self._mutex:
            self._is_wanted = False
            return self._place


class _Line:
    """Those of this process who wait for a place, and one thread that stands in line for them, one after the other.

    The thread is there since the system's own waiting knows no timeout. It goes on when they have given up, so a first
    in line that is frozen for hours costs one thread, and whoever waits next has the better place.
    """

    _mutex: ClassVar[threading.Lock]
    _all: ClassVar[dict[str, _Line]]

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: deque[_Ticket] = deque()

    @classmethod
    def start_anew(cls) -> None:
        """Begin without any; a fork has none of the threads, and maybe a mutex that nobody holds."""
        cls._mutex, cls._all = threading.Lock(), {}

    @classmethod
    def join(cls, path: str, ticket: _Ticket) -> None:
        """Line up; where no thread can be started, at the end of the process, nobody's turn comes."""
        with cls._mutex:
            line = cls._all.get(path)
            if line is None:
                line = cls(path)
                try:
                    threading.Thread(target=line.stand, name="ptb_kvpersistence:queue", daemon=True).start()
                except RuntimeError:
                    return
                cls._all[path] = line
            line._waiting.append(ticket)

    def stand(self) -> None:
        """Take one place after the other, until there is nobody to give them to."""
        goes_on = True
        while goes_on:
            place = self._next_place()
            with self._mutex:
                is_given = False
                while self._waiting and not is_given:
                    ticket = self._waiting.popleft()
                    is_given = place is not None and ticket.give(place)
                goes_on = is_given and bool(self._waiting)
                if not goes_on and self._all.get(self._path) is self:
                    del self._all[self._path]
            if place is not None and not is_given:
                place.close()

    def _next_place(self) -> LockFile | None:
        with contextlib.suppress(OSError):
            place = LockFile(self._path)
            if place.wait_for_lock():
                return place
            place.close()
        return None


_Line.start_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Line.start_anew)
