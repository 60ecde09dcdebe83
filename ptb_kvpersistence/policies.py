"""What happens at places where both sides changed something: the policies that users give, compiled and applied.

``Policies`` finds the rule for a place, ``apply_policy`` works it out on trees. Whether a policy is asked at all, the
merge decides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Context, Decimal
from math import isfinite
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, cast

from ptb_kvpersistence.codec.scalars import encode_decimal, encode_float, encode_int
from ptb_kvpersistence.codec.tags import MAX_INT, MIN_INT
from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.errors import ConfigurationError
from ptb_kvpersistence.model import ABSENT, Absent
from ptb_kvpersistence.trees import dump, identify, read_number, tag_of, to_text

Side: TypeAlias = Literal["ours", "theirs"]
Policy: TypeAlias = Literal["ours", "theirs", "sum", "max", "min", "union"] | Callable[[Any, Any, Any], Any]

SIDES: Final = ("ours", "theirs")
NAMES: Final = (*SIDES, "sum", "max", "min", "union")
_ALLOWED: Final = f"{', '.join(map(repr, NAMES))} or a callable (base, ours, theirs) -> value"
_EXACT: Final = Context(prec=2000)


class ValueCodec(Protocol):
    """What a merge needs of the codec, for callables and ``__kv_merge__``."""

    def from_tree(self, tree: Tree, place: str = ...) -> Any:
        """Decode a tree, which stays as it is."""

    def class_of(self, tree: Tree) -> type | None:
        """Find the class of whose instance a tree tells."""

    def to_tree(self, value: object, place: str = ...) -> Tree:
        """Encode a value."""


class UnsuitableError(Exception):
    """A policy cannot work on the values it met; internal, becomes a conflict."""


# --- which policy applies where ---


class _Node:
    """One segment of the compiled paths."""

    __slots__ = ("children", "policy")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.policy: Policy | None = None


class Scope(NamedTuple):
    """What the policies say about one place.

    Attributes:
        side: Who wins a conflict here and below.
        policy: The policy of this very place, if any.
        nodes: Where further segments may lead; empty when no policy lies below.
    """

    side: Side
    policy: Policy | None = None
    nodes: tuple[_Node, ...] = ()

    def below(self, segment: str) -> Scope:
        """Go one segment down. Of several paths that fit, the one whose leftmost segments are literal wins."""
        if not self.nodes:
            return self if self.policy is None else Scope(self.side)
        found = []
        for node in self.nodes:
            for name in (segment, "*") if segment != "*" else ("*",):
                child = node.children.get(name)
                if child is not None:
                    found.append(child)
        policy = next((node.policy for node in found if node.policy is not None), None)
        side = self.side
        if policy in SIDES:
            side, policy = policy, None
        return Scope(side, policy, tuple(node for node in found if node.children))


class Policies:
    """The merge policies of a persistence, compiled.

    Args:
        merge: ``"ours"`` or ``"theirs"``: who wins when both sides changed the same place. Or a mapping of paths to
            policies. A path is made of segments joined by dots, the section first and the entity's id second
            (``"user_data.*.visits"``); ``*`` stands for any one segment; keys that are no str match by their text;
            the path ``""`` sets the default. ``"ours"`` and ``"theirs"`` hold for everything below their path,
            the others for the value at their path alone. Paths lead through mappings only, not into lists.
        sections: Names that a path may begin with; ``None`` for any.

    Raises:
        ConfigurationError: A path or a policy is not one of those.

    Attributes:
        default: Who wins where no path says otherwise.
        has_paths: Whether there is any policy but the default.
    """

    __slots__ = ("_root", "default", "has_paths")

    def __init__(self, merge: Side | Mapping[str, Policy] = "ours", *, sections: Iterable[str] | None = None) -> None:
        self.default: Side = "ours"
        self._root = _Node()
        if isinstance(merge, str):
            self.default = _check_side("", merge)
        elif isinstance(merge, Mapping):
            allowed = None if sections is None else tuple(sections)
            for path, policy in merge.items():
                self._add(path, policy, allowed)
        else:
            raise ConfigurationError(
                f"merge takes 'ours', 'theirs' or a mapping of paths to policies, not {type(merge).__name__}"
            )
        self.has_paths = bool(self._root.children)

    def _add(self, path: object, policy: object, sections: Sequence[str] | None) -> None:
        if path == "":
            self.default = _check_side("", policy)
            return
        segments = path.split(".") if isinstance(path, str) else []
        if not segments or "" in segments:
            raise ConfigurationError(
                f"merge: {path!r} is no path; write segments joined by dots, such as 'user_data.*.visits'", path=path
            )
        if sections is not None and segments[0] != "*" and segments[0] not in sections:
            raise ConfigurationError(
                f"merge: the path {path!r} must begin with one of {', '.join(map(repr, sections))} or '*'", path=path
            )
        node = self._root
        for segment in segments:
            node = node.children.setdefault(segment, _Node())
        node.policy = _check_policy(path, policy)

    def with_default(self, side: Side) -> Policies:
        """Give the same policies with another winner where no path says otherwise."""
        other = copy.copy(self)
        other.default = _check_side("", side)
        return other

    def scope(self, place: Sequence[str]) -> Scope:
        """Say what holds at a place.

        Args:
            place: Section, entity id and keys, as text.

        Returns:
            The scope, from which the places below follow.
        """
        scope = Scope(self.default, None, (self._root,) if self.has_paths else ())
        for segment in place:
            scope = scope.below(segment)
        return scope


def _check_policy(path: object, policy: object) -> Policy:
    if callable(policy):
        return policy
    if isinstance(policy, str) and policy in NAMES:
        return cast("Policy", policy)
    shown = repr(policy) if isinstance(policy, str) else f"of type {type(policy).__name__}"
    raise ConfigurationError(f"merge: the policy {shown} at {path!r} is not one of {_ALLOWED}", path=path)


def _check_side(path: object, policy: object) -> Side:
    if isinstance(policy, str) and policy in SIDES:
        return cast("Side", policy)
    shown = repr(policy) if isinstance(policy, str) else f"of type {type(policy).__name__}"
    raise ConfigurationError(
        f"merge: the default must be 'ours' or 'theirs', not {shown}; give other policies a path", path=path
    )


# --- working a policy out ---


class Sides(NamedTuple):
    """The four trees that meet at a place; any may be ABSENT."""

    base_ours: Tree | Absent
    ours: Tree | Absent
    base_theirs: Tree | Absent
    theirs: Tree | Absent


def apply_policy(policy: Policy, sides: Sides, values: ValueCodec | None, place: str) -> Tree | Absent:
    """Work a policy out.

    Args:
        policy: Any but ``"ours"`` and ``"theirs"``.
        sides: What meets; ours and theirs are not both ABSENT.
        values: For callables and comparisons of tagged values; ``None`` leaves them the trees.
        place: For error messages.

    Returns:
        The merged tree, ABSENT for none.

    Raises:
        Exception: The policy cannot work on these values; whatever a callable raises.
    """
    if callable(policy):
        return call_merge(policy, sides, values, place)
    if policy == "sum":
        return _sum(sides)
    if policy == "union":
        return _union(sides)
    return _extreme(sides, values, is_max=policy == "max")


def call_merge(
    function: Callable[[Any, Any, Any], Any], sides: Sides, values: ValueCodec | None, place: str
) -> Tree | Absent:
    """Call a user's merge on decoded values: ``None`` for ABSENT; it may return ABSENT."""
    base, ours, theirs = (_decode(side, values, place) for side in (sides.base_ours, sides.ours, sides.theirs))
    result = function(base, ours, theirs)
    if result is ABSENT or values is None:
        return result
    return values.to_tree(result, place)


def _decode(side: Tree | Absent, values: ValueCodec | None, place: str) -> Any:
    if side is ABSENT:
        return None
    return copy.deepcopy(side) if values is None else values.from_tree(side, place)


def _sum(sides: Sides) -> Tree:
    base, ours, theirs = (_summand(side) for side in (sides.base_ours, sides.ours, sides.theirs))
    if any(isinstance(number, timedelta) for number in (base, ours, theirs)):
        base, ours, theirs = (timedelta() if number == 0 else number for number in (base, ours, theirs))
        return _write_number(theirs + (ours - base))
    if any(isinstance(number, Decimal) for number in (base, ours, theirs)):
        return _write_number(_EXACT.add(theirs, _EXACT.subtract(ours, base)))
    return _write_number(theirs + (ours - base))


def _summand(side: Tree | Absent) -> Any:
    if side is ABSENT:
        return 0
    if tag_of(side) == "$timedelta":
        return timedelta(*side["$timedelta"])
    number = read_number(side)
    if number is None:
        raise UnsuitableError("not a number")
    return number


def _write_number(number: Any) -> Tree:
    if isinstance(number, timedelta):
        return {"$timedelta": [number.days, number.seconds, number.microseconds]}
    if isinstance(number, Decimal):
        return {"$decimal": encode_decimal(number)}
    if isinstance(number, int):
        return number if MIN_INT <= number <= MAX_INT else {"$int": encode_int(number)}
    return number if isfinite(number) else {"$float": encode_float(number)}


def _extreme(sides: Sides, values: ValueCodec | None, *, is_max: bool) -> Tree:
    if sides.ours is ABSENT or sides.theirs is ABSENT:
        return sides.theirs if sides.ours is ABSENT else sides.ours
    ours, theirs = (_comparable(side, values) for side in (sides.ours, sides.theirs))
    if ours < theirs:
        return sides.theirs if is_max else sides.ours
    if theirs < ours:
        return sides.ours if is_max else sides.theirs
    if ours == theirs:
        return sides.theirs
    raise UnsuitableError("neither is the greater one")


def _comparable(side: Tree, values: ValueCodec | None) -> Any:
    number = read_number(side)
    if number is not None:
        return number
    if type(side) in (str, bool):
        return side
    if values is None or tag_of(side) is None:
        raise UnsuitableError("cannot be compared")
    return values.from_tree(side)


def _union(sides: Sides) -> Tree | Absent:
    kinds = {_collection_kind(side) for side in (sides.ours, sides.theirs) if side is not ABSENT}
    tag = kinds.pop()
    if kinds or tag is None:
        raise UnsuitableError("not two lists or two sets")
    seen = [_elements(side, tag) if _collection_kind(side) == tag else [] for side in sides]
    base_ours, ours, base_theirs, theirs = ({key for key, _ in elements} for elements in seen)
    gone = (base_ours & base_theirs) - ours
    merged = [tree for key, tree in seen[3] if key not in gone]
    added = theirs | base_ours
    for key, tree in seen[1]:
        if key not in added:
            added.add(key)
            merged.append(tree)
    if not merged and (sides.ours is ABSENT or sides.theirs is ABSENT):
        return ABSENT
    return {tag: sorted(merged, key=dump)} if tag else merged


def _collection_kind(tree: Tree | Absent) -> str | None:
    if type(tree) is list:
        return ""
    tag = tag_of(tree)
    return tag if tag in ("$set", "$frozenset") and tree is not ABSENT and type(tree[tag]) is list else None


def _elements(side: Tree, tag: str) -> list[tuple[Any, Tree]]:
    if tag:
        return [(identify(element), element) for element in side[tag]]
    return [(to_text(element), element) for element in side]
