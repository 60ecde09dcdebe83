"""Telegram's objects as the Bot API's JSON: how they are written, rebuilt and compared.

:func:`write` gives what ``to_dict`` gives, with two differences: members of PTB's enums are their plain values, and
what a user put in (the ``callback_data`` of a button, values of ``api_kwargs``) goes through the codec as it is. Along
the way it notes the object's *shape*: the classes, the attributes that are set, and whatever else ``de_json`` may look
at. Whether ``de_json`` gives back the very same thing depends on the shape only, and so is tried once per shape. What
happens to objects that do not come back is decided in :mod:`ptb_kvpersistence.persistence.telegram_codec`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import telegram.ext  # noqa: F401 - some of the objects and errors are defined there
from telegram import Bot, TelegramObject
from telegram.error import TelegramError

from ptb_kvpersistence.codec.classes import shape_of
from ptb_kvpersistence.codec.place import Fault, attribute_step, item_step
from ptb_kvpersistence.codec.tags import MAX_INT, MIN_INT
from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.persistence.telegram_private import (
    API_KWARGS,
    BOT,
    CACHES,
    FROZEN,
    ID_ATTRS,
    DefaultValue,
    may_read_files,
)

Encode: TypeAlias = Callable[[object, str], Tree]
Shape: TypeAlias = Any
"""Shape; equal for objects that ``de_json`` treats alike."""
Form: TypeAlias = tuple[Tree, Shape]
"""A tree, and the shape of what it was written from."""

ENTRY_POINTS: Final = frozenset(("type", "status", "source"))
"""Fields by which ``de_json`` of a base class chooses the class."""

_LONGEST_CHOICE: Final = 40
_ZERO: Final = object()
_NOTHING: Final = object()
_DEFAULT: Final = object()
_NOT_WRITTEN: Final = object()


class UnfitError(Exception):
    """The Bot API's JSON cannot hold the object."""


class _Plan(NamedTuple):
    names: tuple[str, ...]
    keys: tuple[str, ...]
    read: Callable[[Any], Iterable[Any]]


def _subclasses(cls: type) -> Iterator[Any]:
    subclass: Any
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _is_telegrams(cls: type) -> bool:
    if cls.__module__.partition(".")[0] != "telegram" or issubclass(cls, Bot):
        return False
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


CLASSES: Final[dict[str, type[TelegramObject]]] = {
    cls.__name__: cls for cls in (TelegramObject, *_subclasses(TelegramObject)) if _is_telegrams(cls)
}
"""PTB's own classes by name; those of users are not among them."""

ERRORS: Final[dict[str, type[TelegramError]]] = {
    cls.__name__: cls for cls in (TelegramError, *_subclasses(TelegramError)) if _is_telegrams(cls)
}
"""PTB's own errors by name; those of users are not among them."""

_FITTING: Final = frozenset(cls for cls in CLASSES.values() if not may_read_files(cls))


def is_fitting(cls: type) -> bool:
    """Whether ``de_json`` may rebuild objects of exactly this class: PTB's own, none that opens files."""
    return cls in _FITTING


def is_constant(item: object) -> bool:
    """Whether it is a member of one of PTB's enums that stand for a value of the Bot API."""
    return isinstance(item, Enum) and isinstance(item, (str, int)) and type(item).__module__ == "telegram.constants"


# --- writing ---


@lru_cache(maxsize=1024)
def _plan_of(cls: type) -> _Plan:
    left_out = {BOT, FROZEN, ID_ATTRS, API_KWARGS} | CACHES
    names = tuple(name for name in shape_of(cls).slots if name not in left_out)
    keys = tuple("from" if name == "from_user" else name.removeprefix("_") for name in names)
    return _Plan(names, keys, _reader(names))


def _reader(names: tuple[str, ...]) -> Callable[[Any], Iterable[Any]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: [getattr(value, name) for name in names]


def write(value: TelegramObject, encode: Encode) -> Form:
    """Write an object as the Bot API's JSON.

    Args:
        value: An object of a fitting class.
        encode: Called with what is the user's own.

    Returns:
        The tree and the shape.

    Raises:
        UnfitError: It does not fit into the form.
        Fault: Something in it cannot be stored.
    """
    cls: type = type(value)
    plan = _plan_of(cls)
    try:
        attributes = plan.read(value)
    except AttributeError:  # rebuilt from a pickle of an older PTB
        raise UnfitError from None
    tree: dict[str, Tree] = {}
    shape: list[Shape] = [cls]
    name = ""
    try:
        for name, key, item in zip(plan.names, plan.keys, attributes, strict=True):  # noqa: B007 - for a fault's place
            if item is not None:
                item_tree, item_shape = _write_item(item, key, encode)
                shape += (key, item_shape)
                if item_tree is not _NOT_WRITTEN:
                    tree[key] = item_tree
        name = API_KWARGS
        if value.api_kwargs:
            _write_api_kwargs(value.api_kwargs, tree, shape, encode)
    except Fault as fault:
        raise fault.at(attribute_step(name)) from fault.cause
    if len(tree) == 1 and next(iter(tree))[:1] == "$":
        raise UnfitError  # it would be taken for a tag
    return tree, tuple(shape)


def _write_api_kwargs(api_kwargs: Any, tree: dict[str, Tree], shape: list[Shape], encode: Encode) -> None:
    for key, item in api_kwargs.items():
        if type(key) is not str or not key.isascii():
            raise UnfitError
        try:
            tree[key] = encode(item, "")
        except Fault as fault:
            raise fault.at(item_step(key)) from fault.cause
        shape += (API_KWARGS, key, type(item), type(item) in _FALSY and not item)


_FALSY: Final = frozenset((str, int, float, bool, list, dict, tuple))


def _write_item(item: Any, key: str, encode: Encode) -> Form:
    kind = type(item)
    if kind is str:
        tree = item if item.isascii() else encode(item, "")
        if key in ENTRY_POINTS and len(item) <= _LONGEST_CHOICE:
            return tree, item
        return tree, str if item else _NOTHING
    if kind is int:
        return item if MIN_INT <= item <= MAX_INT else encode(item, ""), int if item else (int, _ZERO)
    if kind in _FITTING:
        return write(item, encode)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(item, key, encode)
    if isinstance(item, TelegramObject):
        raise UnfitError
    if is_constant(item):
        return item.value, (kind, item.value)
    return encode(item, ""), kind


def _write_bool(item: bool, _key: str, _encode: Encode) -> Form:
    return item, item


def _write_float(item: float, _key: str, encode: Encode) -> Form:
    return encode(item, ""), float if item else (float, _ZERO)


def _write_datetime(item: datetime, _key: str, _encode: Encode) -> Form:
    if item.tzinfo is None or item.microsecond:
        raise UnfitError
    timestamp = int(item.timestamp())
    return timestamp, datetime if timestamp else (datetime, _ZERO)


def _write_timedelta(item: timedelta, _key: str, _encode: Encode) -> Form:
    if item.microseconds:
        raise UnfitError
    seconds = int(item.total_seconds())
    return seconds, timedelta if seconds else (timedelta, _ZERO)


def _write_dict(item: dict[Any, Any], _key: str, encode: Encode) -> Form:
    return encode(item, ""), (dict, not item)


def _write_default(item: DefaultValue[Any], _key: str, _encode: Encode) -> Form:
    if item.value is not None:
        raise UnfitError
    return _NOT_WRITTEN, _DEFAULT


def _write_sequence(item: Any, key: str, encode: Encode) -> Form:
    if not item:
        return _NOT_WRITTEN, (type(item), _NOTHING)
    trees: list[Tree] = []
    shapes: set[Shape] = set()
    try:
        for element in item:
            if type(element) in (tuple, list) and not element:
                raise UnfitError
            tree, shape = (None, None) if element is None else _write_item(element, key, encode)
            trees.append(tree)
            shapes.add(shape)
    except Fault as fault:
        raise fault.at(item_step(len(trees))) from fault.cause
    return trees, (type(item), frozenset(shapes))


_WRITERS: Final[dict[type, Callable[[Any, str, Encode], Form]]] = {
    bool: _write_bool,
    float: _write_float,
    datetime: _write_datetime,
    timedelta: _write_timedelta,
    dict: _write_dict,
    DefaultValue: _write_default,
    tuple: _write_sequence,
    list: _write_sequence,
}


# --- rebuilding ---


def rebuild(cls: type[TelegramObject], data: dict[str, Any], bot: Bot | None) -> TelegramObject:
    """Rebuild an object of a fitting class by ``de_json``.

    The base class is asked first: only ``ChatMember.de_json`` knows that it chooses ``ChatMemberOwner`` by ``status``,
    which the latter's own takes for an unknown field.

    Args:
        cls: The class.
        data: The Bot API's JSON, with the user's own values decoded.
        bot: What the object, and all in it, shall be associated with.

    Returns:
        An object of exactly that class.

    Raises:
        TypeError: The data do not give one. Whatever else PTB raises for them comes through.
    """
    bare: type = cls
    for base in _choosing_bases(bare):
        chosen = _try(base, data, bot)
        if type(chosen) is cls:
            return chosen
    rebuilt = cls.de_json(dict(data), bot)
    if type(rebuilt) is not cls:
        raise TypeError(f"the data are not those of a {cls.__name__}")
    return rebuilt


@lru_cache(maxsize=1024)
def _choosing_bases(cls: type) -> tuple[type[TelegramObject], ...]:
    bases = (base for base in cls.__mro__[1:] if base in _FITTING and base is not TelegramObject)
    return tuple(base for base in bases if base.__name__[0] != "_" and "de_json" in vars(base))


def _try(base: type[TelegramObject], data: dict[str, Any], bot: Bot | None) -> TelegramObject | None:
    try:
        return base.de_json(dict(data), bot)
    except Warning:
        raise
    except Exception:  # noqa: BLE001 - a base class need not understand the data of a subclass
        return None


def comes_back(value: TelegramObject) -> bool:
    """Whether what :func:`write` gives for this object is enough to rebuild it, down to the last attribute.

    Where PTB warns about the way, the answer is no: users could do nothing about a warning at every start.
    """
    try:
        data, _ = write(value, lambda item, _step: item)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return is_same(value, rebuild(type(value), data, None))
    except RecursionError:
        raise  # trying the same with each part would take long
    except Exception:  # noqa: BLE001 - whatever PTB raises, it did not come back
        return False


def is_same(one: Any, other: Any) -> bool:
    """Whether two values agree in every type and attribute; moments may differ in zone, users' own not at all."""
    if one is other:
        return True
    kind: Any = type(one)
    if type(other) is not kind:
        return False
    if isinstance(one, TelegramObject):
        cls: type = kind
        names = (*_plan_of(cls).names, API_KWARGS, ID_ATTRS, FROZEN)
        return all(is_same(getattr(one, name, None), getattr(other, name, None)) for name in names)
    if kind in (tuple, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if kind in (dict, MappingProxyType):
        return list(one) == list(other) and all(is_same(item, other[key]) for key, item in one.items())
    if kind is DefaultValue:
        return is_same(one.value, other.value)
    if kind is datetime:
        return (one.tzinfo is None) is (other.tzinfo is None) and bool(one == other)
    return kind in (str, int, float, bytes, timedelta) and bool(one == other)
