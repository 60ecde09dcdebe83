"""The rules of the merge, one by one; the laws that hold for any trees are in tests/property."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext

import pytest

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.errors import ConfigurationError
from ptb_kvpersistence.merge import Conflict, merge
from ptb_kvpersistence.model import ABSENT
from ptb_kvpersistence.policies import Policies

PLACE = ("user_data", "42")


def text(tree):
    """What makes True, 1 and 1.0 differ in a test's comparison."""
    return "ABSENT" if tree is ABSENT else json.dumps(tree)


def merged(base, ours, theirs, policies="ours", *, base_theirs=..., values=None):
    """Merge from one base, or two; check that the arguments stay as they are."""
    sides = [base, ours, base if base_theirs is ... else base_theirs, theirs]
    before = copy.deepcopy(sides)
    tree, conflicts = merge(*sides, place=PLACE, policies=Policies(policies), values=values)
    assert list(map(text, sides)) == list(map(text, before))
    return tree, [(conflict.place, conflict.kind) for conflict in conflicts]


def check(expected, *args, conflicts=(), **kwargs):
    tree, found = merged(*args, **kwargs)
    assert text(tree) == text(expected)
    assert found == list(conflicts)


class TestRows:
    """The table of the merge, row by row."""

    @pytest.mark.parametrize("other", [ABSENT, None, True, 1.0, "x", [2], {"a": 1}, {"$tuple": [1]}], ids=repr)
    def test_one_side_changed(self, other):
        check(other, 1, 1, other)
        check(other, 1, other, 1)
        check(other, 1, other, other)
        nested = {} if other is ABSENT else {"k": other}
        check(nested, {"k": 1}, {"k": 1}, nested)
        check(nested, {"k": 1}, nested, {"k": 1})
        check(nested, {"k": 1}, nested, nested)

    @pytest.mark.parametrize(("one", "two"), [(True, 1), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1), (None, False)])
    def test_types_count(self, one, two):
        check({"k": two}, {"k": one}, {"k": two}, {"k": one})
        check({"k": two}, {"k": one}, {"k": one}, {"k": two})
        check({"k": [two]}, {"k": [one]}, {"k": [two]}, {"k": [one]})
        check({"k": one}, {"k": 7}, {"k": one}, {"k": two}, conflicts=[("user_data.42.k", _kind(one, two))])

    def test_both_changed_the_same_place(self):
        check({"a": 2}, {"a": 1}, {"a": 2}, {"a": 3}, conflicts=[("user_data.42.a", "value")])
        check({"a": 3}, {"a": 1}, {"a": 2}, {"a": 3}, "theirs", conflicts=[("user_data.42.a", "value")])
        check({"a": "x"}, {"a": 1}, {"a": "x"}, {"a": 3}, conflicts=[("user_data.42.a", "type")])

    def test_both_changed_different_places(self):
        check(
            {"a": 2, "b": {"c": 3, "d": 4}},
            {"a": 1, "b": {"c": 1}},
            {"a": 2, "b": {"c": 1, "d": 4}},
            {"a": 1, "b": {"c": 3}},
        )

    def test_an_edit_beats_a_deletion(self):
        check({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {}, {"a": {"x": 1, "y": 2}})
        check({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, {})
        check({}, {"a": {"x": 1}}, {}, {"a": {"x": 1}})
        check({}, {"a": {"x": 1}}, {"a": {"x": 1}}, {})
        check({}, {"a": {"x": 1, "y": 1}}, {}, {"a": {"y": 1, "x": 1}})

    def test_a_reordered_list_element_is_no_edit_of_its_own(self):
        check([{"b": 1, "a": 1}], [{"a": 1, "b": 1}], [{"b": 1, "a": 1}], [{"a": 1, "b": 1}])
        check(
            {"k": [{"b": 1, "a": 1}], "n": 2},
            {"k": [{"a": 1, "b": 1}], "n": 1},
            {"k": [{"b": 1, "a": 1}], "n": 1},
            {"k": [{"a": 1, "b": 1}], "n": 2},
        )

    def test_another_order_of_keys_conflicts_with_nothing(self):
        base, moved, edited = [{"a": 1, "b": 1}], [{"b": 1, "a": 1}], [{"a": 2, "b": 1}]
        check(edited, base, moved, edited)
        check(edited, base, edited, moved)
        check(edited, base, edited, [{"b": 1, "a": 2}])

    def test_dicts_added_by_both_are_joined(self):
        check({"s": {"b": 2, "a": 1}}, {}, {"s": {"a": 1}}, {"s": {"b": 2}})
        check({"b": 2, "a": 1}, ABSENT, {"a": 1}, {"b": 2})
        check({"s": {"b": 2, "a": 1}}, {"s": None}, {"s": {"a": 1}}, {"s": {"b": 2}})

    def test_unknown_tags_and_tagged_values_are_atoms(self):
        base, ours, theirs = ({"$tuple": [[n]]} for n in range(3))
        check({"k": ours}, {"k": base}, {"k": ours}, {"k": theirs}, conflicts=[("user_data.42.k", "value")])
        check(
            {"$set": [1, 2]}, {"$set": [1]}, {"$set": [1, 2]}, {"$set": [1, 3]}, conflicts=[("user_data.42", "value")]
        )
        check(
            {"$new": {"a": 2}},
            {"$new": {"a": 1}},
            {"$new": {"a": 2}},
            {"$new": {"a": 1, "b": 1}},
            conflicts=[("user_data.42", "value")],
        )


def _kind(one, two):
    return "value" if type(one) is type(two) else "type"


class TestLists:
    def test_grown_on_both_sides(self):
        check([1, 3, 2], [1], [1, 2], [1, 3])
        check({"log": [1, {"b": 1}, {"a": 1}]}, {"log": [1]}, {"log": [1, {"a": 1}]}, {"log": [1, {"b": 1}]})

    def test_grown_on_one_side_edited_on_the_other(self):
        check([1, 2], [1], [1, 2], [9], conflicts=[("user_data.42", "list")])
        check([9], [1], [9], [1, 2], conflicts=[("user_data.42", "list")])
        check([1, 2], [1], [9], [1, 2], "theirs", conflicts=[("user_data.42", "list")])

    def test_growth_is_strict_about_types(self):
        check([True, 2], [1], [True, 2], [1, 3], conflicts=[("user_data.42", "list")])

    def test_an_absent_base_is_no_empty_list(self):
        check({"l": [1]}, {}, {"l": [1]}, {"l": [2]}, conflicts=[("user_data.42.l", "list")])
        check({"l": [2, 1]}, {"l": []}, {"l": [1]}, {"l": [2]})

    def test_the_same_appended_twice_is_the_same_change(self):
        check([1, 2], [1], [1, 2], [1, 2])


class TestTwoBases:
    def test_lists_grown_since_different_bases(self):
        check([1, "t", 2], [1], [1, 2], [1, "t"], base_theirs=[1, "t"])
        check([1, "t", "u", 2], [1], [1, 2], [1, "t", "u"], base_theirs=[1, "t"])
        check([2], [1], [2], [1, "t"], base_theirs=[1, "t"], conflicts=[("user_data.42", "list")])

    def test_what_memory_never_saw_is_not_deleted(self):
        check({"k": 2}, {"k": 1}, {}, {"k": 2}, base_theirs={"k": 2})
        check({"new": 1, "mine": 1}, {}, {"mine": 1}, {"new": 1}, base_theirs={"new": 1})

    def test_what_memory_never_saw_is_reported_when_it_goes(self):
        check({"k": 3}, {"k": 1}, {"k": 3}, {"k": 2}, base_theirs={"k": 2}, conflicts=[("user_data.42.k", "value")])

    def test_a_value_that_memory_saw_may_go(self):
        check({"k": 3}, {"k": 1}, {"k": 3}, {"k": 1}, base_theirs={"k": 2})

    def test_an_unsynced_difference_alone_is_no_change(self):
        check({"k": 2}, {"k": 1}, {"k": 1}, {"k": 2}, base_theirs={"k": 2})
        check(ABSENT, {"k": 1}, {"k": 1}, ABSENT, base_theirs=ABSENT)


class TestDrop:
    def test_drop_of_what_was_not_edited(self):
        check(ABSENT, {"a": 1}, ABSENT, {"a": 1})
        check(ABSENT, {"a": 1}, {"a": 1}, ABSENT)
        check(ABSENT, {"a": 1}, ABSENT, ABSENT)
        check(ABSENT, {"a": 1}, ABSENT, {})
        check(ABSENT, {"a": 1}, {}, ABSENT)

    def test_edits_outlive_a_drop(self):
        check({"b": 3, "c": 4}, {"a": 1, "b": 2}, ABSENT, {"a": 1, "b": 3, "c": 4})
        check({"b": 3, "c": 4}, {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, ABSENT)
        int_keys = {"$dict": [[1, "a"], [2, "b"]]}
        check({"$dict": [[2, "c"]]}, int_keys, ABSENT, {"$dict": [[1, "a"], [2, "c"]]})
        check({"$Counter": [["y", 2]]}, {"$Counter": [["x", 1]]}, ABSENT, {"$Counter": [["x", 1], ["y", 2]]})

    def test_drop_with_edits_that_memory_never_saw(self):
        check({"b": 1}, {"a": 1}, ABSENT, {"a": 1, "b": 1}, base_theirs={"a": 1, "b": 1})
        check({"b": 1}, {"a": 1}, {"a": 1, "b": 1}, ABSENT, base_theirs=ABSENT)

    def test_absent_is_not_empty(self):
        check({}, ABSENT, {}, ABSENT)
        check({}, ABSENT, ABSENT, {})
        check({}, {"a": 1}, {}, {"a": 1})
        check({}, ABSENT, {}, ABSENT, base_theirs={"a": 1})

    def test_objects_drop_whole(self):
        base, edited = ({"$dataclass": ["m:C", {"a": n}]} for n in (1, 2))
        check(ABSENT, base, ABSENT, base)
        check(ABSENT, base, ABSENT, edited, conflicts=[("user_data.42", "drop")])
        check(ABSENT, base, edited, ABSENT, conflicts=[("user_data.42", "drop")])
        check(edited, base, edited, ABSENT, base_theirs=ABSENT)
        check({"k": edited}, {"k": base}, {}, {"k": edited})

    @pytest.mark.parametrize(
        ("base", "edited"), [(1, 2), ([1], [1, 2]), ({"$enum": ["m:E", "A"]}, {"$enum": ["m:E", "B"]})]
    )
    def test_edited_plain_values_outlive_a_drop(self, base, edited):
        check(edited, base, ABSENT, edited)
        check(edited, base, edited, ABSENT)

    def test_another_kind_of_value_outlives_a_drop(self):
        check({"a": 1}, {"$dataclass": ["m:C", {}]}, ABSENT, {"a": 1})
        check([1], {"a": 1}, ABSENT, [1])


class TestMappings:
    def test_int_keys_stay_ints(self):
        base = {"$dict": [[1, "a"], ["1", "b"]]}
        ours = {"$dict": [[1, "A"], ["1", "b"]]}
        theirs = {"$dict": [[1, "a"], ["1", "B"], [2, "c"]]}
        check({"$dict": [[1, "A"], ["1", "B"], [2, "c"]]}, base, ours, theirs)

    def test_python_takes_them_for_one_key(self):
        base = {"$dict": [[1, {"x": 0}]]}
        ours = {"$dict": [[True, {"x": 0, "o": 1}]]}
        theirs = {"$dict": [[1, {"x": 0, "t": 1}]]}
        check({"$dict": [[True, {"x": 0, "t": 1, "o": 1}]]}, base, ours, theirs)
        big = {"$dict": [[{"$decimal": "2"}, 5]]}
        check(
            {"$dict": [[2, 5]]},
            {"$dict": []},
            big,
            {"$dict": [[2, 5.0]]},
            conflicts=[("user_data.42.2", "type")],
        )

    @pytest.mark.parametrize(
        "key",
        [
            {"$tuple": [1, {"$enum": ["m:E", "A"]}]},
            {"$frozenset": [1, 2]},
            {"$float": "nan"},
            {"$decimal": "NaN"},
            {"$bytes": "AA=="},
            None,
            1.5,
            [1],
        ],
        ids=repr,
    )
    def test_any_key(self, key):
        check(
            {"$dict": [[key, {"t": 1, "o": 1}]]},
            {"$dict": [[key, {}]]},
            {"$dict": [[key, {"o": 1}]]},
            {"$dict": [[key, {"t": 1}]]},
        )

    def test_a_key_that_is_there_twice(self):
        twice = {"$dict": [[1, "a"], [True, "b"]]}
        check(
            {"$dict": [[1, "b"], [2, "t"], [3, "o"]]},
            {"$dict": []},
            {"$dict": [[3, "o"]]},
            {"$dict": [*twice["$dict"], [2, "t"]]},
        )

    def test_notation_follows_the_keys(self):
        check({"$dict": [["a", 1], [5, 1], ["b", 1]]}, {"a": 1}, {"a": 1, "b": 1}, {"$dict": [["a", 1], [5, 1]]})
        check({"a": 1, "b": 1}, {"$dict": [["a", 1], [5, 1]]}, {"a": 1}, {"$dict": [["a", 1], [5, 1], ["b", 1]]})

    def test_a_dict_that_has_come_to_look_like_a_tag(self):
        check({"$dict": [["$set", 2]]}, {"$set": 1, "b": 1, "c": 1}, {"$set": 2, "c": 1}, {"$set": 1, "b": 1})
        check({"$set": 1, "x": 1}, {"$dict": [["$set", 0]]}, {"$dict": [["$set", 1]]}, {"$set": 0, "x": 1})

    @pytest.mark.parametrize("tag", ["$OrderedDict", "$Counter"])
    def test_pairs(self, tag):
        check(
            {tag: [["a", 2], ["b", 1], ["c", 1]]},
            {tag: [["a", 1]]},
            {tag: [["a", 2], ["c", 1]]},
            {tag: [["a", 1], ["b", 1]]},
        )

    @pytest.mark.parametrize("factory", ["list", None], ids=repr)
    def test_defaultdict(self, factory):
        def of(pairs):
            return {"$defaultdict": [factory, pairs]}

        check(of([["a", [1, 3, 2]]]), of([["a", [1]]]), of([["a", [1, 2]]]), of([["a", [1, 3]]]))

    def test_kinds_do_not_mix(self):
        ours, theirs = {"$defaultdict": ["list", [["a", 1]]]}, {"$defaultdict": ["int", [["a", 2]]]}
        check(ours, {"a": 0}, ours, theirs, conflicts=[("user_data.42", "value")])
        check({"a": 1}, {"a": 0}, {"a": 1}, {"$OrderedDict": [["a", 2]]}, conflicts=[("user_data.42", "type")])

    @pytest.mark.parametrize(
        "payload", [None, 5, {}, [1], [[1]], [[1, 2, 3]], ["ab"], ["list", []], [5, []], ["list", 5]], ids=repr
    )
    @pytest.mark.parametrize("tag", ["$dict", "$Counter", "$defaultdict", "$set", "$timedelta", "$decimal", "$int"])
    def test_odd_trees_do_not_raise(self, tag, payload):
        odd = {tag: payload}
        for policy in ("ours", {"user_data.*.k": "sum"}, {"user_data.*.k": "union"}, {"user_data.*.k": "max"}):
            tree, _ = merged({"k": odd, "n": 1}, {"k": odd, "n": 2}, {"k": odd, "m": 1, "n": 1}, policy)
            assert tree["m"] == 1
            assert tree["n"] == 2
            merged({"k": odd}, {"k": 1}, {"k": 2}, policy)
            merged({"k": 1}, {"k": odd}, {"k": {tag: [payload]}}, policy)
            merged({"$dict": [[odd, 1]]}, {"$dict": [[odd, 2]]}, {"$dict": [[odd, 3]]}, policy)

    def test_too_deep_to_merge(self):
        def nest(leaf):
            tree = {"leaf": leaf}
            for _ in range(900):
                tree = {"k": tree}
            return tree

        ours, theirs = nest(2), nest(3)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(1000)  # some libraries raise it
        try:
            tree, conflicts = merge(nest(1), ours, nest(1), theirs, place=PLACE)
            assert tree is ours
            assert conflicts == [Conflict("user_data.42", "deep")]
            tree, conflicts = merge(nest(1), nest(1), nest(1), theirs, place=PLACE)
        finally:
            sys.setrecursionlimit(limit)
        assert conflicts == []
        assert dumps_deep(tree) == dumps_deep(theirs)


def dumps_deep(tree):
    depth = 0
    while "k" in tree:
        tree, depth = tree["k"], depth + 1
    return depth, tree


class TestOrder:
    def test_theirs_and_then_our_new_keys(self):
        check({"c": 1, "b": 1, "a": 1, "o": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1, "o": 1}, {"c": 1, "b": 1, "a": 1})
        tree, _ = merged({"a": 1, "b": 1}, {"a": 1, "b": 1, "o": 1}, {"c": 1, "b": 1, "a": 1})
        assert list(tree) == ["c", "b", "a", "o"]

    def test_ours_when_theirs_left_it(self):
        tree, _ = merged({"a": 1, "b": 1}, {"b": 1, "a": 1, "o": 1}, {"a": 2, "b": 1})
        assert list(tree.items()) == [("b", 1), ("a", 2), ("o", 1)]


SUM = {"user_data.*.n": "sum"}


class TestSum:
    def sum(self, expected, base, ours, theirs, conflicts=(), **kwargs):
        trees = [{} if side is ABSENT else {"n": side} for side in (expected, base, ours, theirs)]
        if "base_theirs" in kwargs:
            kwargs["base_theirs"] = {"n": kwargs["base_theirs"]}
        check(*trees, SUM, conflicts=conflicts, **kwargs)

    def test_increments_add_up(self):
        self.sum(3, 0, 1, 2)
        self.sum(2, 0, 1, 1)
        self.sum(2, ABSENT, 1, 1)
        self.sum(0.75, 0, 0.25, 0.5)

    def test_resets(self):
        self.sum(2, 5, ABSENT, 7)
        self.sum(2, 5, 7, ABSENT)
        self.sum(ABSENT, 5, ABSENT, ABSENT)
        self.sum(ABSENT, 5, ABSENT, 5)

    def test_two_bases(self):
        self.sum(6, 3, 4, 5, base_theirs=5)

    def test_big_and_exact(self):
        self.sum({"$int": str(2**64)}, 0, 2**63, 2**63)
        self.sum(2**64 - 1, {"$int": str(2**64)}, {"$int": str(2**64 - 2)}, {"$int": str(2**64 + 1)})
        self.sum({"$decimal": "0.30"}, {"$decimal": "0.00"}, {"$decimal": "0.10"}, {"$decimal": "0.20"})
        digits = "1" * 60
        self.sum({"$decimal": f"{digits}.75"}, 0, {"$decimal": "0.5"}, {"$decimal": f"{digits}.25"})
        self.sum({"$timedelta": [2, 0, 0]}, ABSENT, {"$timedelta": [0, 43200, 0]}, {"$timedelta": [1, 43200, 0]})
        self.sum({"$float": "inf"}, 0.0, 1.5e308, 1.5e308)
        self.sum({"$float": "nan"}, 0.0, {"$float": "inf"}, {"$float": "-inf"})

    @pytest.mark.parametrize(
        "ours",
        [True, "x", None, {"$tuple": []}, {"$int": "x"}, {"$decimal": "sNaN"}, {"$timedelta": [1, 2, "x"]}, [1]],
        ids=repr,
    )
    def test_no_number(self, ours):
        kind = "value" if type(ours) is int else "type"
        self.sum(ours, 1, ours, 2, conflicts=[("user_data.42.n", "policy"), ("user_data.42.n", kind)])

    def test_it_holds_for_its_own_place_alone(self):
        conflicts = [("user_data.42.n", "policy"), ("user_data.42.n.x", "value")]
        self.sum({"x": 1, "y": 2}, {"x": 0}, {"x": 1}, {"x": 2, "y": 2}, conflicts=conflicts)

    def test_decimal_and_float_do_not_add(self):
        ours = {"$decimal": "1"}
        self.sum(ours, 1, ours, 2.5, conflicts=[("user_data.42.n", "policy"), ("user_data.42.n", "type")])

    def test_it_reaches_below_what_both_did_alike(self):
        check({"n": 2}, ABSENT, {"n": 1}, {"n": 1}, SUM)
        check({"n": 2}, {}, {"n": 1}, {"n": 1}, SUM)
        check({"n": 2}, {"n": 5}, ABSENT, {"n": 7}, SUM)
        check({"a": {"n": 2}}, {}, {"a": {"n": 1}}, {"a": {"n": 1}}, {"user_data.*.*.n": "sum"})


class TestExtremes:
    @pytest.mark.parametrize(
        ("low", "high"),
        [
            (1, 2),
            (1, 1.5),
            ("a", "b"),
            (False, True),
            ({"$decimal": "1.1"}, 2),
            (5, {"$int": str(2**70)}),
            (1, {"$float": "inf"}),
        ],
    )
    def test_max_and_min(self, low, high):
        for ours, theirs in ((low, high), (high, low)):
            check({"n": high}, {"n": None}, {"n": ours}, {"n": theirs}, {"user_data.*.n": "max"})
            check({"n": low}, {"n": None}, {"n": ours}, {"n": theirs}, {"user_data.*.n": "min"})

    def test_equal_in_another_notation(self):
        check({"n": 1.0}, {"n": 0}, {"n": 1}, {"n": 1.0}, {"user_data.*.n": "max"})

    def test_absent_side(self):
        check({"n": 3}, {"n": 1}, {}, {"n": 3}, {"user_data.*.n": "min"})
        check({"n": 3}, {"n": 1}, {"n": 3}, {}, {"user_data.*.n": "max"})

    @pytest.mark.parametrize(
        ("ours", "theirs"), [("a", 1), ([1], [2]), ({"$float": "nan"}, 1), ({"$date": "x"}, {"$date": "y"})]
    )
    def test_not_comparable(self, ours, theirs):
        tree, conflicts = merged({}, {"n": ours}, {"n": theirs}, {"user_data.*.n": "max"})
        assert tree == {"n": ours}
        assert conflicts[0] == ("user_data.42.n", "policy")


class TestUnion:
    def union(self, expected, base, ours, theirs, conflicts=(), *, base_theirs=...):
        trees = [{} if side is ABSENT else {"n": side} for side in (expected, base, ours, theirs)]
        extra = {} if base_theirs is ... else {"base_theirs": {"n": base_theirs}}
        check(*trees, {"user_data.*.n": "union"}, conflicts=conflicts, **extra)

    def test_lists(self):
        self.union([1, 3, 2], [1], [1, 2], [1, 3])
        self.union([3, 4], [1, 2, 3], [2, 3, 4], [1, 3])
        self.union([2, 1], ABSENT, [1], [2])
        self.union([1, True, 1.0], [], [True, 1.0], [1])
        self.union([{"a": 1, "b": 1}], [], [{"b": 1, "a": 1}], [{"a": 1, "b": 1}])

    def test_sets(self):
        self.union({"$set": [1, 10, 3]}, {"$set": [1, 2]}, {"$set": [1, 10]}, {"$set": [1, 2, 3]})
        self.union({"$frozenset": ["b"]}, {"$frozenset": ["a"]}, {"$frozenset": []}, {"$frozenset": ["a", "b"]})
        self.union({"$set": [1]}, {"$set": []}, {"$set": [True]}, {"$set": [1]})

    def test_two_bases(self):
        self.union([1, "t", 2], [1], [1, 2], [1, "t"], base_theirs=[1, "t"])
        self.union(["x", 2], ["x"], [2], ["x"], base_theirs=[])
        self.union([2], ["x"], ["x", 2], [], base_theirs=[])

    def test_absent_side(self):
        self.union([3], [1, 2], ABSENT, [1, 2, 3])
        self.union([3], [1, 2], [1, 2, 3], ABSENT)
        self.union(ABSENT, [1], ABSENT, [])

    def test_dicts_merge_as_ever(self):
        self.union({"b": 1, "a": 1}, {"x": 1}, {"a": 1, "x": 1}, {"b": 1})

    def test_two_kinds(self):
        self.union([1], [], [1], {"$set": [2]}, conflicts=[("user_data.42.n", "policy"), ("user_data.42.n", "type")])
        self.union(1, [], 1, 2, conflicts=[("user_data.42.n", "policy"), ("user_data.42.n", "value")])


class TestCallables:
    def test_it_gets_base_ours_theirs(self):
        seen = []

        def policy(base, ours, theirs):
            seen.append((base, ours, theirs))
            return "result"

        check({"n": "result"}, {"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": policy})
        check({"n": "result"}, {"n": 1}, {}, {"n": 3}, {"user_data.*.n": policy})
        check({"n": "result"}, {}, {"n": 2}, {"n": 2}, {"user_data.*.n": policy})
        check({"n": 2}, {"n": 1}, {"n": 2}, {"n": 1}, {"user_data.*.n": policy})
        check({"n": 3}, {"n": 1}, {"n": 1}, {"n": 3}, {"user_data.*.n": policy})
        assert seen == [(1, 2, 3), (1, None, 3), (None, 2, 2)]

    def test_it_may_delete_and_may_return_none(self):
        check({}, {"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": lambda *_: ABSENT})
        check({"n": None}, {"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": lambda *_: None})

    def test_it_may_change_what_it_is_given(self):
        def policy(base, ours, theirs):
            base.clear()
            ours["x"].append(1)
            theirs.update(ours)
            return theirs

        check({"n": {"t": 1, "x": [1]}}, {"n": {"b": 1}}, {"n": {"x": []}}, {"n": {"t": 1}}, {"user_data.*.n": policy})

    def test_one_that_raises(self):
        def policy(base, ours, theirs):
            raise LookupError

        conflicts = [("user_data.42.n", "policy"), ("user_data.42.n", "value")]
        check({"n": 2}, {"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": policy}, conflicts=conflicts)
        check(
            {"n": {"t": 1, "o": 1}},
            {},
            {"n": {"o": 1}},
            {"n": {"t": 1}},
            {"user_data.*.n": policy},
            conflicts=conflicts[:1],
        )

    def test_whole_entity(self):
        policy = {"user_data.42": lambda base, ours, theirs: {"base": base, "ours": ours, "theirs": theirs}}
        check({"base": {"a": 1}, "ours": None, "theirs": {"a": 2}}, {"a": 1}, ABSENT, {"a": 2}, policy)
        check(ABSENT, {"a": 1}, ABSENT, {"a": 1}, policy)

    def test_a_dropped_entity_when_the_policy_raises(self):
        check(
            {"b": 2}, {"a": 1}, ABSENT, {"a": 1, "b": 2}, {"user_data.*": "sum"}, conflicts=[("user_data.42", "policy")]
        )

    def test_interruption_is_not_caught(self):
        def policy(base, ours, theirs):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            merged({"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": policy})


@dataclass
class Basket:
    items: list
    closed: bool = False

    @staticmethod
    def __kv_merge__(base, ours, theirs):
        if theirs.closed:
            raise LookupError
        known = [] if base is None else base.items
        return Basket(theirs.items + [item for item in ours.items if item not in known])


@dataclass
class Sheet:
    rows: list


class Refusing(type):
    def __getattr__(cls, name):
        raise OSError


class Wall(metaclass=Refusing):
    pass


class TestWithCodec:
    """What needs values: callables, comparisons, and classes that merge themselves."""

    CODEC = Codec(types=[Basket, Sheet, Wall])

    def merge(self, base, ours, theirs, policies="ours"):
        trees = [self.CODEC.to_tree(side) for side in (base, ours, theirs)]
        tree, conflicts = merged(*trees, policies, values=self.CODEC)
        return self.CODEC.from_tree(tree), conflicts

    def test_callables_get_values(self):
        def policy(base, ours, theirs):
            ours.add(9)
            return base, ours | theirs

        result = self.merge({"n": {1}}, {"n": {2}}, {"n": {3}}, {"user_data.*.n": policy})
        assert result == ({"n": ({1}, {2, 3, 9})}, [])

    def test_a_result_that_cannot_be_stored(self):
        result = self.merge({"n": 1}, {"n": 2}, {"n": 3}, {"user_data.*.n": lambda *_: object()})
        assert result == ({"n": 2}, [("user_data.42.n", "policy"), ("user_data.42.n", "value")])

    def test_a_value_that_cannot_be_decoded(self):
        bad = {"n": {"$nonsense": 1}}
        tree, conflicts = merged({"n": 1}, {"n": 2}, bad, {"user_data.*.n": lambda *_: 5}, values=self.CODEC)
        assert tree == {"n": 2}
        assert conflicts == [("user_data.42.n", "policy"), ("user_data.42.n", "type")]

    def test_what_python_compares(self):
        early, late = (
            datetime(2024, 1, 1, tzinfo=timezone.utc),
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-1))),
        )
        for ours, theirs in ((early, late), (late, early)):
            assert self.merge({}, {"n": ours}, {"n": theirs}, {"user_data.*.n": "max"}) == ({"n": late}, [])
            assert self.merge({}, {"n": ours}, {"n": theirs}, {"user_data.*.n": "min"}) == ({"n": early}, [])
        assert self.merge({}, {"n": {1}}, {"n": {2}}, {"user_data.*.n": "max"})[1][0] == ("user_data.42.n", "policy")

    def test_sums_read_back(self):
        for base, ours, theirs in (
            (0, 10**4000, 10**4000),
            (Decimal(0), Decimal("0.1"), Decimal("1e500")),
            (0, 2**63, 2**63),
        ):
            result, conflicts = self.merge({"n": base}, {"n": ours}, {"n": theirs}, SUM)
            with localcontext(Context(prec=1000)):
                assert result == {"n": theirs + (ours - base)}
            assert conflicts == []

    def test_a_class_that_merges_itself(self):
        assert self.merge({"k": Basket([1])}, {"k": Basket([1, 2])}, {"k": Basket([3])}) == ({"k": Basket([3, 2])}, [])
        assert self.merge({}, {"k": Basket([2])}, {"k": Basket([3])}) == ({"k": Basket([3, 2])}, [])
        assert self.merge(Basket([1]), Basket([1, 2]), Basket([3])) == (Basket([3, 2]), [])

    def test_a_merge_of_its_own_that_raises(self):
        ours, theirs = Basket([2]), Basket([3], closed=True)
        conflicts = [("user_data.42.k", "policy"), ("user_data.42.k", "value")]
        assert self.merge({"k": Basket([1])}, {"k": ours}, {"k": theirs}) == ({"k": ours}, conflicts)

    def test_classes_without_one(self):
        conflicts = [("user_data.42.k", "value")]
        assert self.merge({}, {"k": Sheet([1])}, {"k": Sheet([2])}) == ({"k": Sheet([1])}, conflicts)
        assert self.merge({}, {"k": Sheet([1])}, {"k": Basket([2])}) == ({"k": Sheet([1])}, conflicts)
        ours, theirs = Wall(), Wall()
        vars(ours)["a"] = 1
        assert vars(self.merge({}, {"k": ours}, {"k": theirs})[0]["k"]) == {"a": 1}


class TestPolicies:
    def test_default(self):
        assert Policies().default == "ours"
        assert not Policies().has_paths
        assert Policies("theirs").default == "theirs"
        assert Policies({"": "theirs"}).default == "theirs"
        assert not Policies({"": "theirs"}).has_paths
        assert Policies({"a.b": "sum"}).has_paths

    def test_another_default(self):
        policies = Policies({"": "ours", "user_data.*.n": "sum"})
        other = policies.with_default("theirs")
        assert (policies.default, other.default) == ("ours", "theirs")
        assert merge(
            {"n": 1, "m": 1}, {"n": 2, "m": 2}, {"n": 1, "m": 1}, {"n": 3, "m": 3}, place=PLACE, policies=other
        )[0] == {"n": 4, "m": 3}
        with pytest.raises(ConfigurationError):
            policies.with_default("sum")

    def test_sides_hold_for_all_below_their_path(self):
        policies = {"user_data.*.a": "theirs", "user_data.*.a.mine": "ours"}
        base, ours, theirs = ({"a": {"x": n, "mine": n}, "b": n} for n in range(3))
        places = ["user_data.42.a.x", "user_data.42.a.mine", "user_data.42.b"]
        check(
            {"a": {"x": 2, "mine": 1}, "b": 1},
            base,
            ours,
            theirs,
            policies,
            conflicts=[(place, "value") for place in places],
        )
        check({"x": 2}, {"x": 0}, {"x": 1}, {"x": 2}, {"user_data": "theirs"}, conflicts=[("user_data.42.x", "value")])

    def test_literal_beats_wildcard(self):
        policies = {"user_data.*.n": "max", "user_data.42.n": "sum", "*.*.n": "min", "user_data.42.*": "theirs"}
        check({"n": 5}, {"n": 0}, {"n": 2}, {"n": 3}, policies)
        tree, conflicts = merge(
            {"n": 0}, {"n": 2}, {"n": 3}, {"n": 3}, place=("user_data", "7"), policies=Policies(policies)
        )
        assert (tree, conflicts) == ({"n": 3}, [])
        tree, conflicts = merge(
            {"n": 0}, {"n": 2}, {"n": 0}, {"n": 3}, place=("chat_data", "7"), policies=Policies(policies)
        )
        assert (tree, conflicts) == ({"n": 2}, [])

    @pytest.mark.parametrize(
        ("key", "segment"),
        [
            (5, "5"),
            (True, "True"),
            (None, "None"),
            (1.5, "1*5"),
            ({"$tuple": [1, "a"]}, "(1, a)"),
            ({"$enum": ["m:E", "A"]}, "A"),
            ({"$int": str(2**70)}, str(2**70)),
        ],
        ids=repr,
    )
    def test_keys_match_by_their_text(self, key, segment):
        policies = {f"user_data.*.{segment.replace('1*5', '*')}": "sum"}
        check({"$dict": [[key, 3]]}, {"$dict": [[key, 0]]}, {"$dict": [[key, 1]]}, {"$dict": [[key, 2]]}, policies)

    def test_a_key_named_star(self):
        check({"*": 3}, {"*": 0}, {"*": 1}, {"*": 2}, {"user_data.*.*": "sum"})

    def test_only_whole_paths(self):
        check(
            {"a": {"n": 1}},
            {"a": {"n": 0}},
            {"a": {"n": 1}},
            {"a": {"n": 2}},
            {"user_data.*.n": "sum", "user_data.*.a.n.x": "sum"},
            conflicts=[("user_data.42.a.n", "value")],
        )

    @pytest.mark.parametrize(
        ("argument", "words"),
        [
            ("mine", ["'mine'", "'ours' or 'theirs'"]),
            ("sum", ["'sum'", "'ours' or 'theirs'", "path"]),
            (None, ["NoneType"]),
            ({"user_data.*.n": "add"}, ["'add'", "user_data.*.n", "'sum'", "callable"]),
            ({"user_data.*.n": 3}, ["of type int", "user_data.*.n"]),
            ({"": "sum"}, ["default", "'sum'"]),
            ({"": 3}, ["default", "of type int"]),
            ({"user_data..n": "sum"}, ["'user_data..n'", "user_data.*.visits"]),
            ({".": "sum"}, ["'.'"]),
            ({("user_data", "n"): "sum"}, ["('user_data', 'n')"]),
            ({"userdata.*.n": "sum"}, ["'userdata.*.n'", "'user_data', 'chat_data'"]),
        ],
    )
    def test_wrong_arguments(self, argument, words):
        with pytest.raises(ConfigurationError) as caught:
            Policies(argument, sections=("user_data", "chat_data"))
        assert all(word in str(caught.value) for word in words)

    def test_sections_allow_a_wildcard(self):
        assert Policies({"*.*.n": "sum", "user_data.1.n": "sum"}, sections=("user_data",)).has_paths
        assert Policies({"anything.1.n": "sum"}).has_paths
