"""The five JSON strings of PTB's ``DictPersistence``, to and from :class:`Sections`.

Pure functions. The format is whatever ``telegram.ext.DictPersistence`` reads and writes, its guesses included: a
first-level key of an entity that ``int()`` takes becomes an int, all deeper keys stay strings. The format of our own
database is the codec's affair and not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypedDict, TypeVar

from ptb_kvpersistence.errors import ConfigurationError, EncodeError
from ptb_kvpersistence.persistence.sections import CallbackData, ConversationStates, Sections

T = TypeVar("T")

_ATOMS = frozenset({str, int, float, bool, type(None)})
_ADVICE = "DictPersistence keeps plain JSON only; leave this out, or keep it as str, int, float, bool, list or dict"


class DictJSON(TypedDict):
    """The arguments of ``DictPersistence`` that hold data; ``""`` for a section that is not stored."""

    user_data_json: str
    chat_data_json: str
    bot_data_json: str
    conversations_json: str
    callback_data_json: str


def parse_dict_json(
    user_data_json: str = "",
    chat_data_json: str = "",
    bot_data_json: str = "",
    conversations_json: str = "",
    callback_data_json: str = "",
) -> Sections:
    """Read the JSON strings that a ``DictPersistence`` gives, or that it takes.

    Args:
        user_data_json: As in ``DictPersistence``; ``""`` and ``"null"`` mean that nothing is stored.
        chat_data_json: The same.
        bot_data_json: The same.
        conversations_json: The same. States of ended conversations (``null``) are left out.
        callback_data_json: The same.

    Returns:
        What a ``DictPersistence`` made of these strings would hold.

    Raises:
        ConfigurationError: A string is no JSON or has another form; the message names the argument and the place.
    """
    return Sections(
        user_data=_parse("user_data_json", user_data_json, _entities),
        chat_data=_parse("chat_data_json", chat_data_json, _entities),
        bot_data=_parse("bot_data_json", bot_data_json, _mapping),
        conversations=_parse("conversations_json", conversations_json, _conversations),
        callback_data=_parse("callback_data_json", callback_data_json, _callback_data),
    )


def format_dict_json(sections: Sections) -> DictJSON:
    """Write the JSON strings from which a ``DictPersistence`` gets the same data back.

    Args:
        sections: What to write. States of ended conversations (``None``) are left out.

    Returns:
        Keyword arguments for ``DictPersistence``.

    Raises:
        EncodeError: A value, or a key, would not come back as it is; the place is named.
    """
    conversations: dict[str, dict[str, Any]] | None = None
    if sections.conversations is not None:
        conversations = {
            _exact(name, str, f"conversations[{name!r}]"): _format_states(name, states)
            for name, states in sections.conversations.items()
        }
    callback_data = sections.callback_data
    return {
        "user_data_json": _format_entities("user_data", sections.user_data),
        "chat_data_json": _format_entities("chat_data", sections.chat_data),
        "bot_data_json": "" if sections.bot_data is None else _format_mapping("bot_data", sections.bot_data),
        "conversations_json": _dumps("conversations", conversations),
        "callback_data_json": "" if callback_data is None else _format_callback_data(callback_data),
    }


# --- reading ---


def _parse(argument: str, text: str, convert: Callable[[str, Any], T]) -> T | None:
    if not text:
        return None
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ConfigurationError(f"{argument}: nested too deeply; pass what DictPersistence.{argument} gave") from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{argument}: not valid JSON ({error}); pass what DictPersistence.{argument} gave"
        ) from error
    return None if data is None else convert(argument, data)


def _wrong_form(place: str, expected: str) -> NoReturn:
    raise ConfigurationError(f"{place}: expected {expected}; pass what DictPersistence gave")


def _mapping(place: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        _wrong_form(place, f"a JSON object, not {type(data).__name__}")
    return data


def _entities(argument: str, data: Any) -> dict[int, dict[str | int, Any]]:
    entities = {}
    for text, entity in _mapping(argument, data).items():
        place = f"{argument}[{text!r}]"
        number = _guess_int(text)
        if not isinstance(number, int):
            _wrong_form(place, "a whole number as the id")
        entities[number] = {_guess_int(key): value for key, value in _mapping(place, entity).items()}
    return entities


def _guess_int(key: str) -> str | int:
    try:
        return int(key)
    except ValueError:
        return key


def _conversations(argument: str, data: Any) -> dict[str, ConversationStates]:
    return {
        name: {
            _conversation_key(f"{argument}[{name!r}]", text): state
            for text, state in _mapping(f"{argument}[{name!r}]", states).items()
            if state is not None
        }
        for name, states in _mapping(argument, data).items()
    }


def _conversation_key(place: str, text: str) -> tuple[Any, ...]:
    try:
        key = json.loads(text)
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or not all(type(part) in _ATOMS for part in key):
        _wrong_form(f"{place}[{text!r}]", "a conversation key, which is a JSON array of ids as text")
    return tuple(key)


def _callback_data(argument: str, data: Any) -> CallbackData:
    try:
        keyboards, queries = data[0], data[1]
        entries = [(uuid, float(used_at), buttons) for uuid, used_at, buttons in keyboards]
    except (LookupError, TypeError, ValueError):
        _wrong_form(argument, "[[[keyboard, time, buttons], ...], queries]")
    for position, (uuid, _, buttons) in enumerate(entries):
        if not isinstance(uuid, str) or not isinstance(buttons, dict):
            _wrong_form(f"{argument}[0][{position}]", "[keyboard, time, buttons]")
    if not isinstance(queries, dict) or not all(isinstance(uuid, str) for uuid in queries.values()):
        _wrong_form(f"{argument}[1]", "an object that maps callback queries to keyboards")
    return entries, queries


# --- writing ---


class _Misfit(Exception):  # noqa: N818 - never leaves this module; carries the place, innermost step first
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


def _format_entities(section: str, entities: Mapping[int, Any] | None) -> str:
    if entities is None:
        return ""
    for identity, entity in entities.items():
        place = f"{section}[{identity!r}]"
        _exact(identity, int, place)
        _exact(entity, dict, place)
        for key in entity:
            if type(key) is str and isinstance(_guess_int(key), int):
                _refuse(f"{place}[{key!r}]", f"DictPersistence would read this str key as the int {_guess_int(key)}")
            if type(key) not in (str, int):
                _refuse(f"{place}[{key!r}]", f"DictPersistence would not read a {type(key).__name__} key back")
        _check(place, list(entity.values()), [f"[{key!r}]" for key in entity])
    return _dumps(section, entities)


def _format_mapping(section: str, mapping: Any) -> str:
    _exact(mapping, dict, section)
    _check(section, mapping)
    return _dumps(section, mapping)


def _format_states(name: str, states: ConversationStates) -> dict[str, Any]:
    formatted = {}
    for key, state in states.items():
        place = f"conversations[{name!r}][{key!r}]"
        if type(key) is not tuple or not all(type(part) in _ATOMS for part in key):
            _refuse(place, "DictPersistence reads conversation keys as tuples of plain ids only")
        _check(place, state)
        if state is not None:
            formatted[json.dumps(key)] = state
    return formatted


def _format_callback_data(callback_data: CallbackData) -> str:
    keyboards, queries = callback_data
    for position, (uuid, used_at, buttons) in enumerate(keyboards):
        place = f"callback_data[0][{position}]"
        _exact(uuid, str, f"{place}[0]")
        _exact(used_at, float, f"{place}[1]")
        _exact(buttons, dict, f"{place}[2]")
        _check(f"{place}[2]", buttons)
    _exact(queries, dict, "callback_data[1]")
    _check("callback_data[1]", queries)
    return _dumps("callback_data", callback_data)


def _dumps(section: str, data: Any) -> str:
    if data is None:
        return ""
    try:
        return json.dumps(data)
    except RecursionError as error:
        raise EncodeError(place=section, reason=f"nested too deeply; {_ADVICE}") from error
    except ValueError as error:
        raise EncodeError(place=section, reason=f"{error}; {_ADVICE}") from error


def _exact(value: Any, cls: type[T], place: str) -> T:
    if type(value) is not cls:
        _refuse(place, f"DictPersistence cannot keep a {type(value).__name__} where a {cls.__name__} belongs")
    return value


def _refuse(place: str, reason: str) -> NoReturn:
    raise EncodeError(place=place, reason=f"{reason}; {_ADVICE}")


def _check(place: str, value: Any, names: list[str] | None = None) -> None:
    """Refuse what would not come back from JSON as it is; ``names`` are the steps to the items of a list."""
    try:
        _walk(value, names)
    except _Misfit as misfit:
        _refuse(place + "".join(reversed(misfit.steps)), misfit.reason)
    except RecursionError:
        _refuse(place, "circular, or nested too deeply")


def _walk(value: Any, names: list[str] | None = None) -> None:
    cls = type(value)
    if cls in _ATOMS:
        return
    if cls is list:
        for position, item in enumerate(value):
            _step(item, names[position] if names else f"[{position}]")
    elif cls is dict:
        for key, item in value.items():
            if type(key) is not str:
                misfit = _Misfit(f"DictPersistence would read this {type(key).__name__} key as a str")
                misfit.steps.append(f"[{key!r}]")
                raise misfit
            _step(item, f"[{key!r}]")
    else:
        raise _Misfit(f"DictPersistence cannot keep a {cls.__name__}")


def _step(item: Any, step: str) -> None:
    try:
        _walk(item)
    except _Misfit as misfit:
        misfit.steps.append(step)
        raise
