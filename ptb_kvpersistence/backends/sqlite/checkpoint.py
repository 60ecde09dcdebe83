"""Checkpoints of the write-ahead log that keep clear of SQLite's WAL-reset bug, and the log short.

Up to 3.51.2 (but for the backports 3.44.6 and 3.50.7) a checkpoint that starts on a log which another one has just
copied out completely can race with the commit that resets the log, and committed pages are lost. So the automatic
checkpoints are off, and one is made only right after an own commit and under a lock file held since before that commit:
its frames are then surely not copied yet, and nobody can reset the log meanwhile.

Libraries without the bug are treated alike: where several write without a pause, the automatic checkpoints of all of
them would keep the one from its work that begins a long log anew.

Source: https://www.sqlite.org/wal.html#walresetbug
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final

from ptb_kvpersistence.backends.sqlite.lock_file import LockFile

CHECKPOINT_EVERY: Final = 1000
"""Mutations that a connection commits between two checkpoints; a large value counts as several."""
LARGE: Final = 8192
"""Bytes of values that count as one mutation more."""
LONG_LOG: Final = 16 * 2**20
"""Bytes; where the log is longer, a checkpoint sees to it that it begins anew."""
AGAIN_AFTER: Final = 100
"""Mutations after which such a checkpoint that was kept from its work is tried again."""
PATIENCE: Final = 50
"""Milliseconds that such a checkpoint waits for the writers, and then keeps them waiting for readers; more and more the
longer the log."""
MOST_PATIENCE: Final = 1000


class Checkpointer:
    """Decides when one connection makes a checkpoint; used by the thread that uses the connection."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        # As SQLite does with its own files: who comes by a symbolic link must meet the others.
        path = os.path.realpath(path)
        self._log_path = f"{path}-wal"
        self._lock_path = f"{path}-checkpoint"
        self._mutations = 0
        self._lock: LockFile | None = None
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {LONG_LOG}")

    def before_commit(self, mutations: int, size: int = 0) -> None:
        """Take the lock file if a checkpoint is due and nobody else has it; ``size`` in bytes."""
        self._mutations += mutations + size // LARGE
        if self._mutations >= CHECKPOINT_EVERY:
            self._lock = _try_lock(self._lock_path)

    def after_commit(self, *, committed: bool) -> None:
        """Make the checkpoint that is due, if the commit took place, and give the lock file back."""
        if self._lock is None:
            return
        try:
            if committed:
                self._mutations = 0
                # One only: a second one would start on a log that the first has copied out.
                times_too_long = self._size_of_log() // LONG_LOG
                if times_too_long:
                    self._write_out()
                    if not self._restart(min(MOST_PATIENCE, PATIENCE * times_too_long**2)):
                        self._mutations = CHECKPOINT_EVERY - AGAIN_AFTER
                else:
                    self._checkpoint("PASSIVE")
        finally:
            self._lock.close()
            self._lock = None

    def _size_of_log(self) -> int:
        try:
            return os.stat(self._log_path).st_size
        except OSError:
            return 0

    def _write_out(self) -> None:
        """Have the disk take the log while others still write, so that they wait for little of it afterwards.

        SQLite keeps its locks on other files; closing this one drops none.
        """
        with contextlib.suppress(OSError):  # Windows wants it open for writing
            handle = os.open(self._log_path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _restart(self, patience: int) -> bool:
        """Copy the log out while nobody writes, so that the next writer begins it anew.

        While several write without a pause, there is always something behind what a checkpoint has copied, and the
        log would grow for as long as they do.
        """
        self._connection.execute(f"PRAGMA busy_timeout = {patience}")
        try:
            return self._checkpoint("RESTART")
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")

    def _checkpoint(self, mode: str) -> bool:
        # Busy or a full disk: the next one will do.
        with contextlib.suppress(sqlite3.OperationalError):
            (is_kept_from_it, _, _) = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            return not is_kept_from_it
        return False


def _try_lock(path: str) -> LockFile | None:
    try:
        lock = LockFile(path)
    except OSError:
        return None
    if lock.try_lock():
        return lock
    lock.close()
    return None
