"""The notification channel: a connection that listens, and a heartbeat that shows that it still does.

No I/O here that could block, and nothing in the background: the faces call when there is something to read, or to say.
"""

from __future__ import annotations

import itertools
import logging
import selectors
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import psycopg

from ptb_kvpersistence.backends.postgres.connection import finish

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.postgres.connection import AsyncConnection, Connection
    from ptb_kvpersistence.backends.postgres.exchange import Statement

_logger = logging.getLogger(__name__)

SHORTEST_AGE: Final = 0.1
"""Seconds; whoever wants to know better is told nothing."""
UNASKED: Final = 60.0
"""Seconds after which nobody seems to ask any more."""
RETRY: Final = 1.0
"""Seconds between two attempts to listen."""
_BEATS: Final = 3
_numbers: Final = itertools.count(1)


class Channel:
    """What is known from one connection after the other that listened.

    Attributes:
        interval: Seconds between two heartbeats.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self.interval = 1e9
        self._connection: Connection | AsyncConnection | None = None
        self._token = 0
        self._sent_at: float | None = None
        self._confirmed_at = 0.0
        self._asked_at = 0.0
        self._tried_at = 0.0

    # --- listening ---

    def wants_connection(self, max_age: float) -> bool:
        """Note that somebody asks; gives whether to make a connection for it now."""
        if max_age < SHORTEST_AGE:
            return False
        self._asked_at = monotonic()
        self.interval = min(self.interval, max_age / _BEATS)
        return self._connection is None and monotonic() >= self._tried_at + RETRY

    def tried(self) -> None:
        """Note that a connection is being made."""
        self._tried_at = monotonic()

    def hello(self, find_channel: str) -> tuple[list[Statement], list[Statement]]:
        """Give the statements that begin to listen, and those that show whether it worked; a round trip each."""
        self._begun_at = monotonic()
        # LISTEN takes no parameter and no expression, and nothing is listened to before the end of its transaction.
        begin = "DO $$ BEGIN EXECUTE format('LISTEN %%I', (" + find_channel + ")); END $$"
        return [(begin, ())], [("SELECT count(*) FROM pg_listening_channels()", ())]

    def listen(self, connection: Connection | AsyncConnection, rows: list[Any]) -> None:
        """Go on with a connection that has said hello."""
        if rows[-1] != [(1,)]:
            finish(connection)
            _logger.info("%s: no notifications come through; looking for changes costs a request", self._place)
            return
        self._connection = connection
        self._token = next(_numbers) << 40
        self._sent_at, self._confirmed_at = None, self._begun_at
        _logger.debug("%s: listening for notifications", self._place)

    def failed(self, error: Exception) -> None:
        """Note that listening did not work, or no longer does; it is tried again when somebody asks."""
        _logger.debug("%s: not listening for notifications: %s", self._place, error)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            finish(connection)

    @property
    def is_listening(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def is_unasked(self) -> bool:
        """Whether nobody has asked for long."""
        return monotonic() > self._asked_at + UNASKED

    @property
    def socket(self) -> int:
        """Where to wait for something to read."""
        return -1 if self._connection is None else self._connection.pgconn.socket

    # --- without blocking ---

    def read(self) -> None:
        """Take what has arrived."""
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            while pgconn.notifies() is not None:
                self._token += 1
            while self._sent_at is not None and not pgconn.is_busy():
                if pgconn.get_result() is None:
                    self._confirmed_at = self._sent_at
                    self._sent_at = None
            while pgconn.notifies() is not None:
                self._token += 1
        except psycopg.Error as error:
            self.failed(error)

    def beat(self) -> None:
        """Send a heartbeat, unless one is under way; a connection that owes an answer for long is given up."""
        if self._connection is None:
            return
        if self._sent_at is not None:
            if monotonic() > self._sent_at + max(1.0, _BEATS * self.interval):
                self.failed(TimeoutError("no answer to a heartbeat"))
            return
        try:
            self._connection.pgconn.send_query(b"SELECT 1")
            self._connection.pgconn.flush()
        except psycopg.Error as error:
            self.failed(error)
        else:
            self._sent_at = monotonic()

    def look(self, max_age: float) -> object | None:
        """Give the token, if the channel was alive within ``max_age`` seconds."""
        if max_age < SHORTEST_AGE:
            return None
        self.read()
        if self._connection is None or monotonic() - self._confirmed_at > max_age:
            return None
        return self._token

    def look_waiting(self, max_age: float) -> object | None:
        """Give the token as :meth:`look` does, but beat when it is time, and wait a moment for the answer."""
        self.read()
        if self._connection is not None and monotonic() - self._confirmed_at >= max_age / _BEATS:
            self.beat()
            deadline = monotonic() + max_age / _BEATS
            while self._sent_at is not None and (left := deadline - monotonic()) > 0:
                with selectors.DefaultSelector() as selector:
                    selector.register(self.socket, selectors.EVENT_READ)
                    selector.select(left)
                self.read()
                if not self.is_listening:
                    return None
        return self.look(max_age)
