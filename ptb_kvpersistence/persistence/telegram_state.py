"""Telegram's objects and errors by their attributes: taken from the instance and set again, running none of its code.

Which objects are stored so, and the form, are described in :mod:`ptb_kvpersistence.persistence.telegram_codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import telegram.constants
from telegram import Bot, TelegramObject
from telegram.error import TelegramError

from ptb_kvpersistence.codec.classes import Shape, class_attribute, create, namespace_of, shape_of
from ptb_kvpersistence.codec.place import Fault, Step, attribute_step, type_name
from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.persistence.telegram_form import is_constant
from ptb_kvpersistence.persistence.telegram_private import API_KWARGS, BOT, CACHES, FROZEN, ID_ATTRS, UNFILLED_CACHES

Encode: TypeAlias = Callable[[object, Step], Tree]
Decode: TypeAlias = Callable[[Tree], object]
State: TypeAlias = dict[str, Tree]

TAG: Final = "$telegram"
CONSTANTS: Final = "constants."
"""What a constant's name begins with where a class would be named."""

_ARGS: Final = "args"


def encode_object(value: TelegramObject, encode: Encode) -> State:
    """Give the state of an object, without ``None`` and without what can be worked out again.

    Raises:
        Fault: Something in it cannot be stored.
    """
    cls: type = type(value)
    shape = shape_of(cls)
    if shape.trouble or shape.content is not None:
        raise Fault(f"cannot store a {type_name(cls)}: it is more than a Telegram object")
    attributes = _slots_of(value, shape.slots)
    if shape.dict_of is not None:
        attributes.update(shape.dict_of(value))
    attributes.pop(BOT, None)
    frozen, id_attrs, api_kwargs = (attributes.pop(name, None) for name in (FROZEN, ID_ATTRS, API_KWARGS))
    state = _encode_all({name: item for name, item in attributes.items() if name not in CACHES}, encode)
    if id_attrs:
        names = {id(attributes[name]): name for name in reversed(state)}
        state[ID_ATTRS] = [names.get(id(item)) or [encode(item, attribute_step(ID_ATTRS))] for item in id_attrs]
    if api_kwargs:
        state[API_KWARGS] = encode(dict(api_kwargs), attribute_step(API_KWARGS))
    if not frozen:
        state[FROZEN] = False
    return state


def _slots_of(value: object, slots: dict[str, Any]) -> dict[str, Any]:
    attributes = {}
    for name, slot in slots.items():
        try:
            attributes[name] = slot.__get__(value)
        except AttributeError:  # rebuilt from a pickle of an older PTB
            continue
    return attributes


def _encode_all(attributes: dict[str, Any], encode: Encode) -> State:
    return {
        name: encode_constant(item) if is_constant(item) else encode(item, attribute_step(name))
        for name, item in attributes.items()
        if item is not None
    }


def encode_constant(item: Any) -> Tree:
    """Write a member of one of PTB's enums by its value, since PTB renames and moves those of its own use."""
    return {TAG: [f"{CONSTANTS}{type(item).__name__}", item.value]}


def decode_constant(name: str, value: Tree) -> object:
    """Find a member again; the plain value where the installed PTB has none."""
    cls = vars(telegram.constants).get(name.removeprefix(CONSTANTS))
    if type(value) not in (str, int):
        raise Fault("the value of a constant is a str or an int")
    members = cls.__members__.values() if isinstance(cls, type) and issubclass(cls, Enum) else ()
    return next((member for member in members if is_constant(member) and member.value == value), value)


def decode_object(cls: type, state: State, decode: Decode, bot: Bot | None) -> TelegramObject:
    """Rebuild an object, associated with a bot.

    Raises:
        Fault: It is no such state.
    """
    shape = shape_of(cls)
    if shape.trouble or shape.content is not None or BOT in state:
        raise Fault(f"this is not the state of a {cls.__name__}")
    id_attrs = state.pop(ID_ATTRS, [])
    attributes = _decode_all(state, decode, None if shape.dict_of else shape.slots)
    values: dict[str, Any] = dict.fromkeys(shape.slots)
    values.update((name, empty) for name, empty in UNFILLED_CACHES.items() if name in values)
    frozen, api_kwargs = attributes.pop(FROZEN, True), attributes.pop(API_KWARGS, {})
    if type(id_attrs) is not list or type(frozen) is not bool or type(api_kwargs) is not dict:
        raise Fault(f"this is not the state of a {cls.__name__}")
    values[ID_ATTRS] = tuple(_decode_id_attr(tree, attributes, decode) for tree in id_attrs)
    for name, item in attributes.items():
        _set(shape, name, item, values, api_kwargs)
    values.update({BOT: bot, FROZEN: frozen, API_KWARGS: MappingProxyType(api_kwargs)})
    try:
        rebuilt: TelegramObject = create(shape, cls, values)
    except TypeError as error:
        raise Fault(f"a {cls.__name__} cannot be made from its state", error) from error
    return rebuilt


def _decode_all(state: State, decode: Decode, known: Container[str] | None = None) -> dict[str, Any]:
    attributes = {}
    for name, tree in state.items():
        try:
            attributes[name] = decode(tree)
        except Fault as fault:
            if known is not None and name not in known:  # a newer PTB's attribute, with a class of its own
                attributes[name] = tree
                continue
            raise fault.at(attribute_step(name)) from fault.cause
    return attributes


def _decode_id_attr(tree: Tree, attributes: dict[str, Any], decode: Decode) -> object:
    if type(tree) is str:
        return attributes.get(tree)
    if type(tree) is list and len(tree) == 1:
        return decode(tree[0])
    raise Fault("an attribute's name or [value] was expected").at(attribute_step(ID_ATTRS))


def _set(shape: Shape, name: str, item: Any, values: dict[str, Any], api_kwargs: dict[str, Any]) -> None:
    if name in values or shape.dict_of is not None:
        values[name] = item
    elif f"_{name}" in values:  # PTB moved periods to private attributes, and made them timedelta
        values[f"_{name}"] = timedelta(seconds=item) if type(item) in (int, float) else item
    elif name.startswith("_"):
        if name[1:] in values:
            values[name[1:]] = int(item.total_seconds()) if type(item) is timedelta else item
    else:
        api_kwargs.setdefault(name, item)


# --- errors ---


@lru_cache(maxsize=128)
def _error_slots(cls: type) -> dict[str, Any]:
    return {
        name: slot
        for base in reversed(cls.__mro__)
        for name in namespace_of(base).get("__slots__", ())
        if hasattr(slot := class_attribute(base, name), "__set__")
    }


def encode_error(value: TelegramError, encode: Encode) -> State:
    """Give the state of an error; its traceback, cause and context are no part of it.

    Raises:
        Fault: Something in it cannot be stored.
    """
    cls: type = type(value)
    attributes = {**value.__dict__, **_slots_of(value, _error_slots(cls))}
    attributes.pop("__notes__", None)
    return {_ARGS: encode(list(value.args), f".{_ARGS}"), **_encode_all(attributes, encode)}


def decode_error(cls: type, state: State, decode: Decode) -> TelegramError:
    """Rebuild an error.

    Raises:
        Fault: It is no such state.
    """
    attributes = _decode_all(state, decode)
    args = attributes.pop(_ARGS, [])
    if type(args) is not list:
        raise Fault(f"this is not the state of a {cls.__name__}")
    slots = _error_slots(cls)
    error: TelegramError = Exception.__new__(cls, *args)
    for name, slot in slots.items():
        slot.__set__(error, attributes.pop(name, None))
    error.__dict__.update(attributes)
    return error
