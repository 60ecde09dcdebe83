"""Whatever was encoded and whatever shall be: after the update it is, and nothing that stayed was exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.inplace import update_in_place
from ptb_kvpersistence.trees import is_same, tag_of
from tests.property.trees import TREES, mappings, related


@dataclass
class Node:
    a: Any
    b: Any


class Bag(dict):
    pass


CODEC = Codec(types=[Node, Bag])
MAPPINGS = mappings(TREES, kinds=("$dict",))
MUTABLE = (dict, list, set, bytearray)


def children(live, tree):
    """The values of a container by key, with their trees; elements of lists have none that stays."""
    if tag_of(tree) in ("$dict", "$OrderedDict", "$Counter"):
        return {key: (live[key], pair[1]) for key, pair in zip(live, next(iter(tree.values())), strict=True)}
    if tag_of(tree) == "$defaultdict":
        return {key: (live[key], pair[1]) for key, pair in zip(live, tree["$defaultdict"][1], strict=True)}
    if tag_of(tree) is None and type(tree) is dict:
        return {key: (live[key], tree[key]) for key in live}
    return {}


def containers(live, tree, place=()):
    """All mutable containers that are reached through mappings, by place."""
    found = {place: (live, tree)} if isinstance(live, MUTABLE) else {}
    for key, (child, child_tree) in children(live, tree).items():
        found.update(containers(child, child_tree, (*place, type(key), key)))
    return found


@settings(max_examples=500)
@given(related(2))
def test_the_encoding_is_the_new_one(pair):
    old, new = pair
    texts = [orjson.dumps(tree) for tree in pair]
    live = CODEC.from_tree(old)
    before = containers(live, old)
    result = update_in_place(CODEC, live, old, new)
    assert CODEC.encode(result) == texts[1]
    assert [orjson.dumps(tree) for tree in pair] == texts
    after = containers(result, new)
    for place, (container, tree) in before.items():
        if place not in after:
            continue
        same_parents = all(
            type(before[place[:end]][0]) is type(after[place[:end]][0]) for end in range(0, len(place), 2)
        )
        if same_parents and type(after[place][0]) is type(container):
            assert after[place][0] is container
            if is_same(tree, after[place][1]):
                assert CODEC.encode(container) == orjson.dumps(tree)


@settings(max_examples=300)
@given(related(3))
def test_one_update_after_another(trees):
    live = CODEC.from_tree(trees[0])
    for old, new in pairwise(trees):
        live = update_in_place(CODEC, live, old, new)
        assert CODEC.encode(live) == orjson.dumps(new)


@settings(max_examples=300)
@given(related(2), st.tuples(MAPPINGS, MAPPINGS))
def test_objects(values, contents):
    def tree(value, content):
        node = {"$dataclass": [f"{__name__}:Node", {"a": value, "b": [value]}]}
        return {"node": node, "bag": {"$object": [f"{__name__}:Bag", {"node": node, "": content}]}}

    old, new = map(tree, values, contents)
    live = CODEC.from_tree(old)
    node, bag, inner = live["node"], live["bag"], vars(live["bag"])["node"]
    assert update_in_place(CODEC, live, old, new) is live
    assert CODEC.encode(live) == orjson.dumps(new)
    assert live["node"] is node
    assert live["bag"] is bag
    assert vars(bag)["node"] is inner
