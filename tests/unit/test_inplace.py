"""Bringing live objects up to date: what keeps its identity, what is replaced, what is never touched."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import attrs
import msgspec
import pydantic
import pytest

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.errors import DecodeError
from ptb_kvpersistence.inplace import update_in_place


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Cart(dict):
    pass


class Window(deque):
    pass


class Pair(tuple):
    __slots__ = ()


class Slotted:
    __slots__ = ("a", "b")


@dataclass
class Data:
    items: list
    name: str = ""


@dataclass(frozen=True)
class Frozen:
    items: list
    extra: dict = field(default_factory=dict)


@dataclass(slots=True)
class Slots:
    items: list
    count: int = 0


@attrs.define
class Defined:
    items: list
    count: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))


@attrs.frozen
class AttrsFrozen:
    items: list


class Model(pydantic.BaseModel):
    items: list
    count: int = 0


class FrozenModel(pydantic.BaseModel, frozen=True):
    items: list


class Struct(msgspec.Struct):
    items: list
    count: int = 0


class FrozenStruct(msgspec.Struct, frozen=True):
    items: list


class Point(NamedTuple):
    x: int
    items: list


class Color(enum.Enum):
    RED = 1


CODEC = Codec(
    types=[
        Plain,
        Cart,
        Window,
        Pair,
        Slotted,
        Data,
        Frozen,
        Slots,
        Defined,
        AttrsFrozen,
        Model,
        FrozenModel,
        Struct,
        FrozenStruct,
    ]
)


def update(live, new, old=None):
    """Bring ``live`` to ``new``, a value; whatever happens, its encoding is then that of ``new``."""
    tree = CODEC.to_tree(new)
    result = update_in_place(CODEC, live, CODEC.to_tree(live) if old is None else old, tree)
    assert CODEC.encode(result) == CODEC.encode(new)
    return result


class TestContainers:
    @pytest.mark.parametrize(
        ("live", "new"),
        [
            ({"a": 1}, {"b": 2}),
            ({"a": 1}, {"a": True}),
            ({"a": 1}, {1: "a"}),
            ({1: "a", (2, 3): "b"}, {(2, 3): "c", None: 1}),
            ({1: "a"}, {True: "a"}),
            ({float("nan"): 1}, {float("nan"): 2}),
            ({"$set": 1}, {"$set": 2, "x": 1}),
            (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
            (Counter("aab"), Counter("abb")),
            (defaultdict(list, a=[1]), defaultdict(list, a=[1, 2])),
            (defaultdict(list, a=[1]), defaultdict(None, a=[1])),
            (defaultdict(None, {float("nan"): 1}), defaultdict(int, {float("nan"): 2})),
            ([1, 2, 3], [3, 2, 1]),
            ([], [1]),
            ([1, [2]], []),
            ({1, 2}, {2, 3}),
            ({1, 2}, {True, 2}),
            ({float("nan")}, {float("nan"), 1}),
            ({1}, set()),
            (deque([1, 2]), deque([2, 3, 4])),
            (deque([1, 2], 2), deque([2, 3], 2)),
            (bytearray(b"ab"), bytearray(b"c")),
        ],
        ids=lambda value: f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, set) else repr(value),
    )
    def test_identity_is_kept(self, live, new):
        assert update(live, new) is live
        if not isinstance(new, set):
            assert list(map(repr, live)) == list(map(repr, new))

    @pytest.mark.parametrize(
        ("live", "new"),
        [
            ({"a": 1}, OrderedDict(a=1)),
            ({"a": 1}, [1]),
            ([1], (1,)),
            ((1, []), (1, [2])),
            (frozenset([1]), frozenset([2])),
            (1, 2),
            (None, {}),
            (deque([1], 2), deque([1], 3)),
            (Point(1, []), Point(1, [2])),
            (Color.RED, {"a": Color.RED}),
            (Pair("ab"), Pair("ac")),
        ],
        ids=repr,
    )
    def test_another_type_or_an_immutable_one_is_replaced(self, live, new):
        before = CODEC.encode(live)
        assert update(live, new) is not live
        assert CODEC.encode(live) == before

    def test_nothing_to_do(self):
        live = {"a": [1]}
        tree = CODEC.to_tree(live)
        assert update_in_place(CODEC, live, tree, CODEC.to_tree(live)) is live
        live = (1, [2])
        assert update_in_place(CODEC, live, CODEC.to_tree(live), CODEC.to_tree(live)) is live

    def test_what_did_not_change_is_not_touched(self):
        live = {"same": {"x": [1]}, "changed": {"x": [1], "y": {"z": 1}}, "list": [{"a": 1}, {"b": 1}, {"c": 1}]}
        same, changed, inner, y, elements = (
            live["same"],
            live["changed"],
            live["changed"]["x"],
            live["changed"]["y"],
            live["list"],
        )
        first, second, third = elements
        update(live, {"same": {"x": [1]}, "changed": {"x": [1], "y": {"z": 2}}, "list": [{"a": 1}, {"b": 2}, {"c": 1}]})
        assert live["same"] is same
        assert live["changed"] is changed
        assert changed["x"] is inner
        assert changed["y"] is y
        assert live["list"] is elements
        assert [element is old for element, old in zip(elements, (first, second, third), strict=True)] == [True] * 3
        assert second == {"b": 2}

    def test_unchanged_values_are_not_even_read(self):
        class Untouchable(dict):
            def __getitem__(self, key):
                raise AssertionError

            get = __setitem__ = __iter__ = __getitem__

        live = {"a": Untouchable(), "b": 1}
        assert update_in_place(CODEC, live, {"a": {}, "b": 1}, {"a": {}, "b": 2}) is live
        assert live["b"] == 2

    def test_elements_of_lists_that_moved_keep_their_identity(self):
        a, b, c = {"n": 1}, {"n": 2}, {"n": 3}
        live = [a, b, c]
        update(live, [{"n": 3}, {"n": 0}, {"n": 1}])
        assert live[0] is c
        assert live[1] is b
        assert live[2] is a
        update(live, [{"n": 9}, {"n": 3}, {"n": 1}, {"n": 8}])
        assert live[1] is c
        assert live[2] is a
        update(live, [{"n": 3}, {"n": 1}, {"n": 7}])
        assert live[0] is c
        assert live[1] is a
        assert (a, b, c) == ({"n": 1}, {"n": 0}, {"n": 3})

    def test_in_a_list_that_shrank_nobody_becomes_somebody_else(self):
        a, b = {"n": 1}, {"n": 2}
        live = [a, b]
        update(live, [{"n": 3}])
        assert (a, b) == ({"n": 1}, {"n": 2})

    def test_growth_at_the_end(self):
        live = [{"n": 1}]
        first = live[0]
        update(live, [{"n": 1}, {"n": 2}])
        assert live[0] is first

    def test_order_of_keys(self):
        live = {"a": [1], "b": [2], "c": [3]}
        kept = {key: id(value) for key, value in live.items()}
        update(live, {"c": [3], "a": [1], "d": 4, "b": [2]})
        assert list(live) == ["c", "a", "d", "b"]
        assert all(id(live[key]) == old for key, old in kept.items())

    def test_factory_of_a_defaultdict(self):
        live = defaultdict(list)
        update(live, defaultdict(set, a={1}))
        assert live.default_factory is set
        assert live["new"] == set()

    def test_deep_in_a_tuple_all_is_new(self):
        live = {"t": (1, [2])}
        inner = live["t"][1]
        update(live, {"t": (1, [2, 3])})
        assert inner == [2]


class TestObjects:
    @pytest.mark.parametrize(
        "cls", [Plain, Data, Frozen, Slots, Defined, AttrsFrozen, Model, FrozenModel, Struct, FrozenStruct]
    )
    def test_identity_is_kept(self, cls):
        live = cls(items=[1, {"a": 1}])
        items, inner = live.items, live.items[1]
        assert update(live, cls(items=[1, {"a": 2}, 3])) is live
        assert live.items is items
        assert live.items[1] is inner
        assert items == [1, {"a": 2}, 3]

    @pytest.mark.parametrize("cls", [Data, Slots, Defined, Model, Struct])
    def test_one_field_alone(self, cls):
        live = cls([1]) if cls is not Model else cls(items=[1])
        items = live.items
        other = {"name": "x"} if cls is Data else {"count": 2}
        assert update(live, cls(items=[1], **other)) is live
        assert live.items is items

    def test_attributes_come_and_go(self):
        live = Plain(a=1, b=[1], c=2)
        inner = live.b
        update(live, Plain(c=2, b=[1, 2], d=3))
        assert vars(live) == {"c": 2, "b": [1, 2], "d": 3}
        assert list(vars(live)) == ["c", "b", "d"]
        assert live.b is inner

    def test_unset_slots(self):
        live, new = Slotted(), Slotted()
        live.a, new.b = 1, [2]
        assert update(live, new) is live
        assert not hasattr(live, "a")
        assert live.b == [2]

    def test_a_subclass_of_dict_with_attributes(self):
        def cart(note, **items):
            made = Cart(items)
            made.note = note
            return made

        live = cart("x", a=[1], b=[2])
        inner = live["b"]
        assert update(live, cart("y", b=[2, 3], a=[1])) is live
        assert live["b"] is inner
        assert list(live) == ["b", "a"]

    def test_a_subclass_whose_content_cannot_follow(self):
        live = Window([1, 2], 2)
        assert update(live, Window([2, 3], 2)) is live
        assert update(live, Window([1, 2, 3], 3)) is not live
        pair = Pair([1])
        pair_with = Pair([1])
        assert update(pair, Pair([1])) is pair
        assert update(pair_with, Pair([2])) is not pair_with

    def test_another_class(self):
        live = {"o": Data([1])}
        old = live["o"]
        update(live, {"o": Slots([1])})
        assert type(live["o"]) is Slots
        assert old == Data([1])

    def test_a_class_that_grew_since_it_was_encoded(self):
        old = {"$dataclass": [f"{__name__}:Data", {"items": [1]}]}
        new = {"$dataclass": [f"{__name__}:Data", {"items": [1, 2]}]}
        live = CODEC.from_tree(old)
        live.name = "set by a handler"
        assert update_in_place(CODEC, live, old, new) is live
        assert live == Data([1, 2], "set by a handler")

    def test_fields_that_became_unset(self):
        live = Data([1], "x")
        old = CODEC.to_tree(live)
        new = {"$dataclass": [f"{__name__}:Data", {"items": [1]}, ["name"]]}
        assert update_in_place(CODEC, live, old, new) is live
        assert vars(live) == {"items": [1]}


class TestTrouble:
    def test_what_cannot_be_decoded_leaves_all_as_it_was(self):
        live = {"a": [1], "b": {"c": {1}}}
        before = CODEC.encode(live)
        new = {"a": [1, 2], "b": {"c": {"$set": [1, 2]}, "bad": {"$nonsense": 1}}}
        with pytest.raises(DecodeError):
            update_in_place(CODEC, live, CODEC.to_tree(live), new)
        assert CODEC.encode(live) == before

    @pytest.mark.parametrize(
        "new",
        [
            {"$dict": [[[], 1]]},
            {"$set": [[]]},
            {"$deque": 5},
            {"$set": 5},
            {"$dataclass": [f"{__name__}:Data", 5]},
            {"$bytearray": 5},
        ],
        ids=repr,
    )
    def test_odd_payloads(self, new):
        for live in ({"k": 1}, {1: 2}, {1}, deque(), Data([]), bytearray(), []):
            with pytest.raises(DecodeError):
                update_in_place(CODEC, live, CODEC.to_tree(live), new)

    @pytest.mark.parametrize(
        "live",
        [{"b": 1}, {}, [], [9, 9, 9], {"x": 5, "a": [1, 2]}, {7}, deque([5, 6]), Data([0], "x"), None, Plain(), {2: 2}],
        ids=lambda live: type(live).__name__ if isinstance(live, Plain) else repr(live),
    )
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ({"a": [1], "b": 2}, {"a": [1, 2], "b": 2}),
            ([1], [1, 2]),
            ([{"a": 1}, 2, 3], [{"a": 2}, 2, 3]),
            ({"$set": [1]}, {"$set": [2]}),
            ({"$dict": [[1, 2]]}, {"$dict": [[1, 3]]}),
            ({"$deque": [[1], None]}, {"$deque": [[1, 2], None]}),
            (
                {"$dataclass": [f"{__name__}:Data", {"items": [1]}]},
                {"$dataclass": [f"{__name__}:Data", {"items": [2], "name": "n"}]},
            ),
        ],
        ids=repr,
    )
    def test_an_object_that_is_not_what_was_encoded(self, live, old, new):
        result = update_in_place(CODEC, CODEC.from_tree(CODEC.to_tree(live)), old, new)
        assert type(result) is type(CODEC.from_tree(new))
        if isinstance(result, (set, deque)):
            assert result == CODEC.from_tree(new)

    def test_what_was_added_meanwhile_stays(self):
        live = {"a": 1, "b": [1]}
        old = CODEC.to_tree(live)
        live["mine"] = 1
        update_in_place(CODEC, live, old, {"b": [1, 2], "a": 1})
        assert live == {"mine": 1, "b": [1, 2], "a": 1}

    def test_what_was_deleted_meanwhile(self):
        live = {"a": 1, "b": 1, "c": 1}
        old = CODEC.to_tree(live)
        del live["a"], live["b"], live["c"]
        update_in_place(CODEC, live, old, {"a": 1, "b": 2})
        assert live == {"b": 2}

    def test_one_object_in_two_places(self):
        shared = [1]
        live = {"a": shared, "b": shared}
        update(live, {"a": [1, 2], "b": [1, 2]})
        assert live["a"] is live["b"] is shared
        update(live, {"a": [1, 2, 3], "b": [1, 2, 4]})
        assert live["a"] is shared
