"""Connections of the async face: pools, listening links, and how to leave one whose loop is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ptb_kvpersistence.backends.redis.wire import (
    Ask,
    CutError,
    Listen,
    NoneFreeError,
    NotSentError,
    attempt_timeout,
    connection_options,
    is_reply,
)

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.redis.settings import Node, Settings

_CONNECTION_ERRORS: Final = (redis_errors.RedisError, OSError, asyncio.TimeoutError)
_left: Final[list[object]] = []
"""Connections that could not be closed, kept so that nothing is said about them."""


class Pool:
    """The connections to one server, of one event loop."""

    def __init__(self, settings: Settings, node: Node) -> None:
        self._settings = settings
        self._node = node
        self._places = settings.max_connections
        self._line: deque[asyncio.Future[None]] = deque()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._is_open = True

    async def exchange(self, ask: Ask) -> list[Any]:
        """Send, and read the replies; errors among them are given as they are."""
        if self._places:
            self._places -= 1
        else:
            await self._stand_in_line(ask.deadline)
        try:
            connection = self._idle.pop() if self._idle else await self._connect(ask.deadline)
            try:
                replies = await _exchange(connection, ask)
            except BaseException:
                self._all.discard(connection)
                raise
            if connection.is_connected and self._is_open:
                self._idle.append(connection)
            else:
                self._all.discard(connection)
                disconnect(connection)
        except (NotSentError, CutError):
            # What befell one befalls the others: the server was restarted, or cannot be reached.
            self._drop_idle()
            raise
        finally:
            self._give_place_back()
        return replies

    async def _stand_in_line(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        place = loop.create_future()
        self._line.append(place)
        alarm = loop.call_later(max(0.0, deadline - time.monotonic()), _give_up, place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give_place_back()
            raise
        finally:
            alarm.cancel()

    def _give_place_back(self) -> None:
        while self._line:
            place = self._line.popleft()
            if not place.done():
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    place.set_result(None)
                return
        self._places += 1

    async def _connect(self, deadline: float) -> Connection:
        connection = await connect(self._settings, self._node, deadline)
        self._all.add(connection)
        return connection

    def _drop_idle(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            self._all.discard(connection)
            disconnect(connection)

    def close(self) -> None:
        """Close the connections that nobody uses; the others when they come back."""
        self._is_open = False
        self._drop_idle()

    def abandon(self) -> None:
        """Close the connections without a loop."""
        while self._all:
            abandon(self._all.pop())


def _give_up(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(NoneFreeError(TimeoutError("no connection was free")))


async def connect(settings: Settings, node: Node, deadline: float) -> Connection:
    """Connect to a server.

    Raises:
        NotSentError: It cannot be done in time.
    """
    timeout = attempt_timeout(deadline)
    kind = SSLConnection if settings.is_tls else Connection
    try:
        connection = kind(
            **connection_options(settings, node),
            socket_timeout=None,  # the driver's own would swallow a cancellation before Python 3.12; the alarm ends it
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
    except _CONNECTION_ERRORS as error:
        raise NotSentError(error) from error
    alarm = asyncio.get_running_loop().call_later(timeout, _abort, connection)
    try:
        await connection.connect()
    except BaseException as error:
        disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise NotSentError(error) from error
        raise
    finally:
        alarm.cancel()
    return connection


async def _exchange(connection: Connection, ask: Ask) -> list[Any]:
    # Ends a write that does not get on as well as a read.
    alarm = asyncio.get_running_loop().call_later(attempt_timeout(ask.deadline), _abort, connection)
    try:
        await connection.send_packed_command([ask.packed], check_health=False)
        replies = [await _read(connection) for _ in range(ask.replies)]
    except BaseException as error:
        disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise CutError(error) from error
        raise
    finally:
        alarm.cancel()
    return replies


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except redis_errors.RedisError as error:
        if is_reply(error):
            return error
        raise


def _transport(connection: Connection) -> Any:
    writer = connection._writer  # noqa: SLF001 - no public way
    return None if writer is None else writer.transport


def _abort(connection: Connection) -> None:
    transport = _transport(connection)
    if transport is not None:
        transport.abort()


def disconnect(connection: Connection) -> None:
    """End a connection at once, without awaiting: a coroutine that is thrown away could not."""
    with contextlib.suppress(RuntimeError):  # its loop is closed
        _abort(connection)
        connection._parser.on_disconnect()  # noqa: SLF001 - no public way
        cast("Any", connection)._writer = cast("Any", connection)._reader = None  # noqa: SLF001


def abandon(connection: Connection) -> None:
    """Close the socket of a connection whose loop is gone, or is not this thread's, and keep it from complaining."""
    transport = _transport(connection)
    if transport is None:
        return
    # As long as they are kept, nobody asks the writer, nor the parser, to say goodbye on a loop that is closed.
    _left.append((connection, cast("Any", connection)._writer))  # noqa: SLF001 - no public way
    try:
        protocol = getattr(transport, "_ssl_protocol", None)
        bottom = transport if protocol is None else protocol._transport  # noqa: SLF001
        transport._closed = transport._closing = bottom._closing = True  # noqa: SLF001
        raw, bottom._sock = bottom._sock, None  # noqa: SLF001
        raw.close()
    except AttributeError:  # a loop of another make: the socket stays open until the process ends
        pass
    cast("Any", connection)._writer = cast("Any", connection)._reader = None  # noqa: SLF001


class Link:
    """A connection that listens to a channel of its own: as long as it lives, so does the session that names it.

    Attributes:
        node: To which server.
        channel: The channel.
        connection: The connection.
        is_broken: The server no longer knows of it.
    """

    def __init__(self, node: Node, channel: bytes, connection: Connection) -> None:
        self.node = node
        self.channel = channel
        self.connection = connection
        self.is_broken = False

    @classmethod
    async def open(cls, settings: Settings, listen: Listen) -> Link:
        """Connect and listen; NotSentError if it cannot be done in time."""
        channel = f"{settings.prefix}:held:{uuid.uuid4().hex}".encode()
        connection = await connect(settings, listen.node, listen.deadline)
        await subscribe(connection, channel, listen.deadline)
        return cls(listen.node, channel, connection)

    def close(self) -> None:
        """End the connection."""
        self.is_broken = True
        disconnect(self.connection)


async def subscribe(connection: Connection, channel: bytes, deadline: float) -> None:
    """Listen to a channel; NotSentError if it cannot be done in time."""
    alarm = asyncio.get_running_loop().call_later(attempt_timeout(deadline), _abort, connection)
    try:
        await connection.send_command("SUBSCRIBE", channel, check_health=False)
        await connection.read_response(disconnect_on_error=False)
    except BaseException as error:
        disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise NotSentError(error) from error
        raise
    finally:
        alarm.cancel()
