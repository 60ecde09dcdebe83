"""Which classes may be stored, and how a class is found again by its name; nothing is imported for that.

Registered classes are found by name whatever they are. Enum, NamedTuple, dataclass and attrs classes are found without
being registered, in modules that are imported already, unless they have a ``__del__``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ptb_kvpersistence.codec.classes import (
    class_attribute,
    is_enum,
    is_named_tuple,
    loaded,
    module_of,
    namespace_of,
    shape_of,
)
from ptb_kvpersistence.codec.place import Fault, shown, type_name
from ptb_kvpersistence.errors import ConfigurationError

_MAIN: Final = frozenset(("__main__", "__mp_main__"))  # the latter in processes that multiprocessing spawned
_qualname_of: Final[Callable[[type], str]] = type.__dict__["__qualname__"].__get__


class Registry:
    """The classes of one codec."""

    def __init__(self, types: Iterable[type]) -> None:
        self._by_name: dict[str, type] = {}
        for cls in types:
            self.register(cls)

    def register(self, cls: type) -> None:
        """Allow a class; one of the same name registered before is replaced.

        Raises:
            ConfigurationError: It is no class.
        """
        if not issubclass(type(cls), type):
            raise ConfigurationError(f"types= takes classes, not a {type_name(type(cls))}; pass the class itself")
        self._by_name[name_of(cls)] = cls

    def is_registered(self, cls: type) -> bool:
        """Whether exactly this class is registered."""
        return self._by_name.get(name_of(cls)) is cls

    def name_for(self, cls: type) -> str:
        """The name under which instances are stored.

        Raises:
            Fault: The class may not be stored, or would not be found by its name.
        """
        name = name_of(cls)
        if self._by_name.get(name) is cls:
            return name
        if not is_importable_kind(cls):
            advice = "store plain data instead" if shape_of(cls).trouble else "register the class with types=[...]"
            raise Fault(f"cannot store a {type_name(cls)}; {advice}")
        if has_finalizer(cls):
            raise Fault(f"cannot store a {type_name(cls)}: a class with __del__ must be registered with types=[...]")
        if name in self._by_name or look_up(name) is not cls:
            raise Fault(
                f"cannot store a {type_name(cls)}: it is not found under that name in its module; "
                "define it at the top of a module, or register the class with types=[...]"
            )
        return name

    def find(self, name: object) -> type:
        """The class of a stored name.

        Raises:
            Fault: It is not registered and cannot be found, or may not be used without being registered.
        """
        if type(name) is not str or ":" not in name:
            raise Fault(f"a class is named by a str 'module:Qualname', not by {shown(name)}")
        cls = self._by_name.get(name)
        if cls is not None:
            return cls
        found = look_up(name)
        if found is None:
            cls = self._moved_to_main(name)
            if cls is not None:
                return cls
            raise Fault(
                f"the class {shown(name)} is not registered and not in an imported module; "
                "import its module first, or register the class with types=[...]"
            )
        if not issubclass(type(found), type) or not is_importable_kind(found) or has_finalizer(found):
            raise Fault(f"{shown(name)} must be registered with types=[...] to be read")
        return found  # type: ignore[no-any-return]

    def find_registered(self, name: object) -> type | None:
        """The registered class of that name, if there is one."""
        return self._by_name.get(name) if type(name) is str else None

    def _moved_to_main(self, name: str) -> type | None:
        # The module of a bot that is run as a script is called __main__, and otherwise in a process that imports it.
        module, _, qualname = name.partition(":")
        found = [
            cls
            for other, cls in self._by_name.items()
            if other.partition(":")[2] == qualname and (module in _MAIN or other.partition(":")[0] in _MAIN)
        ]
        return found[0] if len(found) == 1 else None


def name_of(cls: type) -> str:
    """The name under which a class is stored."""
    return f"{module_of(cls)}:{_qualname_of(cls)}"


def is_importable_kind(cls: type) -> bool:
    """Whether classes of this kind need not be registered."""
    return is_enum(cls) or is_named_tuple(cls) or shape_of(cls).kind in ("dataclass", "attrs")


def has_finalizer(cls: type) -> bool:
    """Whether dropping an instance may run code; members of an Enum are never dropped."""
    return class_attribute(cls, "__del__") is not None and not is_enum(cls)


def look_up(name: str) -> Any:
    """What has that name in a module that is imported; attributes are read from namespaces, so that no code runs."""
    module, _, qualname = name.partition(":")
    first, *rest = qualname.split(".")
    found = loaded(module, first)
    for part in rest:
        if not issubclass(type(found), type):
            return None
        found = namespace_of(found).get(part)
    return found
