"""One round of captures, and what ``update_*`` and ``drop_*`` give back: a coroutine that nobody has to await.

PTB calls them one after another and awaits them together, but where a value cannot be copied it never awaits the
ones before. A native coroutine would then warn that it was never awaited, though its work is done all the same.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from types import TracebackType


class Cycle:
    """One round of captures that goes into one commit.

    Attributes:
        task: Commits it; None until a loop is there.
        error: What went wrong, if it did; given to one awaiter.
        waiters: One future per awaiter, so that none can cancel the others.
    """

    __slots__ = ("error", "task", "waiters")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        self.waiters: list[asyncio.Future[None]] = []

    def finish(self, _task: object = None) -> None:
        """Wake the awaiters."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Ticket(Coroutine[Any, Any, None]):
    """A coroutine whose body is made at the first step."""

    __slots__ = ("_body", "_make")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._body: Coroutine[Any, Any, None] | None = None

    def _started(self) -> Coroutine[Any, Any, None]:
        if self._body is None:
            self._body = self._make()
        return self._body

    def send(self, value: Any) -> Any:
        """Take a step."""
        return self._started().send(value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any:
        """Raise inside."""
        if val is None and tb is None:
            return self._started().throw(typ)
        return self._started().throw(typ, val, tb)

    def close(self) -> None:
        """End it."""
        if self._body is not None:
            self._body.close()

    def __await__(self) -> Generator[Any, None, None]:
        return self._started().__await__()
