"""Trees to values. The tree is taken over: plain parts of it become parts of the value.

Trees are not to be trusted. A wrong one raises Fault, and nothing of a user's class runs but ``__hash__`` and
``__eq__`` of objects that are keys or elements of sets.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import datetime, time
from enum import Flag
from sys import maxsize
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ptb_kvpersistence.codec import scalars, times
from ptb_kvpersistence.codec.classes import (
    PYDANTIC_FIELDS_SET,
    PYDANTIC_OPTIONAL,
    class_attribute,
    create,
    is_enum,
    is_named_tuple,
    mro_of,
    shape_of,
    unknown_field,
    write_attributes,
)
from ptb_kvpersistence.codec.defaults import defaults_of
from ptb_kvpersistence.codec.enums import find_flag, find_member
from ptb_kvpersistence.codec.place import (
    Fault,
    attribute_step,
    element_step,
    item_step,
    key_step,
    shown,
    type_name,
)
from ptb_kvpersistence.codec.tags import ATTRIBUTE_TAGS, FACTORIES
from ptb_kvpersistence.codec.text import Tree

if TYPE_CHECKING:
    from ptb_kvpersistence.codec.extension import Extension
    from ptb_kvpersistence.codec.registry import Registry

Handler: TypeAlias = Callable[["Decoding", Tree], Any]


class Decoding:
    """What decoding needs to know; one for all runs of a codec.

    Attributes:
        registry: Where classes are found.
        extensions: By tag.
    """

    __slots__ = ("extensions", "registry")

    def __init__(self, registry: Registry, extensions: Mapping[str, Extension]) -> None:
        self.registry = registry
        self.extensions = extensions

    def node(self, tree: Tree) -> Any:
        """Decode a tree, which may be changed by that.

        Raises:
            Fault: It cannot be decoded.
        """
        kind = type(tree)
        if kind is dict:
            if len(tree) == 1:
                (tag,) = tree
                if tag[:1] == "$":
                    return self._tagged(tag, tree[tag])
            key = ""
            try:
                for key, item in tree.items():
                    kind = type(item)
                    if kind is dict or kind is list:
                        tree[key] = self.node(item)
            except Fault as fault:
                raise fault.at(item_step(key)) from fault.cause
        elif kind is list:
            index = 0
            try:
                for index, item in enumerate(tree):
                    kind = type(item)
                    if kind is dict or kind is list:
                        tree[index] = self.node(item)
            except Fault as fault:
                raise fault.at(item_step(index)) from fault.cause
        return tree

    def _tagged(self, tag: str, payload: Tree) -> Any:
        handler = _HANDLERS.get(tag)
        if handler is not None:
            return handler(self, payload)
        extension = self.extensions.get(tag)
        if extension is None:
            raise Fault(f"unknown tag {shown(tag)}; was it written by a newer version?")
        try:
            return extension.decode(payload, self.node)
        except (Fault, RecursionError):
            raise
        except Exception as error:
            raise Fault(f"cannot read {tag}: {type(error).__name__}", error) from error

    def items(self, payload: Tree, tag: str) -> list[Any]:
        """Decode the elements of a set."""
        elements: list[Any] = []
        for item in _checked_list(payload, tag):
            try:
                element = self.node(item)
                _check_hashable(element)
            except Fault as fault:
                raise fault.at(element_step(len(elements))) from fault.cause
            elements.append(element)
        return elements

    def pairs(self, payload: Tree, tag: str) -> list[tuple[Any, Any]]:
        """Decode the pairs of a mapping; the keys are hashable."""
        pairs: list[tuple[Any, Any]] = []
        for pair in _checked_list(payload, tag):
            if type(pair) is not list or len(pair) != 2:
                raise Fault(f"{tag} takes a list of pairs, each a list of key and value")
            try:
                key = self.node(pair[0])
                _check_hashable(key)
            except Fault as fault:
                raise fault.at(key_step(len(pairs))) from fault.cause
            try:
                pairs.append((key, self.node(pair[1])))
            except Fault as fault:
                raise fault.at(item_step(key)) from fault.cause
        return pairs

    def fields(self, payload: Tree) -> dict[str, Any]:
        """Decode fields by name."""
        if type(payload) is not dict:
            raise Fault("the fields of an object are a JSON object")
        name = ""
        fields: dict[str, Any] = {}
        try:
            for name, item in payload.items():
                fields[name] = self.node(item)
        except Fault as fault:
            raise fault.at(attribute_step(name) if name else "") from fault.cause
        return fields


def _checked_list(payload: Tree, tag: str, length: int | None = None) -> list[Any]:
    if type(payload) is not list or (length is not None and len(payload) != length):
        raise Fault(f"{tag} takes a list{'' if length is None else f' of {length}'}")
    return payload


def _check_hashable(value: object) -> None:
    try:
        hash(value)
    except RecursionError:
        raise
    except Exception as error:
        raise Fault(f"a {type_name(type(value))} is no key and no element of a set: no hash", error) from error


# --- built-in classes ---


def _tuple(run: Decoding, payload: Tree) -> Any:
    return tuple(run.node(_checked_list(payload, "$tuple")))


def _dict(run: Decoding, payload: Tree) -> Any:
    return dict(run.pairs(payload, "$dict"))


def _counter(run: Decoding, payload: Tree) -> Any:
    value: Counter[Any] = Counter()
    dict.update(value, dict(run.pairs(payload, "$Counter")))
    return value


def _default_dict(run: Decoding, payload: Tree) -> Any:
    name, items = _checked_list(payload, "$defaultdict", 2)
    factory = None
    if name is not None:
        factory = FACTORIES.get(name) if type(name) is str else None
        factory = factory or run.registry.find_registered(name)
        if factory is None:
            raise Fault(f"the factory {shown(name)} is not built in; register the class with types=[...]")
    return defaultdict(factory, run.pairs(items, "$defaultdict"))


def _deque(run: Decoding, payload: Tree) -> Any:
    items, maxlen = _checked_list(payload, "$deque", 2)
    if maxlen is not None and not (type(maxlen) is int and 0 <= maxlen <= maxsize):
        raise Fault("the maxlen of a deque is null or an int from 0")
    if maxlen is not None and len(_checked_list(items, "$deque")) > maxlen:
        raise Fault("a deque has no more items than its maxlen")
    return deque(run.node(_checked_list(items, "$deque")), maxlen)


def _range(run: Decoding, payload: Tree) -> Any:
    parts = [run.node(part) for part in _checked_list(payload, "$range", 3)]
    if not all(type(part) is int for part in parts) or parts[2] == 0:
        raise Fault("$range takes three ints, the last of which is not 0")
    return range(*parts)


def _complex(run: Decoding, payload: Tree) -> Any:
    real, imaginary = (run.node(part) for part in _checked_list(payload, "$complex", 2))
    if type(real) is not float or type(imaginary) is not float:
        raise Fault("$complex takes two floats")
    return complex(real, imaginary)


def _path(run: Decoding, payload: Tree) -> Any:
    name, text = _checked_list(payload, "$path", 2)
    return scalars.create_path(name, run.node(text))


def _moment(cls: Any, run: Decoding, payload: Tree) -> Any:
    return times.decode_moment(cls, payload, run.node)


# --- classes ---


def _class_and_fields(run: Decoding, payload: Tree, tag: str) -> tuple[type, Any, Any]:
    if type(payload) is not list or len(payload) not in (2, 3):
        raise Fault(f"{tag} takes a list of a class and its fields")
    return run.registry.find(payload[0]), payload[1], payload[2] if len(payload) == 3 else None


def _enum(run: Decoding, payload: Tree) -> Any:
    class_name, name = _checked_list(payload, "$enum", 2)
    cls = run.registry.find(class_name)
    member = find_member(cls, name) if is_enum(cls) and type(name) is str else None
    if member is None:
        raise Fault(f"{type_name(cls)} has no member {shown(name)}")
    return member


def _flag(run: Decoding, payload: Tree) -> Any:
    class_name, value_tree = _checked_list(payload, "$flag", 2)
    cls, value = run.registry.find(class_name), run.node(value_tree)
    member = find_flag(cls, value) if Flag in mro_of(cls) and type(value) is int else None
    if member is None:
        raise Fault(f"{type_name(cls)} has no member of that value")
    return member


def _named_tuple(run: Decoding, payload: Tree) -> Any:
    cls, field_trees, attribute_trees = _class_and_fields(run, payload, "$namedtuple")
    if not is_named_tuple(cls):
        raise Fault(f"{type_name(cls)} is no NamedTuple")
    names = class_attribute(cls, "_fields")
    fields = run.fields(field_trees)
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise Fault(f"{type_name(cls)} has no field {shown(unknown[0])}")
    fields = {**(class_attribute(cls, "_field_defaults") or {}), **fields}
    missing = [name for name in names if name not in fields]
    if missing:
        raise Fault(f"the field {shown(missing[0])} of {type_name(cls)} is missing and has no default")
    value: Any = tuple.__new__(cls, [fields[name] for name in names])
    if attribute_trees is not None:
        shape = shape_of(cls)
        if shape.dict_of is None:
            raise Fault(f"{type_name(cls)} has no place for attributes")
        write_attributes(shape, value, run.fields(attribute_trees))
    return value


def _object(tag: str, run: Decoding, payload: Tree) -> Any:
    cls, field_trees, unset = _class_and_fields(run, payload, tag)
    if is_enum(cls) or is_named_tuple(cls):
        raise Fault(f"{type_name(cls)} is an Enum or NamedTuple now, which {tag} cannot become")
    shape = shape_of(cls)
    if shape.trouble:
        raise Fault(f"cannot rebuild a {type_name(cls)}: {shape.trouble}")
    if unset is not None and not (type(unset) is list and all(type(name) is str for name in unset)):
        raise Fault(f"the third item of {tag} is a list of names")
    fields = run.fields(field_trees)
    if shape.kind == "pydantic":
        _check_pydantic(fields)
    else:
        for name in (PYDANTIC_FIELDS_SET, *PYDANTIC_OPTIONAL):
            fields.pop(name, None)
    for name, make in defaults_of(cls).items():
        if name not in fields and not (unset and name in unset):
            fields[name] = make()
    unknown = unknown_field(shape, fields)
    if unknown is not None:
        raise Fault(f"{type_name(cls)} has no place for the attribute {shown(unknown)}")
    try:
        return create(shape, cls, fields)
    except TypeError as error:
        raise Fault(f"cannot rebuild a {type_name(cls)}", error) from error


def _check_pydantic(fields: dict[str, Any]) -> None:
    names = fields.setdefault(PYDANTIC_FIELDS_SET, set(fields))
    if type(names) is not set or not all(type(name) is str for name in names):
        raise Fault(f"{PYDANTIC_FIELDS_SET} is a set of str")
    for name in PYDANTIC_OPTIONAL:
        if type(fields.get(name)) not in (dict, type(None)):
            raise Fault(f"{name} is null or an object")


def _with(function: Any, *arguments: Any) -> Handler:
    return lambda run, payload: function(*arguments, run, payload)


def _scalar(function: Callable[[Tree], Any]) -> Handler:
    return lambda _run, payload: function(payload)


_HANDLERS: Final[dict[str, Handler]] = {
    "$tuple": _tuple,
    "$set": lambda run, payload: set(run.items(payload, "$set")),
    "$frozenset": lambda run, payload: frozenset(run.items(payload, "$frozenset")),
    "$dict": _dict,
    "$OrderedDict": lambda run, payload: OrderedDict(run.pairs(payload, "$OrderedDict")),
    "$Counter": _counter,
    "$defaultdict": _default_dict,
    "$deque": _deque,
    "$range": _range,
    "$complex": _complex,
    "$path": _path,
    "$datetime": _with(_moment, datetime),
    "$time": _with(_moment, time),
    "$date": _scalar(times.decode_date),
    "$timedelta": _scalar(times.decode_timedelta),
    "$timezone": _scalar(times.decode_zone),
    "$int": _scalar(scalars.decode_int),
    "$float": _scalar(scalars.decode_float),
    "$str": _scalar(scalars.decode_surrogates),
    "$bytes": _scalar(scalars.decode_bytes),
    "$bytearray": lambda _run, payload: bytearray(scalars.decode_bytes(payload)),
    "$decimal": _scalar(scalars.decode_decimal),
    "$uuid": _scalar(scalars.decode_uuid),
    "$enum": _enum,
    "$flag": _flag,
    "$namedtuple": _named_tuple,
    **{tag: _with(_object, tag) for tag in ATTRIBUTE_TAGS},
}
TAGS: Final = frozenset(_HANDLERS)
