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

    from ptb_kvpersistence.errors import EncodeError


class Cycle:
    """One round of captures that goes into one commit.

    Args:
        deliver: Waits for that, and raises its error, or the given one.

    Attributes:
        task: Commits it; None until a loop is there.
        error: What went wrong, if it did; given to one awaiter.
        has_tickets: Whether anybody may ask.
        waiters: One future per awaiter, so that none can cancel the others.
    """

    __slots__ = ("deliver", "error", "has_tickets", "task", "waiters")

    def __init__(self, deliver: Callable[[Cycle, EncodeError | None], Coroutine[Any, Any, None]]) -> None:
        self.deliver = deliver
        self.task: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        self.has_tickets = False
        self.waiters: list[asyncio.Future[None]] = []

    def finish(self, _task: object = None) -> None:
        """Wake the awaiters."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Ticket(Coroutine[Any, Any, None]):
    """A coroutine whose body is made at the first step.

    Those of one cycle wait for the same commit, so they are equal: PTB collects them in a set, ``asyncio.gather`` looks
    for what it was given twice, and one task waits for all of them. Two kinds are like no other: those with an error of
    their own, and the first one of a cycle, so that its error is one of the outcomes and not each of them.

    Args:
        cycle: What it waits for.
        error: Its own error, if it has one.
    """

    __slots__ = ("_body", "_cycle", "_error", "_kin")

    def __init__(self, cycle: Cycle, error: EncodeError | None) -> None:
        self._cycle = cycle
        self._error = error
        self._kin = cycle if error is None and cycle.has_tickets else object()
        self._body: Coroutine[Any, Any, None] | None = None
        cycle.has_tickets = True

    def __eq__(self, other: object) -> bool:
        return type(other) is Ticket and self._kin is other._kin

    def __hash__(self) -> int:
        return hash(self._kin)

    def _started(self) -> Coroutine[Any, Any, None]:
        if self._body is None:
            self._body = self._cycle.deliver(self._cycle, self._error)
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
