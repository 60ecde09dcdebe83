"""What waits for one bot: its updates, and who may take them.

Follows tdlib/telegram-bot-api: an update is kept until a later offset or a webhook's answer confirms it, whatever
happens to the bot meanwhile; of two pollers the earlier one gets the conflict.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ptb_kvpersistence.server.failures import conflict
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.waiting import Signal

UPDATE_TYPES = frozenset(
    {
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "inline_query",
        "chosen_inline_result",
        "callback_query",
        "shipping_query",
        "pre_checkout_query",
        "poll",
        "poll_answer",
        "my_chat_member",
        "chat_member",
        "chat_join_request",
        "message_reaction",
        "message_reaction_count",
    }
)
DEFAULT_UPDATE_TYPES = UPDATE_TYPES - {"chat_member", "message_reaction", "message_reaction_count"}
FIRST_UPDATE_ID = 100_000_001
MAX_TIMEOUT = 50

OTHER_POLLER = "terminated by other getUpdates request; make sure that only one bot instance is running"
WEBHOOK_SET = "terminated by setWebhook request"


class _Poll:
    """One waiting getUpdates request."""

    def __init__(self) -> None:
        self.wake: asyncio.Event = asyncio.Event()
        self.reason: str | None = None


class UpdateQueue:
    """The pending updates of one bot.

    Args:
        changed: Notified when a poll begins and when updates are confirmed.

    Attributes:
        allowed: The update types that are queued; others are dropped when they happen.
        conflict_delay: Seconds by which a conflict soon after another one is answered later, so that two pollers do not
            spin; 3 as in the real server.
    """

    def __init__(self, changed: Signal) -> None:
        self.allowed: frozenset[str] = DEFAULT_UPDATE_TYPES
        self._changed = changed
        self.conflict_delay = 3.0
        self._pending: deque[JSON] = deque()
        self._next_id = FIRST_UPDATE_ID
        self._poll: _Poll | None = None
        self._arrived = asyncio.Event()
        self._next_prompt_conflict = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def has_poller(self) -> bool:
        """Whether a getUpdates request is waiting right now."""
        return self._poll is not None

    def set_allowed(self, names: object) -> bool:
        """Take over the ``allowed_updates`` of a request.

        Args:
            names: The parsed parameter; an empty list means the default, None or nonsense leaves things as they are.

        Returns:
            Whether anything changed.
        """
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return False
        known = frozenset(name.lower() for name in names) & UPDATE_TYPES
        before, self.allowed = self.allowed, known or DEFAULT_UPDATE_TYPES
        return before != self.allowed

    def push(self, kind: str, payload: JSON) -> int | None:
        """Queue an update.

        Args:
            kind: ``message``, ``callback_query`` ...
            payload: What stands under that name.

        Returns:
            The update's id, None when the bot does not want such updates.
        """
        if kind not in self.allowed:
            return None
        update_id, self._next_id = self._next_id, self._next_id + 1
        self._pending.append({"update_id": update_id, kind: payload})
        self._arrived.set()
        if self._poll is not None:
            self._poll.wake.set()
        return update_id

    def clear(self) -> None:
        """Forget everything that is pending."""
        self._pending.clear()
        self._changed.notify()

    async def first(self) -> JSON:
        """Wait for the oldest pending update; it stays pending until `confirm`."""
        while not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
        return self._pending[0]

    def confirm(self, below: int) -> None:
        """Forget the updates with ids below `below`."""
        while self._pending and self._pending[0]["update_id"] < below:
            self._pending.popleft()
        self._changed.notify()

    def abort_poll(self, reason: str) -> None:
        """End a waiting getUpdates request with a conflict."""
        if self._poll is not None:
            self._poll.reason = reason
            self._poll.wake.set()
            self._poll = None

    def release_poll(self) -> None:
        """Answer a waiting getUpdates request at once, with nothing."""
        if self._poll is not None:
            self._poll.wake.set()

    def _take(self, offset: int, limit: int) -> list[JSON]:
        if offset < 0:
            offset += self._next_id
        if offset <= self._next_id + 10:  # an offset from far ahead is of another queue: it confirms nothing
            self.confirm(offset)
        return [self._pending[at] for at in range(min(limit, len(self._pending)))]

    async def poll(self, offset: int, limit: int, timeout: float) -> list[JSON]:
        """Answer one getUpdates request.

        Args:
            offset: Confirms all updates before it; negative counts from the end.
            limit: The most updates to return.
            timeout: Seconds to wait when there is nothing.

        Returns:
            The oldest pending updates.

        Raises:
            APIError: 409, when another request or a webhook took over.
        """
        updates = self._take(offset, limit)
        if updates or timeout <= 0:
            return updates
        self.abort_poll(OTHER_POLLER)
        poll = self._poll = _Poll()
        self._changed.notify()
        try:
            await asyncio.wait_for(poll.wake.wait(), timeout)
        except asyncio.TimeoutError:
            pass
        finally:
            if self._poll is poll:
                self._poll = None
        if poll.reason is not None:
            await self.delay_conflict()
            raise conflict(poll.reason)
        return self._take(offset, limit)

    async def delay_conflict(self) -> None:
        """Wait before answering with a conflict, when one was answered shortly before."""
        now = asyncio.get_running_loop().time()
        if now < self._next_prompt_conflict:
            await asyncio.sleep(self.conflict_delay)
        else:
            self._next_prompt_conflict = now + self.conflict_delay
