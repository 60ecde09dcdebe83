"""What fields that a class has got since a value was written start with, where that takes no code of the user's.

Only dataclass, attrs, pydantic and msgspec classes tell. A default value is taken as it is (containers are copied); a
factory only if it is built in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias

from ptb_kvpersistence.codec.classes import class_attribute, loaded, shape_of, struct_attribute
from ptb_kvpersistence.codec.tags import FACTORIES

Default: TypeAlias = Callable[[], Any]

_FACTORIES: Final[tuple[Any, ...]] = tuple(FACTORIES.values())
_COPIED: Final = (list, dict, set, bytearray)


@lru_cache(maxsize=2048)
def defaults_of(cls: type) -> dict[str, Default]:
    """The usable defaults of a class.

    Args:
        cls: Any class.

    Returns:
        By field; a field that is not among them has no default, or one that only the class's code can make.
    """
    reader = _READERS.get(shape_of(cls).kind)
    return {} if reader is None else {name: make for name, make in reader(cls) if make is not None}


def _value(default: Any) -> Default | None:
    kind: Any = type(default)
    if kind in _COPIED:
        return partial(kind, default)
    if (
        class_attribute(kind, "__get__") is not None
    ):  # a property of a base class, say, which dataclass takes for a default
        return None
    return lambda: default


def _factory(factory: Any) -> Default | None:
    return next((known for known in _FACTORIES if known is factory), None)


def _of_dataclass(cls: type) -> Iterator[tuple[str, Default | None]]:
    for field in class_attribute(cls, "__dataclass_fields__").values():
        if type(field) is not dataclasses.Field or field._field_type is not dataclasses._FIELD:  # type: ignore[attr-defined]  # noqa: SLF001
            continue  # ClassVar and InitVar
        if field.default is not dataclasses.MISSING:
            yield field.name, _value(field.default)
        else:
            yield field.name, _factory(field.default_factory)


def _of_attrs(cls: type) -> Iterator[tuple[str, Default | None]]:
    nothing, factory = loaded("attr", "NOTHING"), loaded("attr", "Factory")
    for field in class_attribute(cls, "__attrs_attrs__"):
        default = field.default
        if type(default) is factory:
            yield field.name, None if default.takes_self else _factory(default.factory)
        elif default is not nothing:
            yield field.name, _value(default)


def _of_pydantic(cls: type) -> Iterator[tuple[str, Default | None]]:
    undefined = loaded("pydantic_core", "PydanticUndefined")
    fields = class_attribute(cls, "__pydantic_fields__") or class_attribute(cls, "model_fields")
    for name, field in fields.items() if type(fields) is dict else ():
        if field.default is not undefined and field.default is not ...:
            yield name, _value(field.default)
        else:
            yield name, _factory(field.default_factory)


def _of_msgspec(cls: type) -> Iterator[tuple[str, Default | None]]:
    names, defaults = struct_attribute(cls, "__struct_fields__"), struct_attribute(cls, "__struct_defaults__")
    nothing = loaded("msgspec", "NODEFAULT")
    for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
        if default is nothing:
            continue
        factory = getattr(default, "factory", None) if type(default).__module__ == "msgspec._core" else None
        yield name, _value(default) if factory is None else _factory(factory)


_READERS: Final = {"dataclass": _of_dataclass, "attrs": _of_attrs, "pydantic": _of_pydantic, "msgspec": _of_msgspec}
