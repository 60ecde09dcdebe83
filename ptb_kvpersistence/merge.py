"""The three-way merge of encoded values, with two bases.

Memory and store met last when memory held one thing and the store, perhaps, another: a flush writes the merged value
but leaves memory as it is. What ours did is told by the base that memory held, what theirs did by the base that the
store held; one base for both loses edits. The merge applies our changes to theirs.

Which policy holds where, and how it is worked out, is in :mod:`ptb_kvpersistence.policies`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.model import ABSENT, Absent
from ptb_kvpersistence.policies import Policies, Policy, Scope, Sides, ValueCodec, apply_policy, call_merge
from ptb_kvpersistence.trees import (
    VALUE_TAGS,
    MappingView,
    build_mapping,
    is_equal,
    is_same,
    name_key,
    tag_of,
    view_mapping,
)

__all__ = ["Conflict", "Policies", "Policy", "merge"]

_DEFAULT: Final = Policies()
_NO_ITEMS: Final[dict[Hashable, Tree]] = {}


@dataclass(frozen=True)
class Conflict:
    """A value that was discarded, or a policy that could not be applied.

    Attributes:
        place: Where, for example ``user_data.42.visits``.
        kind: ``"value"``, ``"list"`` or ``"type"`` when both sides changed the place and one had to go; ``"drop"`` when
            the whole entity was dropped with the other side's edit in it; ``"deep"`` when the value is nested too
            deeply to be merged; ``"policy"`` when a policy did not fit the value and the default was taken.
    """

    place: str
    kind: str


def merge(
    base_ours: Tree | Absent,
    ours: Tree | Absent,
    base_theirs: Tree | Absent,
    theirs: Tree | Absent,
    *,
    place: Sequence[str] = (),
    policies: Policies = _DEFAULT,
    values: ValueCodec | None = None,
) -> tuple[Tree | Absent, list[Conflict]]:
    """Merge one entity.

    Args:
        base_ours: What memory held when the two sides last met.
        ours: What memory holds.
        base_theirs: What the store held when they last met; usually the same as ``base_ours``.
        theirs: What the store holds.
        place: Section and id of the entity, for policies and conflicts.
        policies: What happens where both sides changed the same place.
        values: Decodes and encodes for callables and ``__kv_merge__``; without it callables are given trees.

    Returns:
        The merged tree, ABSENT for no entity, and the conflicts. The tree shares parts with the arguments, which stay
        as they are.

    Cost: Linear in the size of the trees for each level at which both sides changed something.
    """
    if is_same(ours, base_ours):
        return theirs, []
    merger = _Merger(values)
    scope = policies.scope(place)
    try:
        return merger.entity(Sides(base_ours, ours, base_theirs, theirs), tuple(place), scope), merger.conflicts
    except RecursionError:
        first, second = (ours, theirs) if scope.side == "ours" else (theirs, ours)
        return second if first is ABSENT else first, [Conflict(".".join(place), "deep")]


class _Merger:
    """One merge; collects the conflicts."""

    __slots__ = ("conflicts", "values")

    def __init__(self, values: ValueCodec | None) -> None:
        self.values = values
        self.conflicts: list[Conflict] = []

    def entity(self, sides: Sides, place: tuple[str, ...], scope: Scope) -> Tree | Absent:
        """Merge the whole entity: an absence here is a drop, which deletes key by key."""
        merged, is_merged = self.by_policy(scope.policy, sides, place)
        if is_merged:
            return merged
        if sides.ours is ABSENT or sides.theirs is ABSENT:
            return self.drop(sides, place, scope)
        return self.ordinary(sides, place, scope)

    def drop(self, sides: Sides, place: tuple[str, ...], scope: Scope) -> Tree | Absent:
        base_ours, ours, base_theirs, theirs = sides
        kept = theirs if ours is ABSENT else ours
        if kept is ABSENT or base_ours is ABSENT:
            return kept
        view = view_mapping(kept)
        if view is not None:
            empty = MappingView(view.kind, _NO_ITEMS, None)
            views = (empty, view) if ours is ABSENT else (view, empty)
            merged = self.mapping(sides, views, place, scope)
            return merged if view_mapping(merged).items else ABSENT  # type: ignore[union-attr]  # it was built as one
        if not _is_object(kept):
            return self.ordinary(sides, place, scope)
        if is_equal(theirs, base_ours):
            return ABSENT
        if ours is not ABSENT and base_theirs is ABSENT:
            return ours
        self.conflict(place, "drop")
        return ABSENT

    def value(self, sides: Sides, place: tuple[str, ...], scope: Scope) -> Tree | Absent:
        """Merge a place that ours changed."""
        merged, is_merged = self.by_policy(scope.policy, sides, place)
        return merged if is_merged else self.ordinary(sides, place, scope)

    def ordinary(self, sides: Sides, place: tuple[str, ...], scope: Scope) -> Tree | Absent:
        """Merge where no policy applies to the place itself."""
        base_ours, ours, base_theirs, theirs = sides
        if ours is ABSENT:
            return ABSENT if theirs is ABSENT or is_equal(theirs, base_ours) else theirs
        if theirs is ABSENT:
            return ours
        # Policies below must see the place even where both sides look the same.
        if is_same(theirs, base_ours) and (not scope.nodes or is_same(base_ours, base_theirs)):
            return ours
        if not scope.nodes and is_same(ours, theirs):
            return ours
        our_view, their_view = view_mapping(ours), view_mapping(theirs)
        if our_view is not None and their_view is not None and our_view.kind == their_view.kind:
            return self.mapping(sides, (our_view, their_view), place, scope)
        return self.leaf(sides, place, scope)

    def leaf(self, sides: Sides, place: tuple[str, ...], scope: Scope) -> Tree | Absent:
        base_ours, ours, base_theirs, theirs = sides
        if is_equal(theirs, base_ours) or is_equal(ours, theirs):
            return ours
        if is_equal(ours, base_ours):
            return theirs
        if type(ours) is list and type(theirs) is list:
            if _is_grown(base_ours, ours) and _is_grown(base_theirs, theirs):
                return theirs + ours[len(base_ours) :]  # type: ignore[arg-type]  # grown from a list
        elif _is_object(ours) and _is_object(theirs):
            merged, is_merged = self.by_class(sides, place)
            if is_merged:
                return merged
        self.conflict(place, _conflict_kind(ours, theirs))
        return ours if scope.side == "ours" else theirs

    def mapping(
        self, sides: Sides, views: tuple[MappingView, MappingView], place: tuple[str, ...], scope: Scope
    ) -> Tree:
        """Merge two mappings of one kind key by key; a base that is no mapping counts as an empty one."""
        our_view, their_view = views
        our_base, their_base = view_mapping(sides.base_ours), view_mapping(sides.base_theirs)
        ours, theirs = our_view.items, their_view.items
        base_ours = _NO_ITEMS if our_base is None else our_base.items
        base_theirs = _NO_ITEMS if their_base is None else their_base.items
        merged: dict[Hashable, Tree] = {}
        for key in _ordered(ours, base_ours, theirs, base_theirs):
            our, base, their = ours.get(key, ABSENT), base_ours.get(key, ABSENT), theirs.get(key, ABSENT)
            if is_same(our, base):
                value = their
            elif not scope.nodes and is_same(their, base):
                value = our
            else:
                name = name_key((our_view if our is not ABSENT else their_view).key(key))
                below = Sides(base, our, base_theirs.get(key, ABSENT), their)
                value = self.value(below, (*place, name), scope.below(name))
            if value is not ABSENT:
                merged[key] = value
        if our_view.keys is None and their_view.keys is None:
            return build_mapping(our_view.kind, merged, None)
        return build_mapping(our_view.kind, merged, _key_trees(merged, our_view, their_view, our_base))

    def by_policy(self, policy: Policy | None, sides: Sides, place: tuple[str, ...]) -> tuple[Tree | Absent, bool]:
        """Ask the policy of the place: it counts once theirs changed too, or did before memory noticed."""
        base_ours, ours, base_theirs, theirs = sides
        if policy is None or (ours is ABSENT and theirs is ABSENT):
            return ABSENT, False
        if is_same(theirs, base_theirs) and is_same(base_ours, base_theirs):
            return ABSENT, False
        if policy == "union" and all(side is ABSENT or view_mapping(side) is not None for side in (ours, theirs)):
            return ABSENT, False
        try:
            return apply_policy(policy, sides, self.values, ".".join(place)), True
        except Exception:  # noqa: BLE001 - whatever a user's policy raises, the data must survive
            self.conflict(place, "policy")
            return ABSENT, False

    def by_class(self, sides: Sides, place: tuple[str, ...]) -> tuple[Tree | Absent, bool]:
        """Let the class merge, if it is the same on both sides and brings ``__kv_merge__``."""
        hook = _find_hook(sides, self.values)
        if hook is None:
            return ABSENT, False
        try:
            return call_merge(hook, sides, self.values, ".".join(place)), True
        except Exception:  # noqa: BLE001 - the same
            self.conflict(place, "policy")
            return ABSENT, False

    def conflict(self, place: tuple[str, ...], kind: str) -> None:
        self.conflicts.append(Conflict(".".join(place), kind))


def _find_hook(sides: Sides, values: ValueCodec | None) -> Any:
    if values is None:
        return None
    cls = values.class_of(sides.ours)
    if cls is None or values.class_of(sides.theirs) is not cls:
        return None
    # A metaclass may have its say about attributes; what it raises is as good as no hook.
    try:
        return getattr(cls, "__kv_merge__", None)
    except Exception:  # noqa: BLE001
        return None


def _is_object(tree: Tree | Absent) -> bool:
    tag = tag_of(tree)
    return tag is not None and tag not in VALUE_TAGS


def _is_grown(base: Tree | Absent, tree: Tree) -> bool:
    return type(base) is list and is_same(tree[: len(base)], base)


def _conflict_kind(ours: Tree, theirs: Tree) -> str:
    if type(ours) is not type(theirs) or tag_of(ours) != tag_of(theirs):
        return "type"
    return "list" if type(ours) is list else "value"


def _ordered(
    ours: dict[Hashable, Tree],
    base_ours: dict[Hashable, Tree],
    theirs: dict[Hashable, Tree],
    base_theirs: dict[Hashable, Tree],
) -> Iterable[Hashable]:
    """Theirs' order and then our new keys; ours' order when theirs left the order that memory knew."""
    theirs_order = list(theirs)
    if theirs_order == list(base_theirs) and theirs_order == list(base_ours):
        return dict.fromkeys((*ours, *theirs_order))
    return dict.fromkeys((*theirs_order, *ours))


def _key_trees(
    merged: Iterable[Hashable], ours: MappingView, theirs: MappingView, base: MappingView | None
) -> dict[Hashable, Tree]:
    keys = {}
    for key in merged:
        known = base is not None and key in base.items
        if key not in theirs.items or (known and key in ours.items and is_same(theirs.key(key), base.key(key))):  # type: ignore[union-attr]  # known
            keys[key] = ours.key(key)
        else:
            keys[key] = theirs.key(key)
    return keys
