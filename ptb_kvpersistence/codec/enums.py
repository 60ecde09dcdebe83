"""Members of Enum and Flag classes, found without running what a user's Enum defines (``_missing_`` above all)."""

from __future__ import annotations

import enum
from typing import Any, Final

from ptb_kvpersistence.codec.classes import class_attribute, mro_of, namespace_of

# What enum's own code may call on the way to a combination of flags.
_HOOKS: Final = (
    "_missing_",
    "_create_pseudo_member_",
    "_iter_member_",
    "_iter_member_by_value_",
    "_iter_member_by_def_",
    "_numeric_repr_",
    "__setattr__",
    "__getattribute__",
)


def value_of(member: Any) -> tuple[Any, Any]:
    """The value and the name of a member, as enum noted them."""
    return object.__getattribute__(member, "_value_"), object.__getattribute__(member, "_name_")


def find_member(cls: type, name: str) -> Any | None:
    """The member of that name, or alias of one; ``None`` if there is none."""
    members = class_attribute(cls, "_member_map_")
    return members.get(name) if type(members) is dict else None


def find_flag(cls: type, value: int) -> Any | None:
    """The flag of that value, also a combination.

    Args:
        cls: A Flag class.
        value: Any int.

    Returns:
        The member; ``None`` if there is none, or only the class's own code could tell.
    """
    known = class_attribute(cls, "_value2member_map_")
    member = known.get(value) if type(known) is dict else None
    if member is not None and find_member(cls, value_of(member)[1]) is member:
        return member
    # A combination that this process has made already is refused, too: another process could not rebuild it.
    if class_attribute(cls, "_member_type_") not in (object, int) or any(map(_is_overridden, _hooks_of(cls))):
        return None
    if member is None:
        try:
            member = class_attribute(cls, "_missing_").__func__(cls, value)
        except ValueError:
            return None
    return member if type(member) is cls and type(value_of(member)[0]) is int and value_of(member)[0] == value else None


def _hooks_of(cls: type) -> list[tuple[type, str]]:
    return [(base, name) for base in mro_of(cls) for name in _HOOKS if name in namespace_of(base)]


def _is_overridden(place: tuple[type, str]) -> bool:
    base, name = place
    if base.__module__ in ("enum", "builtins"):
        return False
    # EnumType copies some of enum's own functions into each class.
    own = namespace_of(base)[name]
    return not any(own is class_attribute(flag, name) for flag in (enum.Flag, enum.IntFlag))
