"""Waiting inside the server's loop until something has become true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Signal:
    """A broadcast: everybody who waits looks again after each `notify`."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Let everybody who waits look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, look: Callable[[], T | None], timeout: float) -> T | None:
        """Wait until `look` returns something.

        Args:
            look: Called at once and after each `notify`; None means not yet.
            timeout: Seconds.

        Returns:
            What `look` returned, or None when the time is up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            found = look()
            left = deadline - loop.time()
            if found is not None or left <= 0:
                return found
            # Registered before anything else can run: a change between the look and the wait is not missed.
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, left)
            except asyncio.TimeoutError:
                return look()
            finally:
                self._waiters.discard(waiter)
