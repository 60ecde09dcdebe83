"""Bringing a live Python object from one encoded state to another, without replacing what handlers may hold.

Two steps: first everything new is decoded and every change planned, then the plan is carried out; what cannot
be decoded leaves the object as it was. What the two states should be is the business of the merge.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable
from typing import Any, Final, Protocol

from ptb_kvpersistence.codec.classes import CONTENT, get_fields, set_fields
from ptb_kvpersistence.codec.tags import ATTRIBUTE_TAGS
from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.trees import MappingView, dump, is_same, tag_of, view_mapping

_MAPPINGS: Final[dict[str, type]] = {
    "$dict": dict,
    "$OrderedDict": OrderedDict,
    "$Counter": Counter,
    "$defaultdict": defaultdict,
}
_IMMUTABLE: Final = (tuple, frozenset, str, bytes, int, float, complex)
_MISSING: Final = object()


class Decoder(Protocol):
    """What is needed of the codec."""

    def from_tree(self, tree: Tree, place: str = ...) -> Any:
        """Decode a tree."""


def update_in_place(codec: Decoder, live: object, old: Tree, new: Tree) -> object:
    """Bring an object up to date.

    Containers and custom objects keep their identity wherever their type stays the same, also inside; what did not
    change is not touched. Anything else is replaced by its decoded value.

    Args:
        codec: Decodes what is new.
        live: What ``old`` is the encoding of. Where it is not, because somebody changes it at the same time, the
            decoded new value is taken at that place.
        old: Its encoding.
        new: The encoding it shall have; neither tree is kept or changed.

    Returns:
        ``live``, or the decoded new value if an object of that type cannot be changed.

    Raises:
        DecodeError: Something new cannot be decoded; ``live`` is as before.
    """
    plan = _Plan(codec)
    value = plan.value(live, old, new)
    for change in plan.changes:
        change()
    return value


class _Plan:
    """What is to be done; children come before the object that they are in."""

    def __init__(self, codec: Decoder) -> None:
        self.codec = codec
        self.changes: list[Callable[[], None]] = []
        # Holding the objects keeps their ids from being given to others.
        self.planned: dict[int, tuple[object, Tree]] = {}

    def decode(self, tree: Tree) -> Any:
        return self.codec.from_tree(tree) if type(tree) in (dict, list) else tree

    def value(self, live: Any, old: Tree, new: Tree) -> Any:
        """Plan one value; returns what stands in its place afterwards."""
        if is_same(old, new):
            return live
        if id(live) in self.planned:
            # The object stands in two places: it is changed once, and only if both are to become the same.
            return live if is_same(self.planned[id(live)][1], new) else self.decode(new)
        result = self.plan_container(live, old, new)
        if result is _MISSING:
            return self.decode(new)
        self.planned[id(live)] = (live, new)
        return result

    def plan_container(self, live: Any, old: Tree, new: Tree) -> Any:
        if type(old) is list and type(new) is list:
            return self.plan_list(live, old, new) if type(live) is list else _MISSING
        old_view, new_view = view_mapping(old), view_mapping(new)
        if old_view is not None and new_view is not None:
            kind = new_view.kind.partition(" ")[0]
            is_kind = old_view.kind.partition(" ")[0] == kind and type(live) is _MAPPINGS[kind]
            return self.plan_mapping(live, old_view, new_view, new) if is_kind else _MISSING
        tag = tag_of(new)
        old_tag = tag_of(old)
        if tag is None or old_tag is None:
            return _MISSING
        if tag in ATTRIBUTE_TAGS and old_tag in ATTRIBUTE_TAGS:
            return self.plan_object(live, old[old_tag], new[tag], new)
        if tag != old_tag:
            return _MISSING
        if tag == "$set" and type(live) is set:
            return self.plan_set(live, old[tag], new[tag], new)
        if tag == "$deque" and type(live) is deque:
            return self.plan_deque(live, old[tag], new[tag], new)
        if tag == "$bytearray" and type(live) is bytearray:
            content = self.decode(new)
            self.changes.append(lambda: live.__setitem__(slice(None), content))
            return live
        return _MISSING

    # --- mappings ---

    def plan_mapping(self, live: Any, old: MappingView, new: MappingView, tree: Tree) -> Any:
        old_keys, new_keys = self.keys(old), self.keys(new)
        if (
            old_keys is None
            or new_keys is None
            or (old.keys is not None and any(key not in live for key in old_keys.values()))
        ):
            return self.whole_mapping(live, tree)
        gone = [
            key
            for identity, key in old_keys.items()
            if identity not in new_keys or not is_same(old.key(identity), new.key(identity))
        ]
        content: dict[Any, Any] = {}
        for identity, value in new.items.items():
            key = new_keys[identity]
            before = old.items.get(identity, _MISSING)
            if before is not _MISSING and is_same(before, value):
                if key in live:
                    content[key] = live[key]
            elif before is _MISSING or key not in live:
                content[key] = self.decode(value)
            else:
                content[key] = self.value(live[key], before, value)
        if old.kind != new.kind:
            factory = self.decode({"$defaultdict": [new.kind.partition(" ")[2] or None, []]}).default_factory
            self.changes.append(lambda: setattr(live, "default_factory", factory))
        self.changes.append(lambda: _bring_mapping(live, gone, content))
        return live

    def keys(self, view: MappingView) -> dict[Hashable, Any] | None:
        """Decode the keys; ``None`` if one of them cannot be a key."""
        if view.keys is None:
            return dict(zip(view.items, view.items, strict=True))
        try:
            keys = {identity: self.decode(key) for identity, key in view.keys.items()}
            return keys if len(set(keys.values())) == len(keys) else None
        except TypeError:
            return None

    def whole_mapping(self, live: Any, tree: Tree) -> Any:
        decoded = self.decode(tree)

        def change() -> None:
            live.clear()
            dict.update(live, decoded)
            if type(live) is defaultdict:
                live.default_factory = decoded.default_factory

        self.changes.append(change)
        return live

    # --- lists and sets ---

    def plan_list(self, live: list[Any], old: list[Tree], new: list[Tree]) -> Any:
        if len(live) != len(old):
            content = self.decode(new)
            self.changes.append(lambda: live.__setitem__(slice(None), content))
            return live
        start, stop, middle = self.elements(live, old, new)
        self.changes.append(lambda: live.__setitem__(slice(start, stop), middle))
        return live

    def elements(self, live: list[Any], old: list[Tree], new: list[Tree]) -> tuple[int, int, list[Any]]:
        """Plan the elements; returns from where to where new ones stand, and those."""
        shorter = min(len(old), len(new))
        start = 0
        while start < shorter and is_same(old[start], new[start]):
            start += 1
        tail = 0
        while tail < shorter - start and is_same(old[-1 - tail], new[-1 - tail]):
            tail += 1
        stop = len(old) - tail
        wanted = new[start : len(new) - tail]
        moved: dict[bytes, list[int]] = {}
        for index in range(stop - 1, start - 1, -1):
            moved.setdefault(dump(old[index]), []).append(index)
        sources = [found.pop() if (found := moved.get(dump(element))) else None for element in wanted]
        # What is neither there as it was nor gone, at its old place in a list that did not shrink, was edited.
        edited = {index for indexes in moved.values() for index in indexes} if len(new) >= len(old) else set()
        middle = []
        for index, (source, element) in enumerate(zip(sources, wanted, strict=True), start):
            if source is not None:
                middle.append(live[source])
            elif index in edited:
                middle.append(self.value(live[index], old[index], element))
            else:
                middle.append(self.decode(element))
        return start, stop, middle

    def plan_deque(self, live: deque[Any], old: Tree, new: Tree, tree: Tree) -> Any:
        if any(type(side) is not list or len(side) != 2 or type(side[0]) is not list for side in (old, new)):
            return _MISSING
        if live.maxlen != new[1]:
            return _MISSING
        content = list(live)
        if len(content) == len(old[0]):
            start, stop, middle = self.elements(content, old[0], new[0])
            content[start:stop] = middle
        else:
            content = list(self.decode(tree))

        def change() -> None:
            live.clear()
            live.extend(content)

        self.changes.append(change)
        return live

    def plan_set(self, live: set[Any], old: Tree, new: Tree, tree: Tree) -> Any:
        if type(old) is not list or type(new) is not list:
            return _MISSING
        before, after = ({dump(element): element for element in elements} for elements in (old, new))
        try:
            gone = {self.decode(element) for text, element in before.items() if text not in after}
            added = {self.decode(element) for text, element in after.items() if text not in before}
        except TypeError:
            return _MISSING
        if not gone <= live:
            gone, added = live.copy(), self.decode(tree)

        def change() -> None:
            live.difference_update(gone)
            live.update(added)

        self.changes.append(change)
        return live

    # --- objects ---

    def plan_object(self, live: Any, old: Tree, new: Tree, tree: Tree) -> Any:
        if not (_has_fields(old) and _has_fields(new)) or old[0] != new[0]:
            return _MISSING
        decoded = self.decode(tree)
        if type(decoded) is not type(live):
            return decoded
        current, wanted = get_fields(live), get_fields(decoded)
        if isinstance(current.get(CONTENT), _IMMUTABLE):
            return decoded
        fields = {name: self.field(name, current, wanted, old[1], new[1]) for name in wanted}
        if fields.get(CONTENT) is not current.get(CONTENT):
            return decoded
        # What neither encoding knows somebody has just set.
        fields.update((name, value) for name, value in current.items() if name not in old[1] and name not in fields)
        self.changes.append(lambda: set_fields(live, fields))
        return live

    def field(
        self, name: str, current: dict[str, Any], wanted: dict[str, Any], old: dict[str, Tree], new: dict[str, Tree]
    ) -> Any:
        if name not in current:
            return wanted[name]
        if name in old and name in new:
            return self.value(current[name], old[name], new[name])
        return wanted[name] if name in new or name in old else current[name]


def _has_fields(payload: Tree) -> bool:
    return type(payload) is list and len(payload) in (2, 3) and type(payload[1]) is dict


def _bring_mapping(live: dict[Any, Any], gone: list[Any], content: dict[Any, Any]) -> None:
    for key in gone:
        live.pop(key, None)
    for key, value in content.items():
        if live.get(key, _MISSING) is not value:
            live[key] = value
    if [key for key in live if key in content] != list(content):
        for key in content:
            live[key] = live.pop(key)
