"""Checkpoints of the write-ahead log that keep clear of SQLite's WAL-reset bug.

Up to 3.51.2 (but for the backports 3.44.6 and 3.50.7) a checkpoint that starts on a log which another one has just
copied out completely can race with the commit that resets the log, and committed pages are lost. So with such a
library the automatic checkpoints are off, and one is made only right after an own commit and under a lock file
held since before that commit: its frames are then surely not copied yet, and nobody can reset the log meanwhile.

Source: https://www.sqlite.org/wal.html#walresetbug
"""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

CHECKPOINT_EVERY: Final = 1000
"""Mutations that a connection commits between two checkpoints."""


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite library needs the care."""
    if version >= (3, 51, 3):
        return False
    return not ((3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


class Checkpointer:
    """Decides when one connection makes a checkpoint; used by the thread that uses the connection."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        # As SQLite does with its own files: who comes by a symbolic link must meet the others.
        self._lock_path = f"{os.path.realpath(path)}-checkpoint"
        self._is_active = has_wal_reset_bug()
        self._mutations = 0
        self._lock: int | None = None
        if self._is_active:
            connection.execute("PRAGMA wal_autocheckpoint = 0")

    def before_commit(self, mutations: int) -> None:
        """Take the lock file if a checkpoint is due and nobody else has it."""
        self._mutations += mutations
        if self._is_active and self._mutations >= CHECKPOINT_EVERY:
            self._lock = _try_lock(self._lock_path)

    def after_commit(self, *, committed: bool) -> None:
        """Make the checkpoint that is due, if the commit took place, and give the lock file back."""
        if self._lock is None:
            return
        try:
            if committed:
                self._mutations = 0
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError:
            pass  # busy or a full disk: the next one will do
        finally:
            os.close(self._lock)
            self._lock = None


def _try_lock(path: str) -> int | None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
