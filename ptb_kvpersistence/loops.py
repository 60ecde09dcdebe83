"""The end of an event loop: who has something to finish while it still runs.

``asyncio.run`` and its like close every asynchronous generator just before they close the loop; one that waits for that
is how to learn of it. A loop that is closed by hand tells nobody.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class LoopEnd:
    """Awaits ``finish()`` once, just before the running loop is closed.

    Args:
        finish: What to await; it must not raise, nor wait for long.
    """

    def __init__(self, finish: Callable[[], Awaitable[None]]) -> None:
        self._finish: Callable[[], Awaitable[None]] | None = finish
        self._generator = self._waiting()
        # Nothing is awaited up to its yield, so this needs no turn of the loop.
        with contextlib.suppress(StopIteration):
            self._generator.__anext__().__await__().send(None)

    async def _waiting(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            finish, self._finish = self._finish, None
            if finish is not None:
                await finish()

    def forget(self) -> None:
        """Have nothing awaited any more; from any thread, but not from two at a time."""
        if self._finish is not None:
            self._finish = None
            with contextlib.suppress(StopIteration):
                self._generator.aclose().__await__().send(None)
