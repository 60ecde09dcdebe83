"""What the golden databases hold, as Python objects; what a file was written from is never changed."""

from __future__ import annotations

import datetime as dt
import enum
import pathlib
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from telegram import Chat, InlineKeyboardButton, InlineKeyboardMarkup, Message, User

BOT = "123456"


class Color(enum.Enum):
    """An enum of a bot."""

    RED = "red"


class Rights(enum.Flag):
    """A flag of a bot."""

    READ = 1
    WRITE = 2


class Point(NamedTuple):
    """A named tuple of a bot."""

    x: int
    y: int = 0


@dataclass
class Order:
    """A dataclass of a bot."""

    number: int
    lines: list[str] = field(default_factory=list)


def message() -> Message:
    """Make a message as the Bot API sends them."""
    return Message(
        7,
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
        Chat(42, "private", first_name="Ann"),
        from_user=User(42, "Ann", is_bot=False),
        text="hello",
        reply_markup=InlineKeyboardMarkup([[InlineKeyboardButton("x", callback_data="y")]]),
    )


USER_DATA: dict[int, Any] = {
    42: {
        "plain": [1, -0.5, "ü\u0000\U0001f600", True, None, {"nested": {}}],
        "tuple": (1, (2,)),
        "set": {1, "a"},
        "frozenset": frozenset({(1, 2)}),
        "bytes": b"\x00\xff",
        "datetimes": [
            dt.datetime(2026, 1, 2, 3, 4, 5, 678),
            dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc),
            dt.datetime(2026, 7, 2, tzinfo=ZoneInfo("Europe/Berlin")),
            dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")),
        ],
        "date": dt.date(2026, 1, 2),
        "time": dt.time(3, 4, 5),
        "timedelta": dt.timedelta(days=-1, microseconds=5),
        "decimal": Decimal("1.10"),
        "uuid": uuid.UUID(int=5),
        "big": 2**70,
        "inf": float("inf"),
        "complex": 1 + 2j,
        "surrogate": "\ud800",
        7: {"int key": (None, True)},
        "$tuple": "looks like a tag",
        "one": {"$tuple": [1]},
        "ordered": OrderedDict(b=1, a=2),
        "counter": Counter("abca"),
        "deque": deque([1, 2], maxlen=3),
        "defaultdict": defaultdict(list, a=[1]),
        "range": range(1, 10, 3),
        "enum": Color.RED,
        "flag": Rights.READ | Rights.WRITE,
        "named": Point(1, 2),
        "dataclass": Order(5, ["a"]),
        "path": pathlib.PurePosixPath("/a/b"),
        "message": message(),
    },
    43: {},
}
CHAT_DATA: dict[int, Any] = {-100: {"members": {1: "Ann", 2: "Bob"}}}
BOT_DATA: dict[str, Any] = {"started": 3}
CONVERSATIONS: dict[str, dict[tuple[int | str, ...], Any]] = {
    "order": {(42, 42): 1, (-100, 43): Color.RED},
    "nested": {(42, 42, "inline-5"): "typing"},
}
CALLBACK_DATA: tuple[list[tuple[str, float, dict[str, Any]]], dict[str, str]] = (
    [("b" * 32, 1700000000.5, {"1" * 32: ("buy", 5)}), ("a" * 32, 1700000001.5, {"2" * 32: Order(6)})],
    {"query-1": "b" * 32},
)
ROOT: dict[str, Any] = {"color": "red", "run": 5}
