"""Connections of the async face: pools, listening links, and how to leave one whose loop is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, cast

from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ptb_kvpersistence.backends.redis.wire import (
    Ask,
    Cut,
    Listen,
    Node,
    NoneFree,
    NotSent,
    attempt_timeout,
    connection_options,
    is_reply,
)

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.redis.settings import Settings

_CONNECTION_ERRORS: Final = (redis_errors.RedisError, OSError, asyncio.TimeoutError)
_left: Final[list[object]] = []
"""Connections that could not be closed, kept so that nothing is said about them."""


class Pool:
    """The connections to one server, of one event loop."""

    def __init__(self, settings: Settings, node: Node) -> None:
        self._settings = settings
        self._node = node
        self._places = asyncio.Semaphore(settings.max_connections)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._is_open = True

    async def exchange(self, ask: Ask) -> list[Any]:
        """Send, and read the replies; errors among them are given as they are."""
        if self._places.locked():
            try:
                await asyncio.wait_for(self._places.acquire(), max(0.0, ask.deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise NoneFree(TimeoutError("no connection was free")) from None
        else:
            await self._places.acquire()
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
                await disconnect(connection)
            return replies
        except (NotSent, Cut):
            # What befell one befalls the others: the server was restarted, or cannot be reached.
            await self._drop_idle()
            raise
        finally:
            self._places.release()

    async def _connect(self, deadline: float) -> Connection:
        connection = await connect(self._settings, self._node, deadline)
        self._all.add(connection)
        return connection

    async def _drop_idle(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            self._all.discard(connection)
            await disconnect(connection)

    async def close(self) -> None:
        """Close the connections that nobody uses; the others when they come back."""
        self._is_open = False
        await self._drop_idle()

    def abandon(self) -> None:
        """Close the connections without a loop."""
        while self._all:
            abandon(self._all.pop())


async def connect(settings: Settings, node: Node, deadline: float) -> Connection:
    """Connect to a server.

    Raises:
        NotSent: It cannot be done in time.
    """
    timeout = attempt_timeout(deadline)
    kind = SSLConnection if settings.is_tls else Connection
    try:
        connection = kind(
            **connection_options(settings, node),
            socket_timeout=None,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
    except _CONNECTION_ERRORS as error:
        raise NotSent(error) from error
    try:
        await asyncio.wait_for(connection.connect(), timeout)
    except BaseException as error:
        await disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise NotSent(error) from error
        raise
    return connection


async def _exchange(connection: Connection, ask: Ask) -> list[Any]:
    # Ends a write that does not get on as well as a read.
    alarm = asyncio.get_running_loop().call_later(attempt_timeout(ask.deadline), _abort, connection)
    try:
        await connection.send_packed_command([ask.packed], check_health=False)
        return [await _read(connection) for _ in range(ask.replies)]
    except BaseException as error:
        await disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise Cut(error) from error
        raise
    finally:
        alarm.cancel()


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response()
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


async def disconnect(connection: Connection) -> None:
    """End a connection at once."""
    _abort(connection)
    with contextlib.suppress(redis_errors.RedisError, OSError):
        await connection.disconnect(nowait=True)


def abandon(connection: Connection) -> None:
    """Close the socket of a connection whose loop is gone, or is not this thread's, and keep it from complaining."""
    transport = _transport(connection)
    if transport is None:
        return
    cast("Any", connection)._writer = cast("Any", connection)._reader = None  # noqa: SLF001 - no public way
    try:
        bottom = getattr(transport, "_ssl_protocol", None)
        bottom = transport if bottom is None else bottom._transport  # noqa: SLF001
        transport._closed = transport._closing = True  # noqa: SLF001
        bottom._closing = True  # noqa: SLF001
        raw, bottom._sock = bottom._sock, None  # noqa: SLF001
        raw.close()
    except AttributeError:  # a loop of another make
        pass
    _left.append(transport)


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
        """Connect and listen; NotSent if it cannot be done in time."""
        channel = f"{settings.prefix}:held:{uuid.uuid4().hex}".encode()
        connection = await connect(settings, listen.node, listen.deadline)
        await subscribe(connection, channel, listen.deadline)
        return cls(listen.node, channel, connection)

    def close(self) -> None:
        """End the connection."""
        self.is_broken = True
        _abort(self.connection)
        cast("Any", self.connection)._writer = None  # noqa: SLF001 - aborted


async def subscribe(connection: Connection, channel: bytes, deadline: float) -> None:
    """Listen to a channel; NotSent if it cannot be done in time."""
    alarm = asyncio.get_running_loop().call_later(attempt_timeout(deadline), _abort, connection)
    try:
        await connection.send_command("SUBSCRIBE", channel, check_health=False)
        await connection.read_response()
    except BaseException as error:
        await disconnect(connection)
        if isinstance(error, _CONNECTION_ERRORS):
            raise NotSent(error) from error
        raise
    finally:
        alarm.cancel()
