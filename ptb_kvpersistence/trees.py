"""What a tree looks like from outside: equality, tags, mappings and the identity of keys.

A tree is what ``orjson.loads`` gives; values that JSON does not know are objects with one key that begins with ``$``.
Encoding and decoding live in the codec, merging in the merge module. Nothing here changes a tree.
"""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal
from math import copysign
from typing import Any, Final, NamedTuple

import orjson

from ptb_kvpersistence.codec import scalars
from ptb_kvpersistence.codec.place import Fault
from ptb_kvpersistence.codec.text import Tree

PLAIN: Final = "$dict"
PAIR_TAGS: Final = frozenset({"$dict", "$OrderedDict", "$Counter"})
VALUE_TAGS: Final = PAIR_TAGS | {
    "$tuple",
    "$set",
    "$frozenset",
    "$bytes",
    "$bytearray",
    "$defaultdict",
    "$deque",
    "$range",
    "$int",
    "$float",
    "$complex",
    "$str",
    "$datetime",
    "$date",
    "$time",
    "$timedelta",
    "$timezone",
    "$decimal",
    "$uuid",
    "$path",
    "$enum",
    "$flag",
}
"""Tags of Python's own values; every other tag is an object of a class."""
_NUMBERS: Final = {"$int": scalars.decode_int, "$float": scalars.decode_float, "$decimal": scalars.decode_decimal}


# --- equality ---


def is_same(left: Tree, right: Tree) -> bool:
    """Tell whether two trees are the same text: types count (``True`` is not ``1``) and so does the order of keys."""
    if left is right:
        return True
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is dict or kind is list:
        return _is_same_container(left, right, 0)
    if kind is float:
        return bool(left == right and (left != 0.0 or copysign(1.0, left) == copysign(1.0, right)))
    return bool(left == right)


def is_equal(left: Tree, right: Tree) -> bool:
    """Tell whether two trees differ in the order of their objects' keys at most."""
    if type(left) is type(right) and type(left) in (dict, list):
        return left is right or _is_same_container(left, right, orjson.OPT_SORT_KEYS)
    return is_same(left, right)


def _is_same_container(left: Tree, right: Tree, option: int) -> bool:
    # Python's own comparison is quick and says "different" reliably; what it calls equal (True == 1) the text decides.
    try:
        return left == right and orjson.dumps(left, option=option) == orjson.dumps(right, option=option)
    except (RecursionError, TypeError):
        return _is_same_deep(left, right, is_ordered=not option)


def _is_same_deep(left: Tree, right: Tree, *, is_ordered: bool) -> bool:
    stack = [(left, right)]
    while stack:
        one, two = stack.pop()
        if type(one) is not type(two):
            return False
        if isinstance(one, dict):
            if one.keys() != two.keys() or (is_ordered and list(one) != list(two)):
                return False
            stack.extend((value, two[key]) for key, value in one.items())
        elif isinstance(one, list):
            if len(one) != len(two):
                return False
            stack.extend(zip(one, two, strict=True))
        elif not is_same(one, two):
            return False
    return True


def to_text(tree: Tree) -> bytes:
    """Give the text by which elements of lists and sets are told apart; the order of keys does not count."""
    try:
        return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return repr(tree).encode("utf-8", "surrogatepass")


def dump(tree: Tree) -> bytes:
    """Give the exact text of a tree; that of odd trees, which are no JSON, is not JSON either."""
    try:
        return orjson.dumps(tree)
    except TypeError:
        return repr(tree).encode("utf-8", "surrogatepass")


# --- tags and mappings ---


def tag_of(tree: Tree) -> str | None:
    """Name the tag of a tree, ``None`` for plain JSON."""
    if type(tree) is dict and len(tree) == 1:
        key = next(iter(tree))
        if key[:1] == "$":
            return str(key)
    return None


class MappingView(NamedTuple):
    """A mapping of any kind, seen as a dict.

    Attributes:
        kind: ``$dict`` for a dict in either of its notations, else the tag; a defaultdict's factory is part of it.
        items: Value by identity of the key, in order.
        keys: Tree of the key by its identity; ``None`` where the two are the same (all are str).
    """

    kind: str
    items: dict[Hashable, Tree]
    keys: dict[Hashable, Tree] | None

    def key(self, identity: Hashable) -> Tree:
        """Give the key's tree."""
        return identity if self.keys is None else self.keys[identity]


def view_mapping(tree: Tree) -> MappingView | None:
    """See a tree as a mapping; ``None`` if it is none."""
    if type(tree) is not dict:
        return None
    tag = tag_of(tree)
    if tag is None:
        return MappingView(PLAIN, tree, None)
    payload = tree[tag]
    if tag in PAIR_TAGS:
        return _view_pairs(tag, payload)
    if tag == "$defaultdict" and type(payload) is list and len(payload) == 2:
        factory = payload[0]
        if factory is None or type(factory) is str:
            return _view_pairs(tag if factory is None else f"{tag} {factory}", payload[1])
    return None


def _view_pairs(kind: str, pairs: Tree) -> MappingView | None:
    if type(pairs) is not list:
        return None
    items: dict[Hashable, Tree] = {}
    keys: dict[Hashable, Tree] = {}
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2:
            return None
        identity = identify(pair[0])
        items[identity] = pair[1]
        keys.setdefault(identity, pair[0])
    return MappingView(kind, items, keys)


def build_mapping(kind: str, items: dict[Any, Tree], keys: dict[Any, Tree] | None) -> Tree:
    """Write a mapping down in the notation of its kind; the reverse of :func:`view_mapping`."""
    if kind == PLAIN:
        is_plain = keys is None or all(type(key) is str for key in keys.values())
        if is_plain and tag_of(items) is None:
            return items
        return {PLAIN: _pairs(items, keys)}
    if kind in PAIR_TAGS:
        return {kind: _pairs(items, keys)}
    tag, _, factory = kind.partition(" ")
    return {tag: [factory or None, _pairs(items, keys)]}


def _pairs(items: dict[Any, Tree], keys: dict[Any, Tree] | None) -> list[Tree]:
    if keys is None:
        return [[key, value] for key, value in items.items()]
    return [[keys[identity], value] for identity, value in items.items()]


# --- keys ---


def identify(key: Tree) -> Hashable:
    """Give what two encoded keys have in common when Python takes them for one (``True``, ``1``, ``1.0``)."""
    tag = tag_of(key)
    if tag is None:
        return key if key is None or type(key) in (str, int, float, bool) else ("", to_text(key))
    payload = key[tag]
    if tag in ("$tuple", "$frozenset") and type(payload) is list:
        parts = [identify(part) for part in payload]
        return (tag, tuple(parts) if tag == "$tuple" else frozenset(parts))
    number = read_number(key)
    if number is not None and number == number:  # noqa: PLR0124 - a nan equals nothing
        return number
    return (tag, to_text(payload))


def read_number(tree: Tree) -> int | float | Decimal | None:
    """Read a number in any of its notations (bool is none); ``None`` if it is no number."""
    if type(tree) in (int, float):
        return tree  # type: ignore[no-any-return]  # a Tree is Any
    tag = tag_of(tree)
    read = None if tag is None else _NUMBERS.get(tag)
    if read is None:
        return None
    try:
        number: Any = read(tree[tag])
    except Fault:
        return None
    return None if isinstance(number, Decimal) and number.is_snan() else number


def name_key(key: Tree) -> str:
    """Name an encoded key in a place: ``5`` for the int 5 and for ``"5"``."""
    if type(key) is str:
        return key
    tag = tag_of(key)
    if tag is None:
        return str(key) if key is None or type(key) in (int, float, bool) else to_text(key).decode("utf-8", "replace")
    payload = key[tag]
    if tag == "$tuple" and type(payload) is list:
        return f"({', '.join(name_key(part) for part in payload)})"
    if tag in ("$enum", "$flag") and type(payload) is list and payload:
        return name_key(payload[-1])
    return payload if type(payload) is str else to_text(payload).decode("utf-8", "replace")
