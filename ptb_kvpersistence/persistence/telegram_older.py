"""Telegram's objects from the Bot API's JSON where ``de_json`` refuses, as it does for data that an older PTB wrote.

PTB makes arguments required when the Bot API begins to send a field (``PollOption.persistent_id``), so that a poll
which was stored before cannot be read any more. Here such an object is built all the same: field by field, with the
classes that the annotations of ``__init__`` name, and with ``None`` for what was not known when it was written.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final, NamedTuple

from telegram import Bot, TelegramObject

from ptb_kvpersistence.codec.classes import shape_of
from ptb_kvpersistence.persistence.telegram_form import CLASSES, ENTRY_POINTS, is_fitting
from ptb_kvpersistence.persistence.telegram_private import API_KWARGS

_WORDS: Final = re.compile(r"\w+")
_MOMENT: Final = re.compile(r"\b(datetime|dtm)\.datetime\b")
_MOST_MISSING: Final = 8
_MOST_ATTEMPTS: Final = 1000


class _Argument(NamedTuple):
    classes: tuple[type[TelegramObject], ...]
    is_moment: bool
    is_period: bool
    is_list: bool


def rebuild_older(cls: type[TelegramObject], data: dict[str, Any], bot: Bot | None) -> TelegramObject:
    """Build an object of a fitting class although fields are missing.

    Args:
        cls: The class.
        data: The Bot API's JSON, with the user's own values decoded.
        bot: What the object, and all in it, shall be associated with.

    Returns:
        An object of exactly that class. Fields that it does not know are in its ``api_kwargs``.

    Raises:
        TypeError: Nothing helps. Whatever else PTB raises for the data comes through.
    """
    return _build(cls, data, bot, [_MOST_ATTEMPTS])


def _build(cls: type, data: dict[str, Any], bot: Bot | None, left: list[int]) -> TelegramObject:
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("the data are too entangled")
    known = _arguments_of(cls)
    arguments: dict[str, Any] = {}
    api_kwargs: dict[str, Any] = {}
    for key, item in data.items():
        name = "from_user" if key == "from" else key
        if name in known:
            arguments[name] = _convert(item, known[name], bot, left)
        elif key not in ENTRY_POINTS:
            api_kwargs[key] = item
    rebuilt, missing = _call(cls, known, {**arguments, API_KWARGS: api_kwargs})
    slots = shape_of(cls).slots
    for name in missing:
        if name in slots and not known[name].is_list:  # empty lists are not written
            slots[name].__set__(rebuilt, None)
    rebuilt.set_bot(bot)
    return rebuilt


def _call(cls: Any, known: Iterable[str], arguments: dict[str, Any]) -> tuple[TelegramObject, set[str]]:
    missing: set[str] = set()
    while True:
        try:
            return cls(**arguments, **dict.fromkeys(missing, ())), missing  # anything but None
        except TypeError as error:
            named = set(_WORDS.findall(str(error))).intersection(known).difference(arguments, missing)
            if not named or len(missing) > _MOST_MISSING:
                raise
            missing |= named


@lru_cache(maxsize=1024)
def _arguments_of(cls: type) -> dict[str, _Argument]:
    arguments = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        text = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
        named = (CLASSES.get(word) for word in _WORDS.findall(text))
        classes = tuple(found for found in named if found is not None and is_fitting(found))
        is_period = "timedelta" in text or "TimePeriod" in text
        arguments[name] = _Argument(classes, bool(_MOMENT.search(text)), is_period, "Sequence" in text)
    arguments.pop(API_KWARGS, None)
    return arguments


def _convert(item: Any, argument: _Argument, bot: Bot | None, left: list[int]) -> Any:
    if type(item) is list:
        return tuple(_convert(element, argument, bot, left) for element in item)
    if type(item) is dict and argument.classes:
        return _build_one_of(argument.classes, item, bot, left)
    if type(item) is int and argument.is_moment:
        return datetime.fromtimestamp(item, timezone.utc)
    if type(item) in (int, float) and argument.is_period:
        return timedelta(seconds=item)
    return item


def _build_one_of(
    classes: tuple[type[TelegramObject], ...], data: dict[str, Any], bot: Bot | None, left: list[int]
) -> TelegramObject:
    for cls in classes:
        try:
            rebuilt: Any = cls.de_json(dict(data), bot)
        except (TypeError, KeyError):
            continue
        if rebuilt is not None:
            return rebuilt  # type: ignore[no-any-return]
    for cls in classes:
        for candidate in _most_special_first(cls):
            try:
                rebuilt = _build(candidate, data, bot, left)
            except (TypeError, KeyError):
                continue
            if all(getattr(rebuilt, key, None) == data[key] for key in ENTRY_POINTS if type(data.get(key)) is str):
                return rebuilt  # type: ignore[no-any-return]
    raise TypeError("no class takes these data")


def _most_special_first(cls: type[TelegramObject]) -> Iterator[type[TelegramObject]]:
    for subclass in cls.__subclasses__():
        yield from _most_special_first(subclass)
    if is_fitting(cls):
        yield cls
