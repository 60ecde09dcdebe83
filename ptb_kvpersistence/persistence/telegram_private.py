"""The few names that python-telegram-bot keeps to itself and that storing its objects needs; nothing else uses any.

A test looks at each of them in the installed python-telegram-bot, so that a change there is noticed.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from telegram import TelegramObject
from telegram._utils import defaultvalue
from telegram._utils.defaultvalue import DEFAULT_NONE, DefaultValue

__all__ = [
    "API_KWARGS",
    "BOT",
    "CACHES",
    "FROZEN",
    "ID_ATTRS",
    "UNFILLED_CACHES",
    "DefaultValue",
    "default_value",
    "may_read_files",
]

BOT: Final = "_bot"
FROZEN: Final = "_frozen"
ID_ATTRS: Final = "_id_attrs"
API_KWARGS: Final = "api_kwargs"  # public; the rest of what every object has

CACHES: Final = frozenset(
    (
        "_cached_zone_info",
        "_closing_time",
        "_decrypted_data",
        "_decrypted_secret",
        "_effective_attachment",
        "_effective_chat",
        "_effective_message",
        "_effective_sender",
        "_effective_user",
        "_opening_time",
    )
)
"""Attributes that only remember what was worked out from others; they are neither stored nor compared."""

UNFILLED_CACHES: Final[dict[str, Any]] = {"_effective_attachment": DEFAULT_NONE}
"""What an unfilled cache holds, where that is not ``None``."""

_KNOWN_DEFAULTS: Final = [value for value in vars(defaultvalue).values() if type(value) is DefaultValue]


def default_value(value: object) -> DefaultValue[Any]:
    """The DefaultValue of that value; PTB's own object where it has one, since ``is`` is asked about those."""
    for known in _KNOWN_DEFAULTS:
        if type(known.value) is type(value) and known.value == value:
            return known
    return DefaultValue(value)


def may_read_files(cls: type[TelegramObject]) -> bool:
    """Whether building an instance may open the file that an argument names, as PTB does for what is uploaded."""
    return any("parse_file_input" in vars(sys.modules[base.__module__]) for base in cls.__mro__)
