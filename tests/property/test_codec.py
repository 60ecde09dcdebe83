"""Any value of the supported types comes back exactly; any tree and any text gives a value or a DecodeError."""

from __future__ import annotations

import contextlib
import datetime
import json
import string
import sys
import threading
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePosixPath, PureWindowsPath

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptb_kvpersistence.codec import Codec, loads
from ptb_kvpersistence.codec.decode import TAGS
from ptb_kvpersistence.codec.place import item_step
from ptb_kvpersistence.codec.plain import is_plain
from ptb_kvpersistence.errors import DecodeError, EncodeError
from tests import codec_models as models
from tests.exact import is_exact

# Hypothesis prints its strategies when it has to draw a key again; ours are large.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

CODEC = Codec(models.REGISTERED)
ZONE_NAMES = ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC", "Australia/Lord_Howe", "Etc/GMT+5"]

offsets = st.timedeltas(datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59))
zones = st.one_of(
    st.none(),
    st.just(datetime.timezone.utc),
    offsets.map(datetime.timezone),
    st.builds(datetime.timezone, offsets, st.text(st.characters(codec="utf-8"), max_size=4)),
    st.sampled_from(ZONE_NAMES).map(zoneinfo.ZoneInfo),
)
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(),
    zones,
    st.integers(0, 1),
)
surrogate_text = st.text(st.characters(exclude_categories=()), max_size=6)  # lone surrogates, too
integers = st.one_of(
    st.integers(),
    st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400]),
    st.booleans(),
)
plain_atoms = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(st.characters(codec="utf-8"), max_size=6)
)
hashable_atoms = st.one_of(
    st.none(),
    integers,
    st.floats(),
    surrogate_text,
    st.sampled_from(["$tuple", "$dict", "$", "$x"]),
    st.binary(max_size=6),
    st.complex_numbers(),
    st.decimals().filter(lambda number: not number.is_snan()),  # that one has no hash
    st.uuids(),
    moments,
    st.dates(),
    st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), zones, st.integers(0, 1)),
    st.timedeltas(),
    zones,
    st.builds(range, st.integers(), st.integers(), st.integers().filter(bool)),
    surrogate_text.map(PurePosixPath),
    surrogate_text.map(PureWindowsPath),
    st.sampled_from([*models.Color, *models.Size, *models.Word, *models.Rights]),
    st.integers(0, 7).map(models.Rights),
    st.sampled_from([models.Mode(0), models.Mode.A | models.Mode.HIGH]),
)
atoms = hashable_atoms | st.decimals()
hashables = st.recursive(
    hashable_atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(models.FrozenOrder, inner, inner),
        st.builds(models.FrozenItem, inner),
        st.builds(models.Point, inner, inner),
    ),
    max_leaves=4,
)
names = st.text(string.ascii_letters, min_size=1, max_size=4)
factories = st.sampled_from([None, list, dict, set, int, str, Counter, OrderedDict, models.Plain])


def with_attributes(value, attributes):
    value.__dict__.update(attributes)
    return value


def slotted(cls, attributes):
    value = cls()
    for name in ("a", "b"):
        if name in attributes:
            setattr(value, name, attributes[name])
    return value


def containers(inner):
    items = st.lists(inner, max_size=4)
    dicts = st.dictionaries(hashables, inner, max_size=4)
    attributes = st.dictionaries(names, inner, max_size=3)
    return st.one_of(
        items,
        items.map(tuple),
        dicts,
        st.dictionaries(surrogate_text, inner, max_size=4),
        st.dictionaries(st.sampled_from(["$tuple", "$set", "$", "a"]), inner, max_size=2),
        dicts.map(OrderedDict),
        dicts.map(lambda content: Counter(content)),  # noqa: PLW0108 - Counter counts what it is given twice
        st.builds(defaultdict, factories, dicts),
        st.builds(lambda content, more: deque(content, len(content) + more), items, st.integers(0, 2)),
        items.map(deque),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
        st.binary(max_size=4).map(bytearray),
        st.builds(models.Order, inner, items, inner),
        st.builds(models.FrozenOrder, inner, inner),
        st.builds(models.SlottedOrder, inner, inner),
        st.builds(models.Box, inner),
        st.builds(models.Item, inner, items),
        st.builds(models.DictItem, inner, inner),
        st.builds(models.HashedItem, inner),
        st.builds(models.Point, inner, inner),
        st.builds(with_attributes, st.builds(models.NamedPoint, inner, inner), attributes),
        st.builds(lambda name, friends: models.Person.model_construct(name=name, friends=friends), inner, items),
        st.builds(lambda name, extra: models.OpenPerson.model_construct(name=name, zz=extra), inner, inner),
        st.builds(models.Car, inner, items, inner),
        st.builds(models.FrozenCar, wheels=inner),
        attributes.map(lambda content: models.Plain(**content)),
        attributes.map(lambda content: models.Settings(**content)),
        st.builds(slotted, st.sampled_from([models.Slotted, models.SlottedChild, models.MixedChild]), attributes),
        st.builds(with_attributes, dicts.map(models.CartDict), attributes),
        st.builds(with_attributes, dicts.map(models.Cart), attributes),
        st.builds(with_attributes, st.builds(models.Groups, factories, dicts), attributes),
        st.builds(with_attributes, items.map(models.Lines), attributes),
        st.builds(with_attributes, st.sets(hashables, max_size=3).map(models.Tags), attributes),
        st.builds(with_attributes, items.map(models.Pair), attributes),
        st.builds(with_attributes, surrogate_text.map(models.Text), attributes),
        st.integers().map(models.Number),
        st.floats().map(models.Ratio),
        items.map(models.Recent),
    )


values = st.recursive(atoms, containers, max_leaves=12)


@given(values)
def test_any_value_comes_back_exactly(value):
    text = CODEC.encode(value)
    decoded = CODEC.decode(text)
    assert is_exact(decoded, value)
    assert CODEC.encode(decoded) == text
    assert CODEC.encode(value) == text
    tree = CODEC.to_tree(value)
    assert orjson.dumps(tree) == text
    assert is_exact(CODEC.from_tree(tree), value)
    assert orjson.dumps(tree) == text
    json.loads(text)  # any other reader takes it, too


plain_values = st.recursive(
    st.one_of(plain_atoms, st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=5),
    ),
    max_leaves=20,
)


@given(plain_values)
def test_plain_values_are_plain_json(value):
    text = CODEC.encode(value)
    decoded = CODEC.decode(text)
    assert is_exact(decoded, value)
    assert is_exact(CODEC.decode(text.decode()), value)
    if is_plain(value):
        assert text == orjson.dumps(value)
        assert is_exact(json.loads(text), value)


@given(values)
def test_the_fast_path_takes_nothing_that_json_would_change(value):
    if is_plain(value):
        try:
            text = orjson.dumps(value)
        except TypeError:  # surrogates and big ints take the long way
            return
        assert is_exact(orjson.loads(text), value)


class Bad:
    __slots__ = ()


@given(values, st.data())
def test_the_place_of_what_cannot_be_stored_is_exact(value, data):
    """Wrap something bad in several levels, noting the steps; any other value stands beside it."""
    wrapped, place = Bad(), ""
    for _ in range(data.draw(st.integers(0, 5))):
        kind = data.draw(
            st.sampled_from(["list", "tuple", "dict", "pairs", "deque", "order", "plain", "point", "cart"])
        )
        if kind in ("list", "tuple", "deque"):
            before = [value] * data.draw(st.integers(0, 2))
            wrapped = {"list": list, "tuple": tuple, "deque": deque}[kind]([*before, wrapped, value])
            place = f"[{len(before)}]{place}"
        elif kind in ("dict", "pairs", "cart"):
            key = data.draw(st.text(max_size=5) if kind == "dict" else st.integers() | st.text() | st.none())
            wrapped = (models.CartDict if kind == "cart" else dict)({("other",): value, key: wrapped})
            place = item_step(key) + place
        elif kind == "order":
            wrapped, place = models.Order(1, [value, wrapped]), f".lines[1]{place}"
        elif kind == "plain":
            wrapped, place = models.Plain(a=value, b=wrapped), f".b{place}"
        else:
            wrapped, place = models.Point(value, wrapped), f".y{place}"
    with pytest.raises(EncodeError) as caught:
        CODEC.encode(wrapped, "user_data[42]")
    assert caught.value.place == f"user_data[42]{place}"
    assert "Bad; register the class" in caught.value.reason


# --- trees and texts from elsewhere ---

class_names = st.one_of(
    st.sampled_from(
        [
            *(f"{cls.__module__}:{cls.__qualname__}" for cls in (*models.REGISTERED, *models.RECORDERS)),
            *(
                f"tests.codec_models:{name}"
                for name in ("Color", "Rights", "StrangeFlag", "Point", "Order", "SlottedOrder")
            ),
            *(
                f"tests.codec_models:{name}"
                for name in ("Item", "CheckedCar", "FinalizerData", "RecorderPerson", "RAN", "T")
            ),
            *(
                "builtins:object",
                "builtins:dict",
                "os:system",
                "re:RegexFlag",
                "enum:Flag",
                "datetime:datetime",
                "sys:path",
            ),
            *(
                "dataclasses:Field",
                "inspect:Parameter",
                "dis:Instruction",
                "threading:Thread",
                "typing:Any",
                "no:thing",
            ),
        ]
    ),
    st.text(max_size=8),
)
tree_atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=6),
    class_names.filter(lambda name: name.isprintable()),
    st.sampled_from(
        ["nan", "inf", "2024-01-01", "2024-01-01T00:00:00", "12:00:00", "AAE=", "1.5", "list", "pytz", *ZONE_NAMES]
    ),
    st.sampled_from(["RED", "number", "lines", "PosixPath", "0xff", "12345678-1234-5678-1234-567812345678"]),
)
field_names = st.sampled_from(
    ["", "number", "lines", "x", "y", "a", "name", "wheels", "__pydantic_fields_set__", "__class__", "__dict__"]
)
trees = st.recursive(
    tree_atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3),
        st.builds(lambda tag, payload: {tag: payload}, st.sampled_from(sorted(TAGS)), inner),
        st.builds(
            lambda tag, name, payload: {tag: [name, payload]},
            st.sampled_from(sorted(TAGS)),
            class_names.filter(lambda name: name.isprintable()),
            inner | st.dictionaries(field_names, inner, max_size=3),
        ),
        st.builds(
            lambda tag, pairs: {tag: pairs},
            st.sampled_from(sorted(TAGS)),
            st.lists(st.lists(inner, min_size=2, max_size=2), max_size=3),
        ),
    ),
    max_leaves=10,
)


@given(trees)
@settings(max_examples=400)
def test_any_tree_gives_a_value_or_a_decode_error_and_runs_nothing(tree):
    models.RAN.clear()
    for name in ("Nowhere", "No/Where"):
        with contextlib.suppress(KeyError):
            zoneinfo.ZoneInfo(name)  # imports what zoneinfo itself needs to look into tzdata
    before = orjson.dumps(tree)
    modules = set(sys.modules)
    try:
        value = CODEC.from_tree(tree, "here")
    except DecodeError as error:
        assert error.place.startswith("here")  # noqa: PT017 - one of two fine outcomes
    else:
        text = CODEC.encode(value)
        assert CODEC.encode(CODEC.decode(text)) == text
    assert orjson.dumps(tree) == before
    assert models.RAN == []
    assert {name for name in set(sys.modules) - modules if not name.startswith("tzdata")} == set()


@given(values, st.data())
def test_a_text_cut_or_spoilt_anywhere_gives_a_value_or_a_decode_error(value, data):
    text = CODEC.encode(value)
    assume(text)
    cut = data.draw(st.integers(0, len(text) - 1))
    spoilt = bytearray(text)
    spoilt[cut] = data.draw(st.integers(0, 255))
    for wrong in (text[:cut], bytes(spoilt), text[cut:], text[:cut] + text[cut + 1 :]):
        with contextlib.suppress(DecodeError):
            CODEC.decode(wrong)


def test_a_text_cut_at_each_byte_is_a_decode_error():
    everything = [
        {1: (2, {3})},
        models.Order(1, [models.Item("a")], "ä"),
        datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        2**70,
        "\ud800",
        b"bytes",
        models.Person(name="A"),
    ]
    text = CODEC.encode(everything)
    for end in range(len(text)):
        with pytest.raises(DecodeError):
            CODEC.decode(text[:end])
    assert is_exact(CODEC.decode(text), everything)


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_text_gives_a_tree_or_a_decode_error(text):
    try:
        tree = loads(text)
    except DecodeError:
        return
    assert loads(orjson.dumps(tree)) == tree


@given(values)
@settings(max_examples=50)
def test_encoding_never_changes_the_value(value):
    text = CODEC.encode(value)
    with pytest.raises(EncodeError):
        CODEC.encode([value, threading.Lock()])
    assert CODEC.encode(value) == text
