"""A queue in front of the writer lock, so that waiting processes get their turn.

SQLite's own waiting is a lottery: who sleeps longest loses. A lock on a file of its own wakes waiters in about the
order in which they came. It only orders them; what keeps writers apart is SQLite's lock.

How often it is gone past, and what to do until one's turn has come, is in ``turns``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from ptb_kvpersistence.backends.sqlite.lock_file import LOOK_EVERY, LockFile

if TYPE_CHECKING:
    from collections.abc import Callable

POLLED: Final = 0.008
"""Seconds for which a turn is waited for by looking again and again; a thread to wait in costs more than most waits."""


class WriterQueue:
    """One place in the queue at a time; used by one thread, or one task, at a time.

    Attributes:
        has_turn: Whether the turn has come; where no lock file can be made there is no queue, and it comes at once.
    """

    def __init__(self, path: str) -> None:
        # As SQLite does with its own files: who comes by a symbolic link must meet the others.
        self._path = f"{os.path.realpath(path)}-queue"
        self._place: LockFile | None = None
        self._ticket: _Ticket | None = None
        self.has_turn = False

    def enter(self, timeout: float) -> bool:
        """Wait for the turn; tell whether it came. Who has waited in vain may go on waiting, and has to leave.

        Args:
            timeout: Seconds.
        """
        began = time.monotonic()
        try:
            if self._ticket is None:
                while not self._look() and time.monotonic() - began < min(timeout, POLLED):
                    time.sleep(LOOK_EVERY)
            if not self.has_turn and timeout > POLLED:
                came = threading.Event()
                self._line_up(came.set)
                came.wait(timeout - (time.monotonic() - began))
                self._see()
        except BaseException:
            self.leave()
            raise
        return self.has_turn

    async def enter_async(self, timeout: float) -> bool:
        """As :meth:`enter`, without blocking the loop."""
        if self._ticket is None:
            self._look()
        if not self.has_turn and timeout > 0:
            loop, came = asyncio.get_running_loop(), asyncio.Event()
            self._line_up(lambda: loop.call_soon_threadsafe(came.set))
            timer = loop.call_later(timeout, came.set)
            try:
                await came.wait()
            except BaseException:
                self.leave()
                raise
            finally:
                timer.cancel()
            self._see()
        return self.has_turn

    def leave(self) -> None:
        """Let the next one in."""
        ticket, self._ticket = self._ticket, None
        place, self._place = self._place, None
        self.has_turn = False
        if ticket is not None:
            place = ticket.give_up()
        if place is not None:
            place.close()

    def _look(self) -> bool:
        try:
            if self._place is None:
                self._place = LockFile(self._path)
            self.has_turn = self._place.try_lock()
        except OSError:
            self.has_turn = True
        return self.has_turn

    def _line_up(self, tell: Callable[[], object]) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.close()
        if self._ticket is None:
            self._ticket = _Ticket(tell)
            _Line.join(self._path, self._ticket)
        else:
            self._ticket.tell_by(tell)

    def _see(self) -> None:
        self.has_turn = self._ticket is not None and self._ticket.is_good


class _Ticket:
    """Somebody of this process who waits for a place."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell
        self._mutex = threading.Lock()
        self._is_wanted = True
        self._place: LockFile | None = None

    @property
    def is_good(self) -> bool:
        """Whether the place has come."""
        with self._mutex:
            return self._place is not None

    def tell_by(self, tell: Callable[[], object]) -> None:
        """Have it told in another way from now on; at once, if the place has come meanwhile."""
        with self._mutex:
            self._tell = tell
            if self._place is not None:
                tell()

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
