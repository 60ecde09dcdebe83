"""Payloads that do not fit their tag: each is a DecodeError at its place, and nothing else happens."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.codec.decode import TAGS
from ptb_kvpersistence.codec.tags import ATTRIBUTE_TAGS
from ptb_kvpersistence.errors import DecodeError
from tests import codec_models as models

MODELS = "tests.codec_models"
NOTHINGS: list[Any] = [
    None,
    True,
    5,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [1, 2],
    [[1, 2]],
    [1, 2, 3],
    ["x", {}],
    ["x", {}, 1],
]
FINE = {
    "$tuple": NOTHINGS,  # any list is fine; the other payloads are tried below
    "$set": [[], [None], [1, 2], [1, 2, 3]],
    "$frozenset": [[], [None], [1, 2], [1, 2, 3]],
    "$dict": [[], [[1, 2]]],
    "$OrderedDict": [[], [[1, 2]]],
    "$Counter": [[], [[1, 2]]],
    "$range": [[1, 2, 3]],
    "$bytes": [""],
    "$bytearray": [""],
    "$str": [[]],
    "$timezone": [None],
    "$timedelta": [[1, 2, 3]],
}

WRONG_OBJECTS: list[Any] = [
    *(
        [f"{MODELS}:RecorderObject", {}],
        [f"{MODELS}:Order", [1]],
        [f"{MODELS}:Order", None],
        [f"{MODELS}:Order"],
    ),
    *([f"{MODELS}:Order", {}, 5], [f"{MODELS}:Order", {}, [5]], [f"{MODELS}:Order", {"number": {"$bad": 1}}]),
    *(
        [f"{MODELS}:SlottedOrder", {"number": 1, "evil": 1}],
        [f"{MODELS}:Color", {}],
        [f"{MODELS}:Point", {"x": 1}],
    ),
    *(
        [f"{MODELS}:Car", {"wheels": 4, "evil": 1}],
        [f"{MODELS}:Lines", {}],
        [f"{MODELS}:Lines", {"": {"$tuple": []}}],
    ),
    *([f"{MODELS}:Lines", {"": {"a": 1}}], [f"{MODELS}:Plain", {"": {}}], [f"{MODELS}:Order", {"": []}]),
    *([f"{MODELS}:Person", {"__pydantic_fields_set__": []}], [f"{MODELS}:Person", {"__pydantic_extra__": 5}]),
    *([f"{MODELS}:Person", {"__pydantic_fields_set__": {"$set": [1]}}], [f"{MODELS}:Number", {"": "5"}]),
    *(
        [f"{MODELS}:Number", {"": True}],
        ["builtins:object", {}],
        ["builtins:type", {}],
        ["types:FunctionType", {}],
    ),
    *(["os:_Environ", {}], ["subprocess:Popen", {}], ["threading:Thread", {}], [5, {}], [None, {}]),
]
WRONG: dict[str, list[Any]] = {
    "$tuple": ["abc", {"a": 1}, None],
    "$set": [[[1]], [{}], [{"$set": []}], [{"$tuple": [[1]]}], [{"$bytearray": ""}], [{"$decimal": "sNaN"}]],
    "$frozenset": [[{"$deque": [[], None]}], [{"$defaultdict": [None, []]}], [{"$object": [f"{MODELS}:Plain", {}]}]],
    "$dict": [{"a": 1}, [[1]], [[1, 2, 3]], [[[], 1]], [[{"$dict": []}, 1]], ["ab"], [{"a": 1, "b": 2}]],
    "$OrderedDict": [[[{}, 1]]],
    "$Counter": [[[[], 1]]],
    "$defaultdict": [
        ["os.system", []],
        ["print", []],
        ["eval", []],
        [5, []],
        [["list"], []],
        ["list", [[[], 1]]],
        ["tests.codec_models:Order", []],
    ],
    "$deque": [
        [[1, 2], 1],
        [[1], -1],
        [[], True],
        [[], 1.0],
        [[], 2**63],
        [[], 2**64 - 1],
        [{"a": 1}, None],
        ["ab", None],
        [[], "1"],
    ],
    "$range": [[0, 1, 0], [0, 1.5, 1], [True, 2, 1], [0, 1], [0, 1, {"$int": "x"}], [0, 1, {"$float": "nan"}]],
    "$int": [
        "",
        " 1",
        "1 ",
        "01",
        "-0",
        "+1",
        "1_000",
        "0x",
        "0xg",
        "0x01",
        "1e5",
        "١",
        "9" * 4301,
        "0x_1",
        5,
        "-",
        "--1",
    ],
    "$float": ["1.0", "NaN", "infinity", "+inf", 1.5, "nan "],
    "$complex": [[1, 2], [1.0], [1.0, None], [1.0, {"$complex": [1.0, 1.0]}], "1j"],
    "$bytes": ["a", "a===", "ä", "AA==\n", "A A=", "****", 5],
    "$bytearray": ["a"],
    "$str": ["a", [0x41], [0xE000], [-1], [2**63], [True], [55296.0], [["a"]], {"a": 1}],
    "$decimal": [
        "",
        " 1",
        "1_0",
        "1,5",
        "abc",
        "1e5",
        "Inf",
        "١",
        "1E+9999999999999999999999",
        "--1",
        ".",
        "0x1",
        5,
        "NaN ",
    ],
    "$uuid": [
        "",
        "x",
        "{12345678-1234-5678-1234-567812345678}",
        "12345678123456781234567812345678",
        "urn:uuid:1",
        "A" * 36,
        5,
    ],
    "$path": [
        ["Path", "a"],
        ["PosixPath"],
        ["PosixPath", 5],
        ["PosixPath", ["a"]],
        [5, "a"],
        ["os", "a"],
        [["PosixPath"], "a"],
    ],
    "$date": [
        "2024-02-30",
        "2024-2-3",
        "20240203",
        "2024-W01-1",
        "0000-01-01",
        "10000-01-01",
        "x",
        "2024-01-01T00:00:00",
        ["2024-01-01"],
    ],
    "$datetime": [
        *(
            "2024-01-01",
            "2024-01-01 00:00:00",
            "2024-01-01T00:00:00Z",
            "2024-01-01T24:00:00",
            "2024-01-01T00:00:00+24:00",
        ),
        *("2024-01-01T00:00", "2024-01-01T00:00:00.1", "2024-01-01T00:00:00,000001", "x" * 10000),
        *(["2024-01-01T00:00:00", None, 2], ["2024-01-01T00:00:00", None, True], ["2024-01-01T00:00:00", 5, 0]),
        *(["2024-01-01T00:00:00", None], ["2024-01-01T00:00:00+00:00", None, 0], ["x", None, 0], [None, None, 0]),
        ["2024-01-01T00:00:00", {"$object": [f"{MODELS}:Plain", {}]}, 0],
        ["2024-01-01T00:00:00", {"$enum": [f"{MODELS}:Color", "RED"]}, 0],
    ],
    "$time": ["24:00:00", "1:00:00", "00:00", "T00:00:00", ["00:00:00", None, -1], 5],
    "$timedelta": [
        [0, 86400, 0],
        [0, -1, 0],
        [0, 0, 10**6],
        [10**9, 0, 0],
        [-(10**9), 0, 0],
        [True, 0, 0],
        [0.0, 0, 0],
        [0, 0],
        [2**64 - 1, 0, 0],
    ],
    "$timezone": [
        *(
            "",
            "Mars/Phobos",
            "../../etc/passwd",
            "/etc/passwd",
            "Europe",
            "Europe/",
            "a\0b",
            "..",
            "x" * 5000,
            ".",
            "C:\\x",
        ),
        *("tzdata", "posixrules/..", "Europe/Berlin\n", "ä", "zone.tab", "con", "Europe//Berlin", 5, True),
        *([[1, 0, 0], None], [[-1, 0, 0], None], [[0, 0, 0], 5], [[0, 0], None], [[0, 0, 0]], [0, None]),
        *(["pytz"], ["pytz", 5], ["pytz", "Mars/Phobos"], ["pytz", "UTC", 1], ["pytz", "UTC", 10**6, 0, "x"]),
        *(["pytz", "../x"], ["pytz", "UTC", "1", 0, "x"], ["pytz", "UTC", True, 0, "x"]),
    ],
    "$enum": [
        *([f"{MODELS}:Color", "PINK"], [f"{MODELS}:Color", 1], [f"{MODELS}:Color", ["RED"]], [f"{MODELS}:Color"]),
        *([f"{MODELS}:Order", "number"], [f"{MODELS}:Nothing", "RED"], ["Color", "RED"], ["", "RED"], [":", "RED"]),
        *([f"{MODELS}:Color.RED", "RED"], ["enum:Enum", "RED"], [None, "RED"], [{}, "RED"], ["a:b:c", "RED"], "RED"),
        *([f"{MODELS}:Color", "_member_map_"], [f"{MODELS}:", "RED"], [f"{MODELS}:RAN", "x"], [f"{MODELS}:RAN.x", "x"]),
    ],
    "$flag": [
        *([f"{MODELS}:Rights", "READ"], [f"{MODELS}:Rights", True], [f"{MODELS}:Rights", 1.0], [f"{MODELS}:Color", 1]),
        *([f"{MODELS}:Rights", 2**63], [f"{MODELS}:Rights", {"$int": "x"}], [f"{MODELS}:Rights"], ["enum:Flag", 1]),
    ],
    "$namedtuple": [
        *(
            [f"{MODELS}:Point", {}],
            [f"{MODELS}:Point", {"x": 1, "z": 1}],
            [f"{MODELS}:Point", [1, 2]],
            [f"{MODELS}:Point", None],
        ),
        *([f"{MODELS}:Pair", {"x": 1}], [f"{MODELS}:Order", {"number": 1}], [f"{MODELS}:Point", {"x": 1}, 5]),
        *([f"{MODELS}:Point", {"x": 1}, {"a": 1}], ["builtins:tuple", {}], [f"{MODELS}:Point", {"x": 1}, {}, 1]),
    ],
    **dict.fromkeys(ATTRIBUTE_TAGS, WRONG_OBJECTS),
}


@pytest.fixture
def codec():
    return Codec(models.REGISTERED)


@pytest.fixture(autouse=True)
def nothing_ran():
    models.RAN.clear()
    yield
    assert models.RAN == []


def test_every_tag_is_attacked():
    assert WRONG.keys() == TAGS


@pytest.mark.parametrize("tag", sorted(TAGS))
def test_wrong_payloads_are_decode_errors_at_their_place(codec, tag):
    fine = FINE.get(tag, ())
    for payload in (
        *WRONG[tag],
        *(wrong for wrong in NOTHINGS if not any(wrong is good for good in fine) and wrong not in fine),
    ):
        text = json.dumps({"a": [0, {tag: payload}]})
        with pytest.raises(DecodeError) as caught:
            pytest.fail(f"{tag} took {payload!r}: {codec.decode(text, 'user_data[7]')!r}")
        assert caught.value.place.startswith("user_data[7]['a'][1]"), payload
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "tag", ["$", "$$", "$Tuple", "$tuple ", "$new", "$telegram", "$pickle", "$" + "x" * 1000, "$\n"]
)
def test_unknown_tags_are_named(codec, tag):
    for text in (json.dumps({tag: []}), json.dumps([{"a": {tag: 1}}])):
        with pytest.raises(DecodeError, match=r"unknown tag '\$.*written by a newer version\?") as caught:
            codec.decode(text)
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


PLACES = [
    ('{"a":[{"$bad":1}]}', "['a'][0]"),
    ('{"$tuple":[1,{"$bad":1}]}', "[1]"),
    ('{"$dict":[[5,{"$bad":1}]]}', "[5]"),
    ('{"$dict":[[5,1],[{"$tuple":[{"$bad":1}]},1]]}', ".<key 1>[0]"),
    ('{"$set":[1,{"$tuple":[{"$bad":1}]}]}', ".<element 1>[0]"),
    ('{"$set":[1,[]]}', ".<element 1>"),
    ('{"$OrderedDict":[["k",{"$bad":1}]]}', "['k']"),
    ('{"$deque":[[1,{"$bad":1}],null]}', "[1]"),
    ('{"$dataclass":["tests.codec_models:Order",{"number":[{"$bad":1}]}]}', ".number[0]"),
    ('{"$namedtuple":["tests.codec_models:Point",{"y":{"$bad":1},"x":1}]}', ".y"),
    ('{"$object":["tests.codec_models:CartDict",{"":{"k":{"$bad":1}}}]}', "['k']"),
    ('{"$int":"x"}', ""),
]


@pytest.mark.parametrize(("text", "place"), PLACES, ids=[text[:40] for text, _ in PLACES])
def test_the_place_is_exact(codec, text, place):
    with pytest.raises(DecodeError) as caught:
        codec.decode(f'{{"x":[0,{text}]}}', "chat_data[-5]")
    assert caught.value.place == "chat_data[-5]['x'][1]" + place
    assert str(caught.value) == f"{caught.value.place}: {caught.value.reason}"


def test_messages_hold_no_values(codec):
    for tag in TAGS:
        for payload in ("secret", ["secret"], [["secret"]], {"a": "secret"}, [f"{MODELS}:Order", "secret"]):
            try:
                codec.decode(json.dumps({"a": {tag: payload}}))
            except DecodeError as error:
                assert "secret" not in str(error) or tag in ("$timezone", "$flag", "$enum"), (tag, payload)  # noqa: PT017 - names
            except Exception as error:
                pytest.fail(f"{tag}: {error!r}")


@pytest.mark.parametrize(
    "opening", ['{"$tuple":[', '{"$set":[', '{"$dict":[[1,', '{"$dict":[[', '{"$deque":[[', '{"a":{"$tuple":[']
)
def test_deep_nesting_is_a_decode_error_or_a_value(codec, opening):
    closing = {"{": "}", "[": "]"}
    for depth in (10, 50, 100, 250, 500, 1000, 100_000):
        ends = "".join(closing[character] for character in reversed(opening) if character in closing)
        for text in (opening * depth + ends * depth, opening * depth + "1" + ends * depth):
            try:
                codec.decode(text)
            except DecodeError:
                continue
            assert depth <= 250


def test_deep_recursion_below_a_deep_stack_is_a_decode_error_or_an_encode_error(codec):
    value = 1
    for _ in range(60):
        value = (value,)
    text = codec.encode(value)

    def at_depth(depth):
        if depth:
            return at_depth(depth - 1)
        outcomes = []
        for work in (lambda: codec.decode(text), lambda: codec.encode(value)):
            try:
                outcomes.append(work() in (value, text))
            except (TypeError, ValueError) as error:
                assert "deeply" in str(error)  # noqa: PT017 - depends on the depth of the test's own stack
        return outcomes

    limit = sys.getrecursionlimit()
    outcomes = []
    for depth in range(limit // 2, limit - 20, 7):
        try:
            outcomes.append(at_depth(depth))
        except RecursionError:  # the test's own
            break
    assert [True, True] in outcomes


def test_big_numbers_and_sizes_cost_nothing(codec):
    assert len(codec.decode('{"$range":[0,18446744073709551615,1]}')[:5]) == 5
    assert codec.decode('{"$deque":[[],9223372036854775807]}').maxlen == 2**63 - 1
    assert codec.decode('{"$int":"0x' + "f" * 100_000 + '"}').bit_length() == 400_000
    assert codec.decode('{"$decimal":"' + "9" * 5000 + '"}').adjusted() == 4999
    assert codec.decode('{"$decimal":"1E+999999999999999999"}').adjusted() == 999999999999999999


def test_a_key_whose_class_raises_is_a_decode_error():
    class Hashless(models.Plain):
        def __hash__(self):
            raise ZeroDivisionError("secret")

    class Equalless(models.Plain):
        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise ZeroDivisionError("secret")

    for cls in (Hashless, Equalless):
        cls.__qualname__ = "Key"
        codec = Codec([cls])
        for template in ('{"$set":[%s,%s]}', '{"$dict":[[%s,1],[%s,1]]}'):
            key = f'{{"$object":["{__name__}:Key",{{}}]}}'
            with pytest.raises(DecodeError) as caught:
                codec.decode(template % (key, key))
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert "secret" not in str(caught.value)
