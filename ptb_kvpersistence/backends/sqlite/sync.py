"""The SQLite backend of the sync face: one connection, used by one thread at a time, waiting by sleeping."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final, cast

from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT, retry_busy
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.errors import StoreClosedError

if TYPE_CHECKING:
    from ptb_kvpersistence.model import R, Requested

inherited: Final[list[object]] = []
"""Connections that a fork inherited: kept for ever, since closing them would harm the parent's file."""


class SQLiteBackend:
    """Performs requests on an SQLite file.

    Attributes:
        name: The path.
        is_open: False once closed.
    """

    def __init__(self, path: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = path
        self.is_open = True
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: engine.EngineConnection | None = None

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request, waiting up to ``timeout`` seconds for a busy database."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        limit = self._timeout if timeout is None else timeout
        with self._lock:
            return cast("R", retry_busy(lambda: self._opened().perform(request), limit))

    def _opened(self) -> engine.Engine:
        if not self.is_open:
            message = f"{self.name} was closed; connect again"
            raise StoreClosedError(message)
        if self._connection is None:
            self._connection = engine.connect(self.name)
        return cast("engine.Engine", self._connection.engine)

    def _leave_to_parent(self) -> None:
        inherited.append(self._connection)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection = None

    def close(self) -> None:
        """Close the connection; later requests raise StoreClosedError."""
        self.is_open = False
        if self._pid != os.getpid():
            self._leave_to_parent()
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
