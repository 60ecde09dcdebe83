"""Laws of the merge that hold for any trees."""

from __future__ import annotations

import copy

import orjson
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.merge import merge
from ptb_kvpersistence.model import ABSENT
from ptb_kvpersistence.policies import Policies
from ptb_kvpersistence.trees import is_equal, view_mapping
from tests.property.trees import NAMES, SCALARS, TREES, related

CODEC = Codec()
PLACE = ("user_data", "42")
EVERYWHERE = [
    Policies("ours"),
    Policies("theirs"),
    *(
        Policies({"*.*.*": policy, "*.*.*.*": policy})
        for policy in ("sum", "max", "union", lambda base, ours, theirs: theirs)
    ),
]
policies = st.sampled_from(EVERYWHERE)


def text(tree):
    return b"ABSENT" if tree is ABSENT else orjson.dumps(tree)


def or_absent(draw, tree):
    return ABSENT if draw(st.integers(0, 7)) == 0 else tree


@st.composite
def sides(draw, count):
    return [or_absent(draw, tree) for tree in draw(related(count))]


@settings(max_examples=400)
@given(sides(2), policies)
def test_one_side_changed(pair, rules):
    base, other = pair
    for args in ((base, base, base, other), (base, other, base, base)):
        tree, conflicts = merge(*args, place=PLACE, policies=rules)
        assert text(tree) == text(other)
        assert conflicts == []


@settings(max_examples=400)
@given(sides(3), st.sampled_from(EVERYWHERE[:2]))
def test_the_same_change(trees, rules):
    base, base_theirs, other = trees
    for bases in ((base, base), (base, base_theirs)):
        tree, conflicts = merge(bases[0], other, bases[1], copy.deepcopy(other), place=PLACE, policies=rules)
        assert text(tree) == text(other)
        assert conflicts == []


@settings(max_examples=400)
@given(sides(4), policies)
def test_any_four_trees(trees, rules):
    ours = trees[1]
    before = [text(side) for side in trees]
    tree, conflicts = merge(*trees, place=PLACE, policies=rules, values=CODEC)
    assert [text(side) for side in trees] == before
    assert tree is ABSENT or CODEC.encode(CODEC.from_tree(tree)) == text(tree)
    assert all(conflict.place.startswith("user_data.42") for conflict in conflicts)
    event(f"conflicts: {min(len(conflicts), 2)}")
    again, conflicts = merge(ours, ours, tree, tree, place=PLACE, policies=rules)
    assert text(again) == text(tree)
    assert conflicts == []
    settled, _ = merge(ours, tree, tree, tree, place=PLACE, policies=EVERYWHERE[0])
    assert text(settled) == text(tree)


@settings(max_examples=400)
@given(sides(3))
def test_the_winner_of_all_conflicts_alone_depends_on_the_side(trees):
    base, ours, theirs = trees
    first, conflicts = merge(base, ours, base, theirs, policies=Policies("ours"))
    second, same_conflicts = merge(base, ours, base, theirs, policies=Policies("theirs"))
    assert conflicts == same_conflicts
    lost = [conflict for conflict in conflicts if conflict.kind != "drop"]
    if not lost:
        assert text(first) == text(second)


scalar_trees = st.recursive(
    SCALARS,
    lambda children: st.dictionaries(NAMES.filter(lambda name: name[0] != "$"), children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from("abc"), scalar_trees),
    st.dictionaries(st.sampled_from("abc"), scalar_trees),
    st.dictionaries(st.sampled_from("abc"), scalar_trees),
)
def test_the_other_side_comes_to_the_same(base, ours, theirs):
    here, conflicts = merge(base, ours, base, theirs, policies=Policies("ours"))
    there, other_conflicts = merge(base, theirs, base, ours, policies=Policies("theirs"))
    assert is_equal(here, there)
    assert sorted(map(str, conflicts)) == sorted(map(str, other_conflicts))


edits = st.dictionaries(st.integers(0, 9), st.one_of(st.just(ABSENT), TREES), max_size=6)


@settings(max_examples=400)
@given(st.dictionaries(st.integers(0, 9), TREES), edits, edits, st.booleans())
def test_disjoint_edits_are_all_kept(base, our_edits, their_edits, is_nested):
    our_edits = {key: value for key, value in our_edits.items() if key % 2}
    their_edits = {key: value for key, value in their_edits.items() if not key % 2}

    def tree(items):
        pairs = {"$dict": [[key, value] for key, value in items.items() if value is not ABSENT]}
        return {"inner": pairs, "x": 1} if is_nested else pairs

    merged, conflicts = merge(*map(tree, (base, base | our_edits, base, base | their_edits)))
    assert conflicts == []
    found = view_mapping(merged["inner"] if is_nested else merged).items
    expected = {key: value for key, value in (base | our_edits | their_edits).items() if value is not ABSENT}
    assert found.keys() == expected.keys()
    assert all(text(found[key]) == text(value) for key, value in expected.items())


@settings(max_examples=200)
@given(*[st.lists(st.integers(0, 1), max_size=3)] * 2, *[st.integers(0, 2)] * 2)
def test_appends_are_all_kept(base_ours, base_theirs, our_count, their_count):
    our_tail = [f"ours {n}" for n in range(our_count)]
    theirs = base_theirs + [f"theirs {n}" for n in range(their_count)]
    assert merge(base_ours, base_ours + our_tail, base_theirs, theirs) == (theirs + our_tail, [])
