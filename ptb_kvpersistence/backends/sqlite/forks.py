"""What a fork inherits of SQLite: the note that its process has locked a file, which nobody will ever take back.

SQLite keeps that note in memory, since the system's own locks do not tell the connections of one process apart. A child
of a fork that was made inside of a transaction can read the file, but finds it locked whenever it wants to write.

Source: https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import MutableSet


class Connection(Protocol):
    """A connection that may be in the middle of a transaction when the process forks."""

    def locked_file(self) -> str | None:
        """Give the path of the file that it has locked, if any."""
        ...


_connections: Final[MutableSet[Connection]] = weakref.WeakSet()
_locked: Final[set[str]] = set()


def know(connection: Connection) -> None:
    """Have a connection asked at each fork."""
    _connections.add(connection)


def has_inherited_lock(path: str) -> bool:
    """Tell whether this process has inherited the lock of a file."""
    return bool(_locked) and os.path.realpath(path) in _locked


def _forked() -> None:
    for connection in list(_connections):
        path = connection.locked_file()
        if path is not None:
            _locked.add(os.path.realpath(path))
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
