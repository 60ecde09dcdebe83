"""The one place where an error of sqlite3 becomes an error of the package."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ptb_kvpersistence.backends.sqlite import forks
from ptb_kvpersistence.errors import (
    BusyError,
    CorruptDatabaseError,
    DatabaseError,
    DatabaseFullError,
    PickleFoundError,
    ReadOnlyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_PICKLE_SUFFIXES = ("_user_data", "_chat_data", "_bot_data", "_callback_data", "_conversations")


def pickle_found(path: str) -> PickleFoundError:
    """Build the error for a PicklePersistence file at the database's path."""
    return PickleFoundError(
        f"{path} was written by PicklePersistence, not by KVPersistence; import it once with "
        f"`ptb-kv import-pickle {path} {path}.db` and use {path}.db"
    )


def refuse_split_pickle(path: str) -> None:
    """Raise if the five files of ``PicklePersistence(single_file=False)`` lie where a new database would be made."""
    if not os.path.exists(path) and any(os.path.exists(path + suffix) for suffix in _PICKLE_SUFFIXES):
        raise pickle_found(path)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what sqlite3 raises inside into the package's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def translate(error: sqlite3.Error, path: str) -> DatabaseError:
    """Find the error for what sqlite3 raised.

    Source: https://www.sqlite.org/rescode.html; Python 3.10 gives the message only.
    """
    name = getattr(error, "sqlite_errorname", "") or ""
    text = str(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in text:
        if forks.has_inherited_lock(path):
            return DatabaseError(
                f"{path} cannot be written in this process: it was forked from one that was inside of a transaction "
                "just then, and SQLite takes the file for locked ever since; fork outside of transactions, "
                "or start processes anew (with multiprocessing: the start method 'spawn')"
            )
        return BusyError(f"{path} is locked by another connection; try again, or end what holds it")
    if name.startswith("SQLITE_FULL") or "is full" in text:
        return DatabaseFullError(f"{path}: no space left ({text}); nothing was written, free some space")
    if name.startswith("SQLITE_READONLY") or "readonly" in text:
        return ReadOnlyError(f"{path} cannot be written ({text}); check the permissions of the file and its folder")
    if name.startswith("SQLITE_NOTADB") or "not a database" in text:
        return _not_a_database(path)
    if name.startswith("SQLITE_CORRUPT") or "malformed" in text:
        return CorruptDatabaseError(f"{path} is damaged ({text}); restore a backup")
    if name.startswith("SQLITE_CANTOPEN") or "unable to open" in text:
        return DatabaseError(f"{path} cannot be opened ({text}); check that the folder exists and may be written")
    return DatabaseError(f"{path}: {text}")


def _not_a_database(path: str) -> DatabaseError:
    # Reading the file by other means is safe only here: SQLite holds no lock on what is not a database.
    try:
        with open(path, "rb") as file:
            is_pickle = file.read(1) == b"\x80"
    except OSError:
        is_pickle = False
    if is_pickle:
        return pickle_found(path)
    return CorruptDatabaseError(f"{path} is not an SQLite database; move it away or give another path")
