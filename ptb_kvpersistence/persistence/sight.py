"""When to look at the store, and when not to wait for it: staleness, notifications, and a store in trouble.

What is looked at, and what is made of it, is the keeper's affair.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from ptb_kvpersistence.errors import KVPersistenceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ptb_kvpersistence.backends.base import AsyncBackend
    from ptb_kvpersistence.persistence.layout import Section

_logger = logging.getLogger(__name__)

LOOK_TIMEOUT: Final = 0.5
"""Seconds that a refresh waits for a look at the store before memory has to do."""
PROBE_TIMEOUT: Final = 5.0
"""Seconds that a look may take for which no refresh waits; a slow server has to be connected to within them."""
PROBE_PAUSE: Final = 1.0
"""Seconds between two looks that fail, while no refresh waits for them."""
CHEAP_FAILURE: Final = 0.02
"""Seconds; after a look that failed within them the next refresh waits for one again."""
GAP: Final = 0.001
"""Seconds between two hooks of one update at most: PTB calls one right after the other."""
_HOOKS: Final[tuple[Section, ...]] = ("bot_data", "chat_data", "user_data")

_last_hook: contextvars.ContextVar[tuple[int, int, float]] = contextvars.ContextVar("ptb_kvpersistence:last_hook")
"""Whose hook ended last in this task, which one, and when."""


class Sight:
    """Knows how fresh the last look at the store is.

    Args:
        backend: The store's.
        max_staleness: Seconds for which one look may be trusted.
        see: Looks at the store, within so many seconds; None for as long as the backend likes.
        recovered: Called when a store that was in trouble can be seen again.

    Attributes:
        max_staleness: As given.
        looked_at: When the last look ended, by the monotonic clock.
    """

    def __init__(
        self,
        backend: AsyncBackend,
        max_staleness: float,
        see: Callable[[float | None], Awaitable[object]],
        recovered: Callable[[], None],
    ) -> None:
        self.max_staleness = max_staleness
        self.looked_at = float("-inf")
        self._backend = backend
        self._see = see
        self._recovered = recovered
        self._token: object | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_blind = False
        self._has_warned = False
        self._probe_at = float("-inf")

    def is_fresh(self) -> bool:
        """Tell whether the last look may still be trusted, without asking the store."""
        now = monotonic()
        if now - self.looked_at <= self.max_staleness:
            return True
        token = self._backend.peek()
        if token is None:
            # Notifications may be as late as a look may be old, so they make no look fresh for longer.
            token = self._backend.peek(self.max_staleness)
        elif token == self._token:
            self.looked_at = now
        return token is not None and token == self._token

    async def look(
        self, timeout: float | None = None, see: Callable[[float | None], Awaitable[object]] | None = None
    ) -> None:
        """See what changed, however long it takes.

        Args:
            timeout: Seconds that it may take; None for as long as the backend likes.
            see: Another way to look.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        # The token is older than what is read, so nothing committed in between goes unseen.
        token = self._backend.peek(self.max_staleness)
        await (see or self._see)(timeout)
        self._token, self.looked_at = token, monotonic()

    async def glance(self) -> None:
        """See what changed, unless the last look is fresh enough. Never raises for I/O.

        One update waits for a store in trouble, for a moment; those after it do not, until a look that nobody waits
        for has shown that it is well again.
        """
        if self.is_fresh():
            return
        looking = self._looking
        if looking is None or looking.done() or looking.get_loop() is not asyncio.get_running_loop():
            if self._is_blind and monotonic() < self._probe_at:
                return
            looking = self._looking = asyncio.create_task(self._look_safely(), name="ptb_kvpersistence:look")
            # Who waits for it may be cancelled; nobody else asks for its error.
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        if not self._is_blind:
            await asyncio.wait({looking}, timeout=LOOK_TIMEOUT)
            if looking.done():
                looking.result()
            else:
                self._is_blind = True
                self._warn(f"no answer within {LOOK_TIMEOUT} s")

    async def _look_safely(self) -> None:
        began = monotonic()
        try:
            await self.look(PROBE_TIMEOUT if self._is_blind else LOOK_TIMEOUT)
        except (KVPersistenceError, OSError, RuntimeError) as error:  # no file handles left, no new threads
            self.looked_at = monotonic()
            self._probe_at = self.looked_at + PROBE_PAUSE
            self._is_blind |= self.looked_at - began > CHEAP_FAILURE
            self._warn(error)
            return
        # What answers slowly is seen late rather than waited for by each update.
        self._is_blind = monotonic() - began > LOOK_TIMEOUT
        if self._has_warned and not self._is_blind:
            self._has_warned = False
            _logger.info("the store can be seen again")
            self._recovered()

    def _warn(self, reason: object) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        _logger.log(level, "cannot see what others changed, memory has to do: %s", reason)

    def try_soon(self) -> None:
        """Note that the store seems to be well, so that the next look need not be put off."""
        self._probe_at = float("-inf")

    # --- the hooks of one update ---

    async def glance_for(self, section: Section) -> None:
        """Do the same for one of PTB's hooks; those of one update share a look, however long it took.

        With a ``max_staleness`` of 0 each of them looks.
        """
        last = _last_hook.get(None) if self.max_staleness else None
        hook = _HOOKS.index(section)
        if last is not None and last[0] == id(self) and last[1] < hook and monotonic() - last[2] <= GAP:
            return
        await self.glance()

    def hook_ended(self, section: Section) -> None:
        """Note the end of a hook."""
        _last_hook.set((id(self), _HOOKS.index(section), monotonic()))
