"""DictPersistence's strings, with a real DictPersistence at the other end."""

from __future__ import annotations

import enum
import json
import math
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telegram.ext import DictPersistence

from ptb_kvpersistence.errors import ConfigurationError, EncodeError
from ptb_kvpersistence.persistence.dict_json import format_dict_json, parse_dict_json
from ptb_kvpersistence.persistence.sections import Sections

SECTIONS = Sections(
    user_data={1: {"name": "Ada", 7: ["x", {"y": None}]}, -2: {}},
    chat_data={-100123: {"pi": 3.5, "yes": True}},
    bot_data={"12": "stays a str here", "nested": {"3": {"4": 5}}},
    conversations={"order": {(1, 2): 0, (3, "inline-id"): "ADDRESS"}, "empty": {}},
    callback_data=([("uuid-1", 17.25, {"button": {"a": [1]}}), ("uuid-2", 3.0, {})], {"query": "uuid-2"}),
)


async def held_by(persistence: DictPersistence, names: tuple[str, ...] = ("order", "empty")) -> Sections:
    return Sections(
        user_data=await persistence.get_user_data(),
        chat_data=await persistence.get_chat_data(),
        bot_data=await persistence.get_bot_data(),
        conversations={name: await persistence.get_conversations(name) for name in names},  # type: ignore[misc]
        callback_data=await persistence.get_callback_data(),
    )


def strings_of(persistence: DictPersistence) -> dict[str, str]:
    return {
        name: getattr(persistence, name)
        for name in (
            "user_data_json",
            "chat_data_json",
            "bot_data_json",
            "conversations_json",
            "callback_data_json",
        )
    }


async def test_a_real_dict_persistence_holds_what_we_wrote():
    assert await held_by(DictPersistence(**format_dict_json(SECTIONS))) == SECTIONS


async def test_we_hold_what_a_real_dict_persistence_wrote():
    persistence = DictPersistence()
    await persistence.update_user_data(1, {"name": "Ada", 7: ["x", {"y": None}]})
    await persistence.update_user_data(-2, {})
    await persistence.update_chat_data(-100123, {"pi": 3.5, "yes": True})
    await persistence.update_bot_data({"12": "stays a str here", "nested": {"3": {"4": 5}}})
    await persistence.update_conversation("order", (1, 2), 0)
    await persistence.update_conversation("order", (3, "inline-id"), "ADDRESS")
    await persistence.update_callback_data(deepcopy(SECTIONS.callback_data))
    parsed = parse_dict_json(**strings_of(persistence))
    assert parsed.user_data == SECTIONS.user_data
    assert parsed.chat_data == SECTIONS.chat_data
    assert parsed.bot_data == SECTIONS.bot_data
    assert parsed.conversations == {"order": SECTIONS.conversations["order"]}
    assert parsed.callback_data == SECTIONS.callback_data


@pytest.mark.parametrize("key", ["7", " 7", "1_000", "٣", "-0", "7.0", "", "x", "9" * 5000])
async def test_first_level_keys_are_guessed_as_dict_persistence_guesses_them(key):
    text = json.dumps({"5": {key: {key: key}}})
    theirs = await DictPersistence(user_data_json=text).get_user_data()
    ours = parse_dict_json(user_data_json=text).user_data
    assert ours == theirs
    assert [type(name) for name in ours[5]] == [type(name) for name in theirs[5]]


async def test_nothing_stored_stays_nothing():
    assert parse_dict_json() == Sections()
    assert parse_dict_json(**strings_of(DictPersistence())) == Sections(), "it writes null for what it does not hold"
    assert set(format_dict_json(Sections()).values()) == {""}
    empty = Sections(user_data={}, chat_data={}, bot_data={}, conversations={}, callback_data=([], {}))
    assert parse_dict_json(**format_dict_json(empty)) == empty


async def test_ended_conversations_are_gone():
    persistence = DictPersistence()
    await persistence.update_conversation("order", (1, 2), 4)
    await persistence.update_conversation("order", (1, 3), 5)
    await persistence.update_conversation("order", (1, 3), None)
    assert persistence.conversations["order"] == {(1, 2): 4, (1, 3): None}
    assert parse_dict_json(**strings_of(persistence)).conversations == {"order": {(1, 2): 4}}
    written = format_dict_json(Sections(conversations={"order": {(1, 2): 4, (1, 3): None}}))
    assert await DictPersistence(**written).get_conversations("order") == {(1, 2): 4}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENTITY = st.dictionaries(st.text("ab c", max_size=3) | st.integers(), PLAIN, max_size=3)
CONVERSATIONS = st.dictionaries(
    st.sampled_from(["order", "empty"]),
    st.dictionaries(st.tuples(st.integers(), st.integers() | st.text()), PLAIN.filter(lambda state: state is not None)),
)


@given(st.dictionaries(st.integers(), ENTITY, max_size=3), st.dictionaries(st.text(), PLAIN, max_size=3), CONVERSATIONS)
async def test_what_is_accepted_comes_back_equal(user_data, bot_data, conversations):
    sections = Sections(user_data=user_data, bot_data=bot_data, conversations=conversations)
    strings = format_dict_json(sections)
    assert parse_dict_json(**strings) == sections
    real = DictPersistence(**strings)
    assert repr(await real.get_user_data()) == repr(user_data), "types and order too"
    assert await real.get_bot_data() == bot_data
    assert {name: await real.get_conversations(name) for name in conversations} == conversations


async def test_not_a_number_survives_as_in_dict_persistence():
    strings = format_dict_json(Sections(bot_data={"x": math.nan}))
    assert math.isnan((await DictPersistence(**strings).get_bot_data())["x"])


class Colour(enum.IntEnum):
    RED = 1


class Custom:
    pass


def circle() -> dict:
    value: dict = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("section", "value", "place", "word"),
    [
        ("user_data", {42: {"cart": [{"when": {1}}]}}, "user_data[42]['cart'][0]['when']", "set"),
        ("user_data", {42: {"cart": (1,)}}, "user_data[42]['cart']", "tuple"),
        ("user_data", {42: {"12": 1}}, "user_data[42]['12']", "as the int 12"),
        ("user_data", {42: {True: 1}}, "user_data[42][True]", "bool"),
        ("user_data", {42: {None: 1}}, "user_data[42][None]", "NoneType"),
        ("user_data", {42: {"a": {5: 1}}}, "user_data[42]['a'][5]", "int key as a str"),
        ("user_data", {42: Custom()}, "user_data[42]", "Custom"),
        ("user_data", {"42": {}}, "user_data['42']", "str where a int"),
        ("chat_data", {42: {"a": Colour.RED}}, "chat_data[42]['a']", "Colour"),
        ("bot_data", {5: 1}, "bot_data[5]", "int key as a str"),
        ("bot_data", Custom(), "bot_data", "Custom"),
        ("bot_data", circle(), "bot_data", "circular"),
        ("bot_data", {"n": 10**5000}, "bot_data", "4300"),
        ("conversations", {"order": {(1, 2): Colour.RED}}, "conversations['order'][(1, 2)]", "Colour"),
        ("conversations", {"order": {7: 1}}, "conversations['order'][7]", "tuples"),
        ("conversations", {"order": {(1, (2, 3)): 1}}, "conversations['order'][(1, (2, 3))]", "plain ids"),
        ("callback_data", ([("u", 1.0, {"b": b"x"})], {}), "callback_data[0][0][2]['b']", "bytes"),
        ("callback_data", ([("u", 1, {})], {}), "callback_data[0][0][1]", "float"),
        ("callback_data", ([], {"q": ()}), "callback_data[1]['q']", "tuple"),
    ],
)
def test_what_would_come_back_different_is_refused_with_its_place(section, value, place, word):
    with pytest.raises(EncodeError) as caught:
        format_dict_json(Sections(**{section: value}))
    assert caught.value.place == place
    assert word in caught.value.reason
    assert "DictPersistence keeps plain JSON only" in str(caught.value)


def test_depth_is_refused_not_a_crash():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="nested too deeply"):
        format_dict_json(Sections(bot_data={"deep": deep}))
    with pytest.raises(ConfigurationError):
        parse_dict_json(bot_data_json="[" * 100_000)


@pytest.mark.parametrize(
    ("argument", "text", "place"),
    [
        ("user_data_json", "{", "user_data_json: not valid JSON"),
        ("user_data_json", "[]", "user_data_json"),
        ("user_data_json", '{"x": {}}', "user_data_json['x']"),
        ("chat_data_json", '{"5": []}', "chat_data_json['5']"),
        ("bot_data_json", "5", "bot_data_json"),
        ("conversations_json", '{"order": 1}', "conversations_json['order']"),
        ("conversations_json", '{"order": {"x": 1}}', "conversations_json['order']['x']"),
        ("conversations_json", '{"order": {"5": 1}}', "conversations_json['order']['5']"),
        ("conversations_json", '{"order": {"[[1]]": 1}}', "conversations_json['order']['[[1]]']"),
        ("callback_data_json", "{}", "callback_data_json"),
        ("callback_data_json", "[]", "callback_data_json"),
        ("callback_data_json", '[["x"], {}]', "callback_data_json"),
        ("callback_data_json", '[[["u", "?", {}]], {}]', "callback_data_json"),
        ("callback_data_json", '[[["u", 1, []]], {}]', "callback_data_json[0][0]"),
        ("callback_data_json", '[[], {"q": 1}]', "callback_data_json[1]"),
    ],
)
def test_wrong_strings_are_refused_with_their_place(argument, text, place):
    with pytest.raises(ConfigurationError) as caught:
        parse_dict_json(**{argument: text})
    assert str(caught.value).startswith(place)
    assert "DictPersistence" in str(caught.value)
