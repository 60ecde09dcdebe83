"""Trees from outside: equality, views, identity and names of keys."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.trees import build_mapping, dump, identify, is_equal, is_same, name_key, to_text, view_mapping


def deep(leaf, levels=400):
    for _ in range(levels):
        leaf = {"a": [leaf], "b": 1}
    return leaf


class TestEquality:
    @pytest.mark.parametrize("wrap", [lambda tree: tree, deep], ids=["flat", "deep"])
    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (1, True),
            (1, 1.0),
            (0.0, -0.0),
            ([1], [True]),
            ({"a": 0}, {"a": False}),
            ([1], [1, 2]),
            ({"a": 1}, {"b": 1}),
            ({}, []),
        ],
        ids=repr,
    )
    def test_different(self, wrap, left, right):
        left, right = wrap([left]), wrap([right])
        assert not is_same(left, right)
        assert not is_equal(left, right)
        assert is_same(left, left)

    @pytest.mark.parametrize("levels", [0, 1, 200, 400])
    def test_the_order_of_keys(self, levels):
        one, same, other = (deep(tree, levels) for tree in ({"x": 1, "y": 2}, {"x": 1, "y": 2}, {"y": 2, "x": 1}))
        assert is_same(one, same)
        assert not is_same(one, other)
        assert is_equal(one, other)

    def test_text_of_odd_trees(self):
        odd = {"b": "\ud800", "a": 1}
        assert dump(odd) == dump(dict(odd))
        assert to_text(odd) != to_text({"b": "\ud801", "a": 1})
        assert is_same([odd], [dict(odd)])


class TestKeys:
    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (1, True),
            (1, 1.0),
            (1, {"$decimal": "1"}),
            (2**63, {"$decimal": "9223372036854775808"}),
            ({"$tuple": [1, {"$tuple": [0]}]}, {"$tuple": [True, {"$tuple": [0.0]}]}),
            ({"$frozenset": [1, 2]}, {"$frozenset": [2, 1.0]}),
        ],
        ids=repr,
    )
    def test_one_key_for_python(self, one, two):
        assert identify(one) == identify(two)
        assert hash(identify(one)) == hash(identify(two))

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (1, "1"),
            (None, "None"),
            ({"$bytes": "AA=="}, "AA=="),
            ({"$tuple": [1]}, {"$frozenset": [1]}),
            ({"$bytes": "x"}, {"$uuid": "x"}),
        ],
        ids=repr,
    )
    def test_two_keys_for_python(self, one, two):
        assert identify(one) != identify(two)

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            ("a.b", "a.b"),
            (5, "5"),
            (None, "None"),
            (1.5, "1.5"),
            ({"$tuple": [1, {"$bytes": "AA=="}]}, "(1, AA==)"),
            ({"$flag": ["m:F", 3]}, "3"),
            ({"$str": ["a", 55296]}, '["a",55296]'),
            ([1], "[1]"),
        ],
        ids=repr,
    )
    def test_names(self, key, name):
        assert name_key(key) == name


class TestMappings:
    @pytest.mark.parametrize(
        "tree",
        [
            {},
            {"a": 1},
            {"$dict": [[1, 2]]},
            {"$dict": [["$a", 2]]},
            {"$Counter": []},
            {"$defaultdict": [None, [[1, 2]]]},
            {"$defaultdict": ["m:C", []]},
        ],
        ids=repr,
    )
    def test_there_and_back(self, tree):
        view = view_mapping(tree)
        assert build_mapping(*view) == tree

    @pytest.mark.parametrize(
        "tree",
        [None, [], "x", {"$tuple": []}, {"$dict": 5}, {"$dict": [[1]]}, {"$defaultdict": [5, []]}, {"$x": {}}],
        ids=repr,
    )
    def test_no_mapping(self, tree):
        assert view_mapping(tree) is None
