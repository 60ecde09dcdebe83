"""Signs of life: a process locks one byte of a file beside the database, and the system frees it when the process ends.

So a lock whose holder was killed is free at once, without asking for process ids, which mean nothing between
containers. SQLite relies on locks of the same kind; where there are none, only the time limits of leases count.

POSIX drops all locks of a process on a file when it closes any handle to that file. So a process has one handle per
file, and only this module opens it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from typing import Final

from ptb_kvpersistence import process

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_SLOTS: Final = 2**31 - 2
"""Bytes to choose from; Windows takes no larger offset."""


class _File:
    """The one handle of this process to a file, and its byte."""

    def __init__(self, handle: int, slot: int) -> None:
        self.handle = handle
        self.slot = slot
        self.kept: set[object] = set()


class _Process:
    """The files of one process; a fork starts anew, since locks are not inherited."""

    def __init__(self) -> None:
        self.pid = process.pid
        self.mutex = threading.Lock()
        self.files: dict[tuple[int, int], _File] = {}


_process = _Process()


def _current() -> _Process:
    global _process  # noqa: PLW0603 - a fork starts with files of its own
    if _process.pid != process.pid:
        _process = _Process()
    return _process


def keep(path: str, what: object) -> int | None:
    """Show that this process is alive until :func:`drop` is called for ``what`` too.

    Returns:
        The slot under which others find out; None where the file system has no locks.
    """
    process = _current()
    with process.mutex:
        file = process.files.get(_identity(path)) or _open(process, path)
        if file is None:
            return None
        file.kept.add(what)
        return file.slot


def drop(path: str, what: object) -> None:
    """Take back :func:`keep`."""
    process = _current()
    with process.mutex:
        key = _identity(path)
        file = process.files.get(key)
        if file is None:
            return
        file.kept.discard(what)
        if not file.kept:
            del process.files[key]
            os.close(file.handle)


def is_mine(path: str, slot: int | None) -> bool:
    """Whether the slot is this process's own."""
    process = _current()
    with process.mutex:
        file = process.files.get(_identity(path))
        return file is not None and file.slot == slot


def is_dead(path: str, slot: int | None) -> bool:
    """Whether the process that had this slot has surely ended."""
    if slot is None:
        return False
    process = _current()
    with process.mutex:
        file = process.files.get(_identity(path))
        if file is not None:
            return file.slot != slot and _is_free(file.handle, slot)
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            return _is_free(handle, slot)
        finally:
            os.close(handle)


def _identity(path: str) -> tuple[int, int]:
    # Two paths may lead to one file; to open and close it once more would drop the locks.
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _open(process: _Process, path: str) -> _File | None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    for _ in range(10):
        # Two processes must not meet; no secret depends on it.
        slot = random.SystemRandom().randrange(1, _SLOTS)
        if _lock(handle, slot, shared=False):
            file = process.files[_identity(path)] = _File(handle, slot)
            return file
    os.close(handle)
    return None


def _is_free(handle: int, slot: int) -> bool:
    if not _lock(handle, slot, shared=True):
        return False
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.lseek(handle, slot, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.lockf(handle, fcntl.LOCK_UN, 1, slot)
    return True


def _lock(handle: int, slot: int, *, shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, slot, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.lockf(handle, kind | fcntl.LOCK_NB, 1, slot)
    except OSError:
        return False
    return True
