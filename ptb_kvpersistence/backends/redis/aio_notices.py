"""Notifications of the async face: a task of the loop listens and asks for signs of life."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from ptb_kvpersistence.backends.redis.aio_wire import abandon, connect, disconnect, subscribe
from ptb_kvpersistence.backends.redis.notices import AGAIN_AFTER, PATIENCE, TRANSPORT, UNASKED, Heard, confirm_masters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from redis.asyncio.connection import Connection

    from ptb_kvpersistence.backends.redis.requests import Requests
    from ptb_kvpersistence.backends.redis.settings import Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation


class AsyncNotices:
    """Listens on one event loop, as long as somebody asks.

    Args:
        settings: How to connect.
        requests: Knows the servers and the channel.
        drive: Carries out a conversation.
    """

    def __init__(
        self, settings: Settings, requests: Requests, drive: Callable[[Conversation[Any]], Awaitable[Any]]
    ) -> None:
        self._settings = settings
        self._router = requests.router
        self._channel = requests.channel
        self._drive = drive
        self._heard = Heard()
        self._interval = float("inf")
        self._asked_at = 0.0
        self._connections: list[Connection] = []
        self._pongs: dict[Connection, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None

    def peek(self, max_age: float) -> object | None:
        """Give the token, if everything up to ``max_age`` seconds ago is known to have been heard of."""
        self._asked_at = time.monotonic()
        self._interval = min(self._interval, max_age / 3)
        if self._task is None or self._task.done():
            self._heard.interrupted()
            self._task = _start(self._run())
        return self._heard.token(max_age)

    async def _run(self) -> None:
        while time.monotonic() - self._asked_at < UNASKED:
            try:
                await self._listen()
            except TRANSPORT:
                pass
            finally:
                self._heard.interrupted()
                self._disconnect()
            await asyncio.sleep(AGAIN_AFTER)

    async def _listen(self) -> None:
        await self._drive(self._router.ready(PATIENCE))
        for node in self._router.masters:
            connection = await connect(self._settings, node, time.monotonic() + PATIENCE)
            self._connections.append(connection)
            await subscribe(connection, self._channel, time.monotonic() + PATIENCE)
        readers = [_start(self._read(connection)) for connection in self._connections]
        try:
            while time.monotonic() - self._asked_at < UNASKED:
                await self._confirm(readers)
                await asyncio.wait(readers, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED)
        finally:
            _cancel(*readers)

    async def _confirm(self, readers: list[asyncio.Task[None]]) -> None:
        asked_at = time.monotonic()
        for connection in self._connections:
            self._pongs[connection] = asyncio.Event()
            await connection.send_command("PING", check_health=False)
        answered = _start(self._all_answered())
        try:
            await asyncio.wait([answered, *readers], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise OSError("no sign of life")
        finally:
            _cancel(answered)
        await self._drive(confirm_masters(self._router))
        self._heard.confirmed_at = asked_at

    async def _all_answered(self) -> None:
        for pong in self._pongs.values():
            await pong.wait()

    async def _read(self, connection: Connection) -> None:
        while True:
            if self._heard.take(await connection.read_response(disconnect_on_error=False)):
                self._pongs[connection].set()

    def _disconnect(self) -> None:
        self._pongs.clear()
        while self._connections:
            disconnect(self._connections.pop())

    async def close(self) -> None:
        """End the task and its connections."""
        task, self._task = self._task, None
        while task is not None and not task.done():
            # The driver swallows a cancellation that comes while it connects.
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)

    def abandon(self) -> None:
        """Close the connections without a loop."""
        while self._connections:
            abandon(self._connections.pop())


def _start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(coroutine, name="ptb_kvpersistence:notices")
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    # A loop that is closed without a word is no reason for complaint at exit.
    cast("Any", task)._log_destroy_pending = False  # noqa: SLF001
    return task


def _cancel(*tasks: asyncio.Task[None]) -> None:
    with suppress(RuntimeError):  # their loop is closed
        for task in tasks:
            task.cancel()
