"""Taking turns at the file's one writer lock: by trying it, and by standing in line.

To hand the lock over from process to process costs more than a short transaction does. So a writer that finds it free
may take it without standing in line, but only so many times in a row: then those who wait have their turn. Who stands
first in line and does not move, since it was frozen, keeps the others for :data:`COURTESY` only.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast

from ptb_kvpersistence.backends.base import pauses_in_turn
from ptb_kvpersistence.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ptb_kvpersistence.backends.sqlite.queue import WriterQueue

T = TypeVar("T")

AHEAD: Final = 12
"""Writes in a row that one may try without standing in line."""
COURTESY: Final = 0.25
"""Seconds for which a writer stands in line before it tries all the same, and then again."""


class Luck:
    """Counts the writes that were tried without standing in line."""

    def __init__(self) -> None:
        self._tries = 0

    def may_be_tried(self) -> bool:
        """Tell whether the next write may be tried at once; if not, it has to stand in line."""
        self._tries += 1
        return self._tries <= AHEAD

    def stood_in_line(self) -> None:
        """Note that the writer has done so."""
        self._tries = 0


@dataclass(frozen=True)
class _Stand:
    """Stand in line for so many seconds, or until the turn has come."""

    seconds: float


@dataclass(frozen=True)
class _Pause:
    """Wait for so many seconds."""

    seconds: float


_TRY: Final = "try"


def _steps(queue: WriterQueue, luck: Luck, limit: float) -> Iterator[_Stand | _Pause | str]:
    """Give what to do next, until the time is up; a try that worked is the last step."""
    deadline = time.monotonic() + limit
    left = limit
    while not queue.has_turn:
        yield _Stand(min(COURTESY, left))
        luck.stood_in_line()
        left = deadline - time.monotonic()
        if not queue.has_turn:
            yield _TRY
            if left <= 0:
                return
    for pause in pauses_in_turn(left):
        yield _TRY
        yield _Pause(pause)
    yield _TRY


def take_turns(queue: WriterQueue, luck: Luck, limit: float, attempt: Callable[[], T]) -> T:
    """Call ``attempt`` until it does not raise BusyError; give its result.

    Args:
        queue: Where to stand in line; to be left by the caller, whatever comes of it.
        luck: Of this writer.
        limit: Seconds.
        attempt: Tries it once, without waiting.

    Raises:
        BusyError: Others had the lock all the time.
    """
    busy: BusyError | None = None
    for step in _steps(queue, luck, limit):
        if isinstance(step, _Stand):
            queue.enter(step.seconds)
        elif isinstance(step, _Pause):
            time.sleep(step.seconds)
        else:
            try:
                return attempt()
            except BusyError as error:
                busy = error
    raise cast("BusyError", busy)  # the last step was a try


async def take_turns_async(queue: WriterQueue, luck: Luck, limit: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """As :func:`take_turns`, without blocking the loop."""
    busy: BusyError | None = None
    for step in _steps(queue, luck, limit):
        if isinstance(step, _Stand):
            await queue.enter_async(step.seconds)
        elif isinstance(step, _Pause):
            await asyncio.sleep(step.seconds)
        else:
            try:
                return await attempt()
            except BusyError as error:
                busy = error
    raise cast("BusyError", busy)  # the last step was a try
