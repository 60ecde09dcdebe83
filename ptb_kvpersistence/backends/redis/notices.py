"""Notifications: how a look at the database is answered without asking it, as late as the caller allows.

Each commit says so on a channel, on the node that applies it. Who listens to all masters, and has had an answer from
all of them over those same connections since, has heard of everything that was committed before he asked. Connections
and the waiting of the async face are in ``aio_notices``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as redis_errors

from ptb_kvpersistence.backends.redis.inspection import SLOTS_QUESTION
from ptb_kvpersistence.backends.redis.wire import Ask, TransportError, pack
from ptb_kvpersistence.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from ptb_kvpersistence.backends.redis.routing import Router
    from ptb_kvpersistence.backends.redis.settings import Node
    from ptb_kvpersistence.backends.redis.wire import Conversation

SHORTEST: Final = 0.1
"""Seconds below which notifications are no quicker than a request."""
UNASKED: Final = 60.0
"""Seconds after which nobody listens for who does not ask."""
PATIENCE: Final = 2.0
"""Seconds for a server to answer a heartbeat."""
AGAIN_AFTER: Final = 1.0
"""Seconds before connecting once more."""
STATE_QUESTION: Final = SLOTS_QUESTION + pack((b"ROLE",))

TRANSPORT: Final = (redis_errors.RedisError, OSError, TransportError, DatabaseError)


class Heard:
    """What was heard so far.

    Attributes:
        confirmed_at: Everything committed before then was heard of, by the monotonic clock.
    """

    def __init__(self) -> None:
        self._era = 0
        self._count = 0
        self._latest: dict[bytes, bytes] = {}
        self.confirmed_at = float("-inf")

    def interrupted(self) -> None:
        """Note that something may have been missed."""
        self._era += 1
        self.confirmed_at = float("-inf")

    def take(self, message: Any) -> bool:
        """Take in what a connection has brought; says whether it was the answer to a heartbeat."""
        if message[0] == b"message":
            store, _, version = message[2].partition(b" ")
            # The other nodes of a cluster pass it on.
            if self._latest.get(store) != version:
                self._latest[store] = version
                self._count += 1
        return bool(message[0] == b"pong")

    def token(self, max_age: float) -> object | None:
        """Something that changes with every commit, if it is known well enough."""
        if time.monotonic() - self.confirmed_at > max_age:
            return None
        return self._era, self._count


def confirm_masters(router: Router) -> Conversation[None]:
    """Make sure that those who are listened to are still those in charge.

    Raises:
        DatabaseError: They are not.
    """
    for node in router.masters:
        slots, role = yield Ask(node, STATE_QUESTION, 2, time.monotonic() + PATIENCE)
        if not router.is_as_before(slots, role, node):
            raise DatabaseError(f"{node} is no longer in charge of what it was")


class Notices:
    """Listens for the sync face: inside :meth:`peek`, on the caller's thread.

    Args:
        router: Knows the servers.
        channel: What to listen to.
        drive: Carries out a conversation.
        listen: Makes a connection that listens to a channel.
    """

    def __init__(
        self,
        router: Router,
        channel: bytes,
        drive: Callable[[Conversation[Any]], Any],
        listen: Callable[[Node, bytes, float], redis.Connection],
    ) -> None:
        self._router = router
        self._channel = channel
        self._drive = drive
        self._listen = listen
        self._heard = Heard()
        self._lock = threading.Lock()
        self._connections: list[redis.Connection] = []
        self._not_before = 0.0

    def peek(self, max_age: float) -> object | None:
        """Give the token, if everything up to ``max_age`` seconds ago is known to have been heard of."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._peek(max_age)
        except TRANSPORT:
            self._disconnect()
            self._not_before = time.monotonic() + AGAIN_AFTER
            return None
        finally:
            self._lock.release()

    def _peek(self, max_age: float) -> object | None:
        now = time.monotonic()
        if not self._connections:
            if now < self._not_before:
                return None
            self._connect()
        for connection in self._connections:
            while connection.can_read(0):
                self._heard.take(connection.read_response())
        if now - self._heard.confirmed_at > max_age / 3:
            self._confirm()
        return self._heard.token(max_age)

    def _connect(self) -> None:
        self._drive(self._router.ready(PATIENCE))
        for node in self._router.masters:
            self._connections.append(self._listen(node, self._channel, time.monotonic() + PATIENCE))
        self._heard.interrupted()

    def _confirm(self) -> None:
        asked_at = time.monotonic()
        for connection in self._connections:
            connection.send_command("PING", check_health=False)
        for connection in self._connections:
            while not self._heard.take(connection.read_response()):
                pass
        self._drive(confirm_masters(self._router))
        self._heard.confirmed_at = asked_at

    def _disconnect(self) -> None:
        self._heard.interrupted()
        while self._connections:
            self._connections.pop().disconnect()

    def close(self) -> None:
        """End the connections."""
        with self._lock:
            self._disconnect()
