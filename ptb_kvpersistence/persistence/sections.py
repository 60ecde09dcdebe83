"""The five sections as plain Python data, on their way into a database or out of it.

No format is known here: :mod:`.pickle_file` and :mod:`.dict_json` read and write those of PTB's own persistences.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from telegram import Bot

SECTION_NAMES: Final = ("user_data", "chat_data", "bot_data", "conversations", "callback_data")
"""In the order in which they are imported and reported."""

CallbackData = tuple[list[tuple[str, float, dict[str, Any]]], dict[str, str]]
"""As PTB's ``CallbackDataCache.persistence_data`` gives it: keyboards, least recently used first; callback queries."""

ConversationStates = dict[tuple[Hashable, ...], Any]
"""The states of one conversation handler by conversation key."""


class KnownBot(Bot):
    """Stands for the persistence's own bot where there is none at hand; it is stored as that bot's placeholder."""

    def __init__(self) -> None:
        """Leave out what a bot that talks to Telegram needs."""

    def __repr__(self) -> str:
        return "<the bot of the persistence>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


KNOWN_BOT: Final = KnownBot()


@dataclass(frozen=True)
class Sections:
    """What one bot's persistence holds; ``None`` where a section was not stored at all.

    Attributes:
        user_data: By user id.
        chat_data: By chat id.
        bot_data: A dict, or an object of the context types' class.
        conversations: By the handler's name, then by conversation key.
        callback_data: As PTB's callback data cache gives it.
        types: Classes of the user among the values, for the codec; no part of the data.
    """

    user_data: dict[int, Any] | None = None
    chat_data: dict[int, Any] | None = None
    bot_data: Any = None
    conversations: dict[str, ConversationStates] | None = None
    callback_data: CallbackData | None = None
    types: tuple[type, ...] = field(default=(), compare=False)

    def counts(self) -> dict[str, int]:
        """Count what each section holds.

        Returns:
            Entities of user_data and chat_data, the number of keys in bot_data (1 for an object), running
            conversations, keyboards of callback_data; 0 for a section that was not stored.
        """
        bot_data = self.bot_data
        return {
            "user_data": len(self.user_data or ()),
            "chat_data": len(self.chat_data or ()),
            "bot_data": len(bot_data) if isinstance(bot_data, dict) else int(bot_data is not None),
            "conversations": sum(len(states) for states in (self.conversations or {}).values()),
            "callback_data": len(self.callback_data[0]) if self.callback_data else 0,
        }
