"""Locks on files of their own, beside the database: between processes, and between the threads of one."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Final

from ptb_kvpersistence import process

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOOK_EVERY: Final = 0.002
"""Seconds between two looks whether a lock is free, where nobody tells."""


class LockFile:
    """One opened lock file; each of them counts as a holder of its own.

    A fork lets go of those that it inherited: its copies would keep a lock after the parent was killed.
    """

    _all: Final[set[LockFile]] = set()
    changing: Final = process.gate(is_inner=True)
    """Held while one is opened or closed, so that each is known that a fork inherits."""

    def __init__(self, path: str) -> None:
        """Open, or create, the file.

        Raises:
            OSError: It can be neither.
        """
        with self.changing:
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._all.add(self)

    def try_lock(self) -> bool:
        """Take the lock if it is free; tell whether it was."""
        if self._handle is None:
            return False
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._handle, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def wait_for_lock(self) -> bool:
        """Wait for the lock, without an end; tell whether it came."""
        if sys.platform == "win32":
            while not self.try_lock():
                time.sleep(LOOK_EVERY)
            return True
        if self._handle is None:
            return False
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the lock back, if it is held, and close the file."""
        with self.changing:
            handle, self._handle = self._handle, None
            self._all.discard(self)
            if handle is None:
                return
            # Closing alone would not do: a fork may be about to let go of its copy.
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
                else:
                    fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    @classmethod
    def leave_all_to_parent(cls) -> None:
        """Let go, in a fork, of what was inherited."""
        while cls._all:
            cls._all.pop().leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close the file without giving the lock back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LockFile.leave_all_to_parent)
