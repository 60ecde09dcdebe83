"""The signs of life that a persistence gives in its bot's name, so that nobody deletes a store that is in use.

They come from timers of the event loop: nothing keeps a loop or a process alive, and a process that ends takes its
name back. A sign that fails is left out; the next one comes soon enough.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import HEARTBEAT
from ptb_kvpersistence.errors import StoreClosedError, StoreNotFoundError
from ptb_kvpersistence.loops import LoopEnd
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive, drive_async

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.store.aio import AsyncStore

_logger = logging.getLogger(__name__)

PATIENCE: Final = 0.5
"""Seconds that opening, a flush and the end of the process wait for a sign of life."""


class Presence:
    """Attaches a bot to a store while a persistence uses it.

    Args:
        store: The store.
    """

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self._start()

    def _start(self) -> None:
        self._pid = process.pid
        self._holder = uuid.uuid4().hex
        self._name = ""
        self._is_shown = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sign: asyncio.Task[None] | None = None
        self._end: LoopEnd | None = None

    async def arrive(self, bot_name: Callable[[], str | None]) -> None:
        """Attach the bot, unless it is, and keep it attached for as long as this loop runs. Never raises for I/O.

        Args:
            bot_name: Gives the bot's name; None for a script without one, which is not attached.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop and self._pid == process.pid:
            return
        if self._pid != process.pid:
            self._stop()
            self._start()  # what a fork inherits is its parent's
        name = bot_name()
        if name is None:
            return
        self._stop()
        self._name, self._loop, self._is_shown = name, loop, True
        process.at_end(self, process.THEN_CLOSE, self._vanish)
        self._end = LoopEnd(self._fall_silent)
        self._sign = self._give_sign(loop)
        await asyncio.wait({self._sign}, timeout=PATIENCE)

    def _give_sign(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        self._timer = loop.call_later(HEARTBEAT, self._beat, loop)
        return loop.create_task(self._attach(), name="ptb_kvpersistence:attach")

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop and self._pid == process.pid:
            self._sign = self._give_sign(loop)

    async def _attach(self) -> None:
        try:
            await self._perform(administration.attach(self._store.handle, self._name, self._holder))
        except (StoreClosedError, StoreNotFoundError):
            self._is_shown = False
            self._stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the bot works without
            _logger.debug("could not note that bot %s uses the store: %s", self._name, error)

    async def _perform(self, operation: Generator[Requested[Any], Any, None]) -> None:
        perform = self._store.backend.perform
        await drive_async(operation, lambda request: perform(request, PATIENCE))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._end is not None:
            self._end.forget()
        self._timer, self._loop, self._end = None, None, None

    async def _fall_silent(self) -> None:
        """Give no more signs on a loop that is about to be closed."""
        sign = self._sign
        self._stop()
        if sign is not None:
            await asyncio.wait({sign}, timeout=PATIENCE)

    async def leave(self) -> None:
        """Detach the bot, until it is shown again. Never raises for I/O."""
        if not self._is_shown or self._pid != process.pid:
            return
        self._is_shown = False
        self._stop()
        sign, self._sign = self._sign, None
        if sign is not None and sign.get_loop() is asyncio.get_running_loop():
            await asyncio.wait({sign})
        try:
            await self._perform(administration.detach(self._store.handle, self._name, self._holder))
        except Exception as error:  # noqa: BLE001 - the end of the process tries again
            _logger.debug("could not note that bot %s no longer uses the store: %s", self._name, error)
        else:
            process.forget(self)

    def _vanish(self) -> None:
        self._stop()
        backend = self._store.backend.blocking()
        try:
            detach = administration.detach(self._store.handle, self._name, self._holder)
            drive(detach, lambda request: backend.perform(request, PATIENCE))
        except Exception as error:  # noqa: BLE001 - others find out by themselves
            _logger.debug("could not note that bot %s no longer uses the store: %s", self._name, error)
        finally:
            backend.close()
