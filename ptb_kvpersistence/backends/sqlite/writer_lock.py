"""Taking the file's one writer lock for a session, by trying and by standing in line; on the calling thread."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from ptb_kvpersistence.backends.base import pauses_in_turn
from ptb_kvpersistence.backends.sqlite.failures import translate
from ptb_kvpersistence.backends.sqlite.queue import COURTESY, Luck, WriterQueue
from ptb_kvpersistence.errors import BusyError

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.sqlite.reads import StatementConnection


class WriterLock:
    """How one connection takes the lock; used by the thread that uses the connection."""

    def __init__(self, connection: StatementConnection, path: str) -> None:
        self._execute = connection.statement
        self._path = path
        self._queue = WriterQueue(path)
        self._luck = Luck()

    def take(self, timeout: float | None) -> bool:
        """Begin a transaction that holds the lock; tell whether it was free in time.

        Args:
            timeout: Seconds; None: not to wait, nor to let those who do go first.

        Raises:
            sqlite3.Error: As SQLite says; the caller translates.
        """
        if timeout is None:
            return self._try()
        deadline = time.monotonic() + timeout
        has_turn = False
        if not self._luck.may_be_tried():
            has_turn = self._queue.enter(min(timeout, COURTESY))
            self._luck.stood_in_line()
        if not has_turn:
            if self._try():
                return True
            if not self._queue.enter(deadline - time.monotonic()):
                return False
            self._luck.stood_in_line()
        is_taken = False
        try:
            is_taken = self._take_in_turn(deadline)
        finally:
            if not is_taken:
                self._queue.leave()
        return is_taken

    def let_the_next_in(self) -> None:
        """Give the place in line back, which is kept while the lock is held."""
        self._queue.leave()

    def _take_in_turn(self, deadline: float) -> bool:
        if self._try():
            return True
        for pause in pauses_in_turn(deadline - time.monotonic()):
            time.sleep(pause)
            if self._try():
                return True
        return False

    def _try(self) -> bool:
        try:
            self._execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not isinstance(translate(error, self._path), BusyError):
                raise
            return False
        return True
