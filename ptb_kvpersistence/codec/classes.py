"""What a class looks like from outside: where its instances keep their state, read and set without running its code.

Attributes are read from the instance's ``__dict__`` and its slots and set there; no property, ``__getattr__``,
``__setattr__``, ``__init__``, ``__new__`` or ``__setstate__`` of the class is called. Which classes may be stored,
and how they are found again by name, is decided in :mod:`ptb_kvpersistence.codec.registry`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ptb_kvpersistence.codec.contents import ROOTS, Content

Kind: TypeAlias = Literal["dataclass", "attrs", "pydantic", "msgspec", "object"]

CONTENT: Final = ""
"""The field name under which the built-in content of an object stands beside its attributes."""

PYDANTIC_FIELDS_SET: Final = "__pydantic_fields_set__"
PYDANTIC_OPTIONAL: Final = ("__pydantic_extra__", "__pydantic_private__")

_IGNORED: Final = "__orig_class__"  # typing notes the parametrised alias there; it is no state
_CACHED_HASH: Final = "_attrs_cached_hash"  # differs between processes
_STRUCT_HOOKS: Final = ("__post_init__", "__init__", "__new__")
_POINTER: Final = struct.calcsize("P")
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by a C module in the newer way
_MISSING: Final = object()

mro_of: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
namespace_of: Final[Callable[[type], Any]] = type.__dict__["__dict__"].__get__
_module_of: Final[Callable[[type], Any]] = type.__dict__["__module__"].__get__
_flags_of: Final[Callable[[type], int]] = type.__dict__["__flags__"].__get__
_basicsize_of: Final[Callable[[type], int]] = type.__dict__["__basicsize__"].__get__
_module_namespace: Final[Callable[[Any], dict[str, Any]]] = vars(ModuleType)["__dict__"].__get__


class Shape(NamedTuple):
    """Where the instances of one class keep their state.

    Attributes:
        kind: What made the class.
        content: How the built-in content is reached, if there is one.
        dict_of: Finds the instance's ``__dict__``, if it has one.
        slots: Slot descriptors by name, those of base classes first.
        trouble: Why instances cannot be rebuilt, or ``""``.
    """

    kind: Kind
    content: Content | None
    dict_of: Callable[[Any], dict[str, Any]] | None
    slots: dict[str, Any]
    trouble: str


def module_of(cls: type) -> str:
    """The name of the module of a class, ``?`` if it has none."""
    module = _module_of(cls)
    return module if type(module) is str else "?"


def class_attribute(cls: type, name: str, default: Any = None) -> Any:
    """Look a class attribute up along the mro, as it is: no descriptor, no metaclass is asked."""
    for base in mro_of(cls):
        namespace = namespace_of(base)
        if name in namespace:
            return namespace[name]
    return default


def loaded(module: str, name: str) -> Any:
    """A global of a module that is imported already, else ``None``; nothing is imported."""
    found = sys.modules.get(module)
    return _module_namespace(found).get(name) if issubclass(type(found), ModuleType) else None


def is_enum(cls: type) -> bool:
    """Whether it is an Enum class."""
    return Enum in mro_of(cls)


def is_named_tuple(cls: type) -> bool:
    """Whether it is a NamedTuple (or collections.namedtuple) class, or a subclass of one."""
    if tuple not in mro_of(cls):
        return False
    fields = class_attribute(cls, "_fields")
    is_named = type(fields) is tuple and all(type(name) is str for name in fields)
    return is_named and class_attribute(cls, "_make") is not None


@lru_cache(maxsize=2048)
def shape_of(cls: type) -> Shape:
    """Find out where instances of a class keep their state.

    Args:
        cls: Any class.

    Returns:
        Its shape; look at ``trouble`` first.
    """
    mro = mro_of(cls)
    kind = _kind_of(cls, mro)
    root = next(base for base in mro if base in ROOTS)
    if kind == "msgspec":
        slots = {name: class_attribute(cls, name) for name in struct_attribute(cls, "__struct_fields__")}
    else:
        slots = _slots_of(mro)
    return Shape(kind, ROOTS[root], _dict_getter(mro), slots, _trouble_with(cls, kind, root, slots))


def struct_attribute(cls: type, name: str) -> tuple[Any, ...]:
    """A class attribute of a msgspec Struct; it lives in the metaclass, which is asked only if it is msgspec's own."""
    return tuple(getattr(cls, name)) if type(cls) is type(loaded("msgspec", "Struct")) else ()


def _kind_of(cls: type, mro: tuple[type, ...]) -> Kind:
    if loaded("pydantic.main", "BaseModel") in mro and class_attribute(cls, PYDANTIC_FIELDS_SET) is not None:
        return "pydantic"  # models of pydantic's version 1 are plain objects here
    if loaded("msgspec", "Struct") in mro:
        return "msgspec"
    if class_attribute(cls, "__attrs_attrs__") is not None:
        return "attrs"
    if type(class_attribute(cls, "__dataclass_fields__")) is dict:
        return "dataclass"
    return "object"


def _slots_of(mro: tuple[type, ...]) -> dict[str, Any]:
    slots: dict[str, Any] = {}
    for base in reversed(mro):
        namespace = namespace_of(base)
        if "__slots__" in namespace:
            slots.update((name, item) for name, item in namespace.items() if type(item) is MemberDescriptorType)
    return slots


def _dict_getter(mro: tuple[type, ...]) -> Callable[[Any], dict[str, Any]] | None:
    for base in mro:
        descriptor = namespace_of(base).get("__dict__")
        if type(descriptor) in (GetSetDescriptorType, MemberDescriptorType):  # the latter in SimpleNamespace
            return descriptor.__get__  # type: ignore[no-any-return]
    return None


def _trouble_with(cls: type, kind: Kind, root: type, slots: dict[str, Any]) -> str:
    if kind == "msgspec":
        own_code = [name for name in _STRUCT_HOOKS if type(class_attribute(cls, name)) is FunctionType]
        if own_code or type(cls) is not type(loaded("msgspec", "Struct")):
            return "a msgspec class with __post_init__ or a metaclass cannot be rebuilt without running that"
        return ""
    if any(base not in ROOTS and not _flags_of(base) & _HEAP_TYPE for base in mro_of(cls)):
        return "it is built in, or derives from a built-in class that cannot be rebuilt"
    if _basicsize_of(cls) > _basicsize_of(root) + _POINTER * (len(slots) + 2):  # 2: __dict__ and __weakref__
        return "it keeps state in C that cannot be reached"
    return ""


def read_attributes(shape: Shape, value: Any) -> dict[str, Any]:
    """The attributes of an instance by name, slots first, unset slots left out; a new dict."""
    fields: dict[str, Any] = {}
    for name, slot in shape.slots.items():
        try:
            fields[name] = slot.__get__(value)
        except AttributeError:
            continue
    if shape.dict_of is not None:
        fields.update(shape.dict_of(value))
        fields.pop(_IGNORED, None)
    if shape.kind == "attrs" and _CACHED_HASH in fields:
        fields[_CACHED_HASH] = None
    elif shape.kind == "pydantic":
        for name in PYDANTIC_OPTIONAL:
            if fields.get(name, _MISSING) is None:
                del fields[name]
    return fields


def write_attributes(shape: Shape, value: Any, fields: dict[str, Any]) -> None:
    """Bring the attributes of an instance to exactly ``fields`` (without the content)."""
    if shape.kind == "pydantic":
        fields = {**dict.fromkeys(PYDANTIC_OPTIONAL), PYDANTIC_FIELDS_SET: set(), **fields}
    for name, slot in shape.slots.items():
        if name in fields:
            slot.__set__(value, fields[name])
        else:
            try:
                slot.__delete__(value)
            except AttributeError:
                continue
    if shape.dict_of is None:
        return
    attributes = shape.dict_of(value)
    wanted = {name: item for name, item in fields.items() if name not in shape.slots} if shape.slots else fields
    for name in [name for name in attributes if name not in wanted and name != _IGNORED]:
        del attributes[name]
    attributes.update(wanted)
    if list(attributes) != list(wanted):
        for name in wanted:
            attributes[name] = attributes.pop(name)


def unknown_field(shape: Shape, fields: dict[str, Any]) -> str | None:
    """The first field that the class has no place for, if there is one."""
    if shape.dict_of is not None:
        return None
    return next((name for name in fields if name not in shape.slots and name != CONTENT), None)


def get_fields(value: object) -> dict[str, object]:
    """Read the state of a custom object as the codec stores it, without running the class's code.

    Args:
        value: An instance of a dataclass, an attrs, pydantic or msgspec class, or a plain class.

    Returns:
        Attribute name to live value, slots first, unset ones left out. An object that derives from a container or a
        scalar has that content under :data:`CONTENT` (``""``), as a new object of the built-in base. Among those of
        pydantic is ``__pydantic_fields_set__``, and ``__pydantic_extra__`` and ``__pydantic_private__`` unless None.

    Raises:
        TypeError: Objects of the class cannot be stored.
    """
    shape = _usable_shape(type(value))
    fields = read_attributes(shape, value)
    if shape.content is not None:
        fields[CONTENT] = shape.content.read(value)
    return fields


def set_fields(value: object, fields: dict[str, object]) -> None:
    """Bring a live custom object to new field values, without running the class's code; frozen classes too.

    Attributes that are not in ``fields`` are deleted, the order of the rest becomes that of ``fields``.

    Args:
        value: The object, changed in place.
        fields: What :func:`get_fields` gave, with new values.

    Raises:
        TypeError: The class has no place for a field, or its content is immutable; nothing was changed.
    """
    shape = _usable_shape(type(value))
    unknown = unknown_field(shape, fields)
    if unknown is not None:
        raise TypeError(f"{type(value).__name__} has no place for the attribute {unknown!r}")
    if shape.content is not None:
        if shape.content.replace is None or type(fields.get(CONTENT)) is not shape.content.base:
            raise TypeError(f"the content of a {type(value).__name__} cannot be replaced")
        shape.content.replace(value, fields[CONTENT])
    elif CONTENT in fields:
        raise TypeError(f"a {type(value).__name__} has no content beside its attributes")
    write_attributes(shape, value, {name: item for name, item in fields.items() if name != CONTENT})


def _usable_shape(cls: type) -> Shape:
    shape = shape_of(cls)
    if shape.trouble:
        raise TypeError(f"cannot look into a {cls.__name__}: {shape.trouble}")
    return shape


def create(shape: Shape, cls: type, fields: dict[str, Any]) -> Any:
    """Make an instance with this state, running nothing of the class.

    Args:
        shape: The shape of ``cls``, without trouble.
        cls: The class.
        fields: As :func:`get_fields` gives them; all have a place.

    Returns:
        The instance.

    Raises:
        TypeError: The content does not fit the class, or the class is abstract.
    """
    if shape.kind == "msgspec":
        value = cls(**{name: fields.get(name) for name in shape.slots})  # C code only: no __post_init__, no validation
    elif shape.content is not None:
        content = fields.get(CONTENT)
        if type(content) is not shape.content.base:
            raise TypeError("the content does not fit the class")
        value = shape.content.create(cls, content)
    elif CONTENT in fields:
        raise TypeError("the content does not fit the class")
    else:
        root: Any = next(base for base in mro_of(cls) if base in ROOTS)
        value = root.__new__(cls)
    write_attributes(shape, value, {name: item for name, item in fields.items() if name != CONTENT})
    return value
