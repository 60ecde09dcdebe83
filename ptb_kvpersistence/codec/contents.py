"""The built-in content of objects whose class derives from a container or a scalar, reached without the class's code.

``class Cart(dict)`` has attributes (see :mod:`ptb_kvpersistence.codec.classes`) and a content, the dict itself. It is
read and set with the built-in base's own methods, called unbound, so that overrides in the class never run.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import tzinfo
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

_FACTORY: Final = defaultdict.__dict__["default_factory"]

default_factory_of: Final[Callable[[defaultdict[Any, Any]], Any]] = _FACTORY.__get__
maxlen_of: Final[Callable[[deque[Any]], int | None]] = deque.__dict__["maxlen"].__get__


class Content(NamedTuple):
    """How the content of subclasses of ``base`` is reached.

    Attributes:
        base: The built-in class.
        read: The content as a new object of exactly ``base``.
        create: A new instance of a subclass with that content.
        replace: Bring a live instance to a content; ``None``: immutable.
    """

    base: type
    read: Callable[[Any], Any]
    create: Callable[[Any, Any], Any]
    replace: Callable[[Any, Any], None] | None


def _replace_dict(value: dict[Any, Any], content: dict[Any, Any]) -> None:
    dict.clear(value)
    dict.update(value, content)


def _create_dict(cls: type[dict[Any, Any]], content: dict[Any, Any]) -> dict[Any, Any]:
    value = dict.__new__(cls)
    dict.update(value, content)
    return value


def _replace_ordered(value: OrderedDict[Any, Any], content: OrderedDict[Any, Any]) -> None:
    OrderedDict.clear(value)
    for key, item in content.items():  # OrderedDict.update would call an overridden __setitem__
        OrderedDict.__setitem__(value, key, item)


def _create_ordered(cls: type[OrderedDict[Any, Any]], content: OrderedDict[Any, Any]) -> OrderedDict[Any, Any]:
    value = OrderedDict.__new__(cls)
    _replace_ordered(value, content)
    return value


def _read_default(value: defaultdict[Any, Any]) -> defaultdict[Any, Any]:
    return defaultdict(default_factory_of(value), dict.items(value))


def _replace_default(value: defaultdict[Any, Any], content: defaultdict[Any, Any]) -> None:
    _replace_dict(value, content)
    _FACTORY.__set__(value, content.default_factory)


def _create_default(cls: type[defaultdict[Any, Any]], content: defaultdict[Any, Any]) -> defaultdict[Any, Any]:
    value = defaultdict.__new__(cls)
    _replace_default(value, content)
    return value


def _replace_list(value: list[Any], content: list[Any]) -> None:
    list.__setitem__(value, slice(None), content)


def _create_list(cls: type[list[Any]], content: list[Any]) -> list[Any]:
    value = list.__new__(cls)
    _replace_list(value, content)
    return value


def _replace_set(value: set[Any], content: set[Any]) -> None:
    set.clear(value)
    set.update(value, content)


def _create_set(cls: type[set[Any]], content: set[Any]) -> set[Any]:
    value = set.__new__(cls)
    set.update(value, content)
    return value


def _replace_deque(value: deque[Any], content: deque[Any]) -> None:
    if maxlen_of(value) != content.maxlen:
        raise TypeError("the maxlen of a deque cannot be changed")
    deque.clear(value)
    deque.extend(value, content)


def _create_deque(cls: type[deque[Any]], content: deque[Any]) -> deque[Any]:
    value = deque.__new__(cls)
    deque.__init__(value, content, content.maxlen)
    return value


def _replace_bytearray(value: bytearray, content: bytearray) -> None:
    bytearray.__setitem__(value, slice(None), content)


def _create_bytearray(cls: type[bytearray], content: bytearray) -> bytearray:
    value = bytearray.__new__(cls)
    _replace_bytearray(value, content)
    return value


def _immutable(base: Any, read: Callable[[Any], Any]) -> Content:
    return Content(base, read, base.__new__, None)


CONTENTS: Final[dict[type, Content]] = {
    content.base: content
    for content in (
        Content(OrderedDict, lambda value: OrderedDict(OrderedDict.items(value)), _create_ordered, _replace_ordered),
        Content(defaultdict, _read_default, _create_default, _replace_default),
        Content(dict, lambda value: dict(dict.items(value)), _create_dict, _replace_dict),  # dict.copy calls __iter__
        Content(list, lambda value: list.__getitem__(value, slice(None)), _create_list, _replace_list),
        Content(set, lambda value: set().union(value), _create_set, _replace_set),
        Content(
            deque,
            lambda value: deque(deque.__iter__(value), maxlen_of(value)),
            _create_deque,
            _replace_deque,
        ),
        Content(
            bytearray, lambda value: bytearray.__getitem__(value, slice(None)), _create_bytearray, _replace_bytearray
        ),
        _immutable(tuple, lambda value: tuple.__getitem__(value, slice(None))),
        _immutable(frozenset, lambda value: frozenset(set().union(value))),
        _immutable(str, str.__str__),
        _immutable(bytes, lambda value: bytes.__getitem__(value, slice(None))),
        _immutable(int, int.__int__),
        _immutable(float, float.__float__),
        _immutable(complex, complex.__pos__),
    )
}

ROOTS: Final[dict[type, Content | None]] = {**CONTENTS, SimpleNamespace: None, tzinfo: None, object: None}
"""The built-in classes that a storable class may rest on; without a content the state is all in the attributes."""
