"""Values to trees, the long way: for whatever the fast path of :mod:`ptb_kvpersistence.codec.plain` does not take.

The tree is new and shares no container with the value. Methods of the value's class are never called: containers are
read with the built-in base's own methods, objects by their slots and ``__dict__``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Flag
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from ptb_kvpersistence.codec import scalars, times
from ptb_kvpersistence.codec.classes import (
    CONTENT,
    class_attribute,
    is_enum,
    is_named_tuple,
    mro_of,
    read_attributes,
    shape_of,
)
from ptb_kvpersistence.codec.contents import default_factory_of, maxlen_of
from ptb_kvpersistence.codec.defaults import defaults_of
from ptb_kvpersistence.codec.enums import find_flag, value_of
from ptb_kvpersistence.codec.place import Fault, Step, attribute_step, element_step, item_step, key_step, type_name
from ptb_kvpersistence.codec.tags import FACTORIES, MAX_INT, MIN_INT
from ptb_kvpersistence.codec.text import Tree

if TYPE_CHECKING:
    from ptb_kvpersistence.codec.extension import Extension
    from ptb_kvpersistence.codec.registry import Registry

Handler: TypeAlias = Callable[["Encoding", Any], Tree]

MAX_NESTING: Final = 250
_SAME: Final = frozenset((bool, NoneType))
_SCALARS: Final = frozenset((str, bytes, bytearray, int, float, complex))  # their handlers want exactly the class
_FACTORY_NAMES: Final = {factory: name for name, factory in FACTORIES.items()}


class Encoding:
    """One run over one value.

    Attributes:
        registry: Which classes may be stored.
        extensions: Asked before anything else about a class.
        handlers: Per class that is not built in, how to encode its instances; kept by the codec between runs.
    """

    __slots__ = ("_active", "extensions", "handlers", "registry")

    def __init__(self, registry: Registry, extensions: Sequence[Extension], handlers: dict[type, Handler]) -> None:
        self.registry = registry
        self.extensions = extensions
        self.handlers = handlers
        self._active: set[int] = set()

    def node(self, value: Any) -> Tree:
        """Encode a value.

        Raises:
            Fault: It cannot be stored.
        """
        kind = type(value)
        handler = _EXACT.get(kind) or self.handlers.get(kind)
        if handler is None:
            handler = self.handlers[kind] = self._handler_for(kind)
        return handler(self, value)

    def child(self, value: object, step: Step = "") -> Tree:
        """Encode a part of an extension's value."""
        try:
            return self.node(value)
        except Fault as fault:
            raise fault.at(step) from fault.cause

    def enter(self, value: object) -> int:
        """Note that a container is being encoded; the result is for :meth:`leave`."""
        identity = id(value)
        if identity in self._active:
            raise Fault("a circular reference: the value contains itself; store a key or an id instead")
        if len(self._active) >= MAX_NESTING:
            raise Fault(f"nested too deeply; about {MAX_NESTING} levels can be stored")
        self._active.add(identity)
        return identity

    def leave(self, identity: int) -> None:
        """Note that a container is done."""
        self._active.discard(identity)

    def sequence(self, value: object, items: Iterable[Any], step: Callable[[int], Step] = item_step) -> list[Tree]:
        """Encode the items of a container."""
        identity = self.enter(value)
        trees: list[Tree] = []
        try:
            for item in items:
                trees.append(item if type(item) in _SAME else self.node(item))  # noqa: PERF401 - counts up to the fault
        except Fault as fault:
            raise fault.at(step(len(trees))) from fault.cause
        finally:
            self.leave(identity)
        return trees

    def pairs(self, value: object, items: Iterable[tuple[Any, Any]]) -> list[Tree]:
        """Encode the items of a mapping as pairs."""
        identity = self.enter(value)
        trees: list[Tree] = []
        step = ""
        try:
            for key, item in items:
                step = key_step(len(trees))
                key_tree = self.node(key)
                step = ""
                trees.append([key_tree, self._item(key, item)])
        except Fault as fault:
            raise fault.at(step) from fault.cause
        finally:
            self.leave(identity)
        return trees

    def _item(self, key: object, item: object) -> Tree:
        try:
            return self.node(item)
        except Fault as fault:
            raise fault.at(item_step(key)) from fault.cause

    def fields(self, value: object, attributes: dict[Any, Any]) -> dict[str, Tree]:
        """Encode attributes by name."""
        identity = self.enter(value)
        trees: dict[str, Tree] = {}
        name: Any = ""
        try:
            for name, item in attributes.items():
                trees[_checked_name(name)] = self.node(item)
        except Fault as fault:
            raise fault.at(attribute_step(name)) from fault.cause
        finally:
            self.leave(identity)
        return trees

    # --- classes ---

    def _handler_for(self, cls: type) -> Handler:
        for extension in self.extensions:
            if extension.claims(cls):
                return _extension_handler(extension)
        if is_enum(cls):
            return _enum_handler(cls, self.registry.name_for(cls))
        if times.is_pytz(cls):
            return _zone
        if is_named_tuple(cls):
            return _named_tuple_handler(cls, self.registry.name_for(cls))
        return _object_handler(cls, self.registry.name_for(cls))


def _checked_name(name: Any) -> str:
    if type(name) is not str or not name or not scalars.is_valid_text(name):
        raise Fault("an attribute's name must be a str, not empty, without lone surrogates")
    return name


# --- handlers of built-in classes; those of containers work for subclasses, too ---


def _same(_run: Encoding, value: Any) -> Tree:
    return value


def _str(_run: Encoding, value: str) -> Tree:
    return value if scalars.is_valid_text(value) else {"$str": scalars.encode_surrogates(value)}


def _int(_run: Encoding, value: int) -> Tree:
    return value if MIN_INT <= value <= MAX_INT else {"$int": scalars.encode_int(value)}


def _float(_run: Encoding, value: float) -> Tree:
    return value if value - value == 0.0 else {"$float": scalars.encode_float(value)}


def _list(run: Encoding, value: list[Any]) -> Tree:
    return run.sequence(value, list.__iter__(value))


def _dict(run: Encoding, value: dict[Any, Any]) -> Tree:
    items = dict.items(value)
    for key in dict.keys(value):
        if type(key) is not str or not (key.isascii() or scalars.is_valid_text(key)):
            return {"$dict": run.pairs(value, items)}
    identity = run.enter(value)
    tree: dict[str, Tree] = {}
    key = ""
    try:
        for key, item in items:
            kind = type(item)
            if (kind is str and item.isascii()) or kind in _SAME:
                tree[key] = item
            else:
                tree[key] = run.node(item)
    except Fault as fault:
        raise fault.at(item_step(key)) from fault.cause
    finally:
        run.leave(identity)
    return {"$dict": [[key, tree[key]]]} if len(tree) == 1 and key[:1] == "$" else tree


def _ordered_dict(run: Encoding, value: OrderedDict[Any, Any]) -> Tree:
    _refuse_attributes(value, OrderedDict)
    return {"$OrderedDict": run.pairs(value, OrderedDict.items(value))}


def _counter(run: Encoding, value: Counter[Any]) -> Tree:
    _refuse_attributes(value, Counter)
    return {"$Counter": run.pairs(value, dict.items(value))}


def _refuse_attributes(value: Any, cls: type) -> None:
    if type(value) is cls and value.__dict__:
        raise Fault(f"cannot store a {type_name(cls)} with attributes of its own; register a subclass with types=[...]")


def _default_dict(run: Encoding, value: defaultdict[Any, Any]) -> Tree:
    factory = default_factory_of(value)
    name = None if factory is None else _factory_name(run, factory)
    return {"$defaultdict": [name, run.pairs(value, dict.items(value))]}


def _factory_name(run: Encoding, factory: Any) -> str:
    if issubclass(type(factory), type):
        if factory in _FACTORY_NAMES:
            return _FACTORY_NAMES[factory]
        if run.registry.is_registered(factory):
            return run.registry.name_for(factory)
    raise Fault(
        f"cannot store a {type_name(type(factory))} as factory; "
        "use a built-in class such as list, a class registered with types=[...], or None"
    ).at(".default_factory")


def _set(run: Encoding, value: set[Any]) -> Tree:
    return {"$set": _sorted(run.sequence(value, set.__iter__(value), element_step))}


def _frozenset(run: Encoding, value: frozenset[Any]) -> Tree:
    return {"$frozenset": _sorted(run.sequence(value, frozenset.__iter__(value), element_step))}


def _sorted(trees: list[Tree]) -> list[Tree]:
    try:
        return sorted(trees, key=orjson.dumps)
    except TypeError:
        raise Fault(f"nested too deeply; about {MAX_NESTING} levels can be stored") from None


def _tuple(run: Encoding, value: tuple[Any, ...]) -> Tree:
    return {"$tuple": run.sequence(value, tuple.__iter__(value))}


def _deque(run: Encoding, value: deque[Any]) -> Tree:
    return {"$deque": [run.sequence(value, deque.__iter__(value)), maxlen_of(value)]}


def _range(run: Encoding, value: range) -> Tree:
    return {"$range": [_int(run, part) for part in (value.start, value.stop, value.step)]}


def _complex(run: Encoding, value: complex) -> Tree:
    return {"$complex": [_float(run, value.real), _float(run, value.imag)]}


def _datetime(run: Encoding, value: datetime) -> Tree:
    return {"$datetime": _moment(run, value)}


def _time(run: Encoding, value: time) -> Tree:
    return {"$time": _moment(run, value)}


def _moment(run: Encoding, value: Any) -> Tree:
    try:
        return times.encode_moment(value, run.node)
    except Fault as fault:
        raise fault.at(".tzinfo") from fault.cause


def _zone(_run: Encoding, value: Any) -> Tree:
    return {"$timezone": times.encode_zone(value)}


def _path(run: Encoding, value: Any) -> Tree:
    return {"$path": [type(value).__name__, _str(run, str(value))]}


_EXACT: Final[dict[type, Handler]] = {
    str: _str,
    int: _int,
    float: _float,
    bool: _same,
    NoneType: _same,
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    OrderedDict: _ordered_dict,
    Counter: _counter,
    defaultdict: _default_dict,
    deque: _deque,
    range: _range,
    complex: _complex,
    bytes: lambda _run, value: {"$bytes": scalars.encode_bytes(value)},
    bytearray: lambda _run, value: {"$bytearray": scalars.encode_bytes(value)},
    datetime: _datetime,
    time: _time,
    date: lambda _run, value: {"$date": value.isoformat()},
    timedelta: lambda _run, value: {"$timedelta": times.encode_timedelta(value)},
    timezone: _zone,
    ZoneInfo: _zone,
    Decimal: lambda _run, value: {"$decimal": scalars.encode_decimal(value)},
    UUID: lambda _run, value: {"$uuid": scalars.encode_uuid(value)},
    **dict.fromkeys(scalars.PATHS.values(), _path),
}


# --- handlers made for one class ---


def _extension_handler(extension: Extension) -> Handler:
    def encode(run: Encoding, value: object) -> Tree:
        identity = run.enter(value)
        try:
            return {extension.tag: extension.encode(value, run.child)}
        except (Fault, RecursionError):
            raise
        except Exception as error:
            raise Fault(f"cannot store a {type_name(type(value))}: {type(error).__name__}", error) from error
        finally:
            run.leave(identity)

    return encode


def _enum_handler(cls: type, name: str) -> Handler:
    members = class_attribute(cls, "_member_map_", {})
    is_flag = Flag in mro_of(cls)

    def encode(run: Encoding, member: Any) -> Tree:
        value, member_name = value_of(member)
        if is_flag and type(value) is int:
            if find_flag(cls, value) is not member:
                raise Fault(f"cannot store a combination of {type_name(cls)}: only its own code could rebuild it")
            return {"$flag": [name, _int(run, value)]}
        if members.get(member_name) is not member:
            raise Fault(f"cannot store a {type_name(cls)} that is none of its members")
        return {"$enum": [name, member_name]}

    return encode


def _named_tuple_handler(cls: type, name: str) -> Handler:
    names = class_attribute(cls, "_fields")
    dict_of = shape_of(cls).dict_of

    def encode(run: Encoding, value: Any) -> Tree:
        if tuple.__len__(value) != len(names):
            raise Fault(f"cannot store a {type_name(cls)} that has another length than its fields")
        fields = run.fields(value, dict(zip(names, tuple.__iter__(value), strict=True)))
        attributes = dict_of(value) if dict_of is not None else None
        return {"$namedtuple": [name, fields, run.fields(value, attributes)] if attributes else [name, fields]}

    return encode


def _object_handler(cls: type, name: str) -> Handler:
    shape = shape_of(cls)
    if shape.trouble:
        raise Fault(f"cannot store a {type_name(cls)}: {shape.trouble}")
    tag = f"${shape.kind}"
    defaults = defaults_of(cls)
    content = shape.content
    is_scalar = content is not None and content.base in _SCALARS
    encode_content = _same if content is None else _EXACT[content.base]

    def encode(run: Encoding, value: object) -> Tree:
        attributes = read_attributes(shape, value)
        fields = run.fields(value, attributes)
        if content is not None:
            fields[CONTENT] = encode_content(run, content.read(value) if is_scalar else value)
        unset = [field for field in defaults if field not in attributes]
        return {tag: [name, fields, unset] if unset else [name, fields]}

    return encode
