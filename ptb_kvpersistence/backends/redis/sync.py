"""The Redis backend of the sync face: connections that any thread may take, one request at a time each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, cast

import redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.backends.redis import settings as settings_of
from ptb_kvpersistence.backends.redis.notices import SHORTEST, Notices
from ptb_kvpersistence.backends.redis.requests import Requests
from ptb_kvpersistence.backends.redis.wire import (
    Ask,
    Blocked,
    CutError,
    Listen,
    NoneFreeError,
    NotSentError,
    Pause,
    attempt_timeout,
    connection_options,
    is_reply,
)
from ptb_kvpersistence.errors import ReentryError, StoreClosedError
from ptb_kvpersistence.model import SetDomain

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.redis.requests import Held
    from ptb_kvpersistence.backends.redis.settings import Node, Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation
    from ptb_kvpersistence.model import Commit, R, Requested

inherited: Final[list[object]] = []
"""Connections that a fork inherited: kept for ever, so that nothing is ever said over them."""

_CONNECTION_ERRORS: Final = (redis_errors.RedisError, OSError)


class RedisBackend:
    """Performs requests on a Redis or Valkey server or cluster.

    Args:
        url: The URL, or what was read from it.
        timeout: Seconds that a request may take where it does not say.

    Attributes:
        name: The URL without a password.
        is_open: False once closed.
    """

    def __init__(self, url: str | Settings, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._settings = settings_of.parse(url) if isinstance(url, str) else url
        self.name = self._settings.name
        self.is_open = True
        self._timeout = timeout
        self._requests = Requests(self._settings)
        self._start()

    def _start(self) -> None:
        self._pid = process.pid
        self._pools = _Pools(self._settings)
        self._links: list[Link] = []
        self._holders: set[tuple[int, int]] = set()
        self._notices: Notices | None = None

    def _check(self) -> None:
        if self._pid != process.pid:
            inherited.append((self._pools, self._links, self._notices))
            self._start()
            self._requests.after_fork()
        if not self.is_open:
            raise closed(self.name)

    def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request within ``timeout`` seconds, waiting for exclusive sessions of others.

        Raises:
            ReentryError: It would wait for this very thread, or block a running event loop.
            BusyError: Somebody had the store to himself all the time.
        """
        self._check()
        limit = self._timeout if timeout is None else timeout
        return cast("R", self._drive(self._requests.perform(request, limit)))

    def _drive(self, conversation: Conversation[Any]) -> Any:
        try:
            effect = next(conversation)
            while True:
                try:
                    result = self._carry_out(effect)
                except (NotSentError, CutError, ReentryError) as error:
                    effect = conversation.throw(error)
                else:
                    effect = conversation.send(result)
        except StopIteration as stop:
            return stop.value

    def _carry_out(self, effect: Any) -> Any:
        if isinstance(effect, Ask):
            return self._pools[effect.node].exchange(effect)
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        if isinstance(effect, Listen):
            return self._listen(effect)
        return self._refuse_to_block(effect)

    def _refuse_to_block(self, effect: Blocked) -> None:
        if (threading.get_ident(), effect.store) in self._holders:
            raise ReentryError(
                f"this thread is inside an exclusive transaction on a store in {self.name} and would wait for itself; "
                "use the transaction's own store, or end it first"
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ReentryError(
            f"somebody has the store in {self.name} to himself, and waiting would block the running event loop; "
            "use AsyncStore (connect_async, or persistence.store) in coroutines"
        )

    def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:  # noqa: ARG002 - the server's
        """Begin an exclusive session on a store, waiting up to ``timeout`` seconds.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This thread has a session on the store, or the wait would block a running event loop.
        """
        self._check()
        ident = threading.get_ident()
        if (ident, store) in self._holders:
            self._refuse_to_block(Blocked(store))
        held: Held | None = None
        try:
            held = self._drive(self._requests.begin(store, timeout, self._timeout))
        finally:
            if held is None:
                self._drop_link(ident)
        self._holders.add((ident, store))
        held.link.user = None
        return _Session(self, held, ident)

    def _listen(self, effect: Listen) -> Link:
        user = threading.get_ident()
        mine = next((link for link in self._links if link.user == user), None)
        if mine is None or mine.is_broken or mine.node != effect.node:
            self._drop_link(user)
            mine = self._free_link(effect.node) or Link(self._settings, effect)
            mine.user = user
            self._links.append(mine)
        return mine

    def _free_link(self, node: Node) -> Link | None:
        for link in list(self._links):
            if link.is_free and link.node == node:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._links.remove(link)
                    link.is_free = False
                    return link
        return None

    def _drop_link(self, user: int) -> None:
        for link in [link for link in self._links if link.user == user]:
            self._links.remove(link)
            link.close()

    def end(self, held: Held, ident: int, commit: Commit | None) -> None:
        """End a session."""
        link = held.link
        self._holders.discard((ident, held.store))
        is_well = False
        try:
            if self._pid == process.pid:
                self._drive(self._requests.end(held, commit, self._timeout))
                is_well = True
        finally:
            if is_well and self.is_open and len([link for link in self._links if link.is_free]) < FREE_LINKS:
                link.is_free = True
            else:
                # When nobody listens to its channel any more, the session is over for the server too.
                with contextlib.suppress(ValueError):
                    self._links.remove(link)
                link.close()

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look for notifications: equal tokens mean that nothing was committed between, up to ``max_age`` s late."""
        if max_age < SHORTEST or self._pid != process.pid or not self.is_open:
            return None
        if self._notices is None:
            listen = functools.partial(subscribe, self._settings)
            self._notices = Notices(self._requests.router, self._requests.channel, self._drive, listen)
        return self._notices.peek(max_age)

    def close(self) -> None:
        """Close the connections; later requests raise StoreClosedError."""
        self.is_open = False
        if self._pid != process.pid:
            inherited.append((self._pools, self._links, self._notices))
            self._start()
        if self._notices is not None:
            self._notices.close()
        for pool in list(self._pools.values()):
            pool.close()
        while self._links:
            self._links.pop().close()


FREE_LINKS: Final = 4
"""Listening connections kept for the next exclusive sessions."""


class _Pools(defaultdict["Node", "_Pool"]):
    """Connections by server."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def __missing__(self, node: Node) -> _Pool:
        return self.setdefault(node, _Pool(self._settings, node))


class _Pool:
    """The connections to one server."""

    def __init__(self, settings: Settings, node: Node) -> None:
        self._settings = settings
        self._node = node
        self._places = threading.Semaphore(settings.max_connections)
        self._idle: list[redis.Connection] = []
        self._is_open = True

    def exchange(self, ask: Ask) -> list[Any]:
        """Send, and read the replies; errors among them are given as they are."""
        if not self._places.acquire(timeout=max(0.0, ask.deadline - time.monotonic())):
            raise NoneFreeError(TimeoutError("no connection was free"))
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self._settings, self._node, ask.deadline)
            replies = _exchange(connection, ask)
        except (NotSentError, CutError):
            # What befell one befalls the others: the server was restarted, or cannot be reached.
            self._drop_idle()
            raise
        else:
            if _is_connected(connection):
                self._idle.append(connection)
            if not self._is_open:
                self.close()
            return replies
        finally:
            self._places.release()

    def _drop_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().disconnect()

    def close(self) -> None:
        """Close the connections that nobody uses; the others when they come back."""
        self._is_open = False
        self._drop_idle()


def connect(settings: Settings, node: Node, deadline: float) -> redis.Connection:
    """Connect to a server.

    Raises:
        NotSentError: It cannot be done in time.
    """
    timeout = attempt_timeout(deadline)
    kind = redis.SSLConnection if settings.is_tls else redis.Connection
    try:
        connection = kind(
            **connection_options(settings, node),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        connection.connect()
    except _CONNECTION_ERRORS as error:
        raise NotSentError(error) from error
    return connection


def subscribe(settings: Settings, node: Node, channel: bytes, deadline: float) -> redis.Connection:
    """Connect to a server and listen to a channel; NotSentError if it cannot be done in time."""
    connection = connect(settings, node, deadline)
    try:
        connection.send_command("SUBSCRIBE", channel, check_health=False)
        connection.read_response()
    except _CONNECTION_ERRORS as error:
        connection.disconnect()
        raise NotSentError(error) from error
    return connection


def _is_connected(connection: redis.Connection) -> bool:
    return cast("Any", connection)._sock is not None  # noqa: SLF001 - an error that was a reply may have closed it


def _exchange(connection: redis.Connection, ask: Ask) -> list[Any]:
    try:
        # No public way to say how long one request may take.
        cast("Any", connection)._sock.settimeout(attempt_timeout(ask.deadline))  # noqa: SLF001
        connection.send_packed_command([ask.packed], check_health=False)
        return [_read(connection) for _ in range(ask.replies)]
    except _CONNECTION_ERRORS as error:
        connection.disconnect()
        raise CutError(error) from error
    except BaseException:
        connection.disconnect()
        raise


def _read(connection: redis.Connection) -> Any:
    try:
        return connection.read_response()
    except redis_errors.RedisError as error:
        if is_reply(error):
            return error
        raise


class Link:
    """A connection that listens to a channel of its own: as long as it lives, so does the session that names it.

    Attributes:
        node: To which server.
        channel: The channel.
        is_broken: The server no longer knows of it.
        is_free: Nobody uses it.
        user: Which thread is about to use it.
    """

    def __init__(self, settings: Settings, listen: Listen) -> None:
        self.node = listen.node
        self.channel = f"{settings.prefix}:held:{uuid.uuid4().hex}".encode()
        self.is_broken = self.is_free = False
        self.user: int | None = None
        self._connection = subscribe(settings, listen.node, self.channel, listen.deadline)

    def close(self) -> None:
        """End the connection."""
        self.is_broken = True
        self._connection.disconnect()


class _Session:
    """An exclusive session of one thread."""

    def __init__(self, backend: RedisBackend, held: Held, ident: int) -> None:
        self._backend = backend
        self._held = held
        self._ident = ident

    def perform(self, request: Requested[R]) -> R:
        """Perform a reading request; the setting of a domain waits for the end."""
        if isinstance(request, SetDomain):
            self._held.settings[request.domain] = request.keep
            return cast("R", None)
        return self._backend.perform(request)

    def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on."""
        self._backend.end(self._held, self._ident, commit)


def closed(name: str) -> StoreClosedError:
    """Build the error for a database that was closed."""
    return StoreClosedError(f"{name} was closed; connect again")
