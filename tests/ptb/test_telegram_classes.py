"""Every class of the installed python-telegram-bot through the codec, and what other versions of it wrote."""

from __future__ import annotations

import copy
import json
from types import MappingProxyType

import pytest
import telegram
from telegram import ChatMemberOwner, TelegramObject, User
from telegram.constants import ChatType

from ptb_kvpersistence.codec.classes import shape_of
from ptb_kvpersistence.errors import DecodeError
from ptb_kvpersistence.persistence import telegram_codec, telegram_form
from ptb_kvpersistence.persistence import telegram_private as own
from ptb_kvpersistence.persistence.telegram_older import rebuild_older
from tests.ptb.telegram_checks import (
    BOT,
    CLASSES,
    GOLDEN,
    NO_BOT,
    NOW,
    assert_same,
    is_comparable,
    is_state,
    make_codec,
    make_message,
    parts_of,
    payload_of,
    round_trip,
    samples_of,
)
from tests.ptb.telegram_samples import ALL, BY_NAME

# --- every class of PTB ---


@CLASSES
def test_objects_of_every_class_come_back_the_same(cls):
    for value in samples_of(cls):
        codec = make_codec()
        text = codec.encode(value)
        again = codec.decode(text)
        assert_same(again, value)
        assert codec.encode(again) == text
        assert {type(part).__name__ for part in parts_of(again) if part._bot is not BOT} <= NO_BOT
        assert again._bot is BOT
        if is_comparable(value):
            assert (again == value, hash(again) == hash(value)) == (True, True)


@pytest.mark.parametrize("name", ["Voice", "Poll", "Location", "MessageAutoDeleteTimerChanged", "ChatInviteLink"])
def test_periods_are_as_ptb_is_told(name, monkeypatch):
    for setting in ("", "true", ""):  # what one wrote, the other reads
        value = samples_of(BY_NAME[name])[0]
        text = make_codec().encode(value)
        monkeypatch.setenv("PTB_TIMEDELTA", setting)
        assert_same(make_codec().decode(text), value)


@CLASSES
def test_the_json_form_is_what_to_dict_gives(cls):
    for value in samples_of(cls):
        payload = payload_of(value)
        if not is_state(payload):
            assert payload == [cls.__name__, json.loads(value.to_json())]


@CLASSES
def test_what_de_json_refuses_is_built_from_its_fields(cls):
    for value in samples_of(cls):
        payload = payload_of(value)
        if not is_state(payload):
            assert_same(rebuild_older(cls, payload[1], None), value)


def test_what_bots_receive_is_stored_as_the_bot_apis_json():
    received = [
        "User",
        "Chat",
        "Location",
        "Contact",
        "PhotoSize",
        "Document",
        "Voice",
        "Video",
        "Sticker",
        "Poll",
        "Dice",
    ]
    received += ["ChatMemberOwner", "ChatMemberRestricted", "ChatInviteLink", "ReactionTypeEmoji", "MessageOriginUser"]
    received += ["BotCommandScopeChat", "InlineQuery", "ChosenInlineResult", "PollAnswer", "BotCommand", "WebAppData"]
    for name in received:
        full, least, *_ = samples_of(BY_NAME[name])
        assert not is_state(payload_of(full)), name
        assert not is_state(payload_of(least)), name


@CLASSES
def test_api_kwargs_are_kept(cls):
    for value in samples_of(cls)[:2]:
        for api_kwargs in ({"new_field": {"a": [1, (2,)]}}, {"none": None, "date": 1}, {"$tuple": [1]}, {"state": {}}):
            other = copy.copy(value)
            object.__setattr__(other, "_frozen", False)
            other.api_kwargs = MappingProxyType(api_kwargs)
            assert_same(round_trip(other), other)


# --- other versions of PTB ---


RENAMED = {"correct_option_id": "correct_option_ids"}


def has_all(stored, again):
    """Whether everything stored is there again; some fields are others in a newer PTB."""
    if isinstance(stored, dict):
        kept = [key for key in stored if key in again]
        gone = [key for key in stored if key not in again]
        return all(has_all(stored[key], again[key]) for key in kept) and all(
            [stored[key]] == again[RENAMED[key]] for key in gone
        )
    if isinstance(stored, list):
        return len(stored) == len(again) and all(map(has_all, stored, again))
    return stored == again


@pytest.mark.parametrize("version", ["21.6", "22.8"])
def test_what_another_ptb_wrote_can_be_read(version):
    codec = make_codec()
    unknown = read = 0
    for line in (GOLDEN / f"{version}.jsonl").read_text().splitlines():
        name, stored = json.loads(line)["$telegram"]
        if name not in BY_NAME:
            unknown += 1
            with pytest.raises(DecodeError, match="written by a newer one"):
                codec.decode(line)
            continue
        value = codec.decode(line)
        read += 1
        assert type(value) is BY_NAME[name]
        assert value._bot is BOT
        if not is_state([name, stored]):
            assert has_all(stored, json.loads(value.to_json()))
        assert_same(codec.decode(codec.encode(value)), value)
    assert read > 200
    assert unknown == 0 or version > telegram.__version__


def test_a_poll_from_before_options_had_ids():
    data = {"id": "1", "question": "?", "options": [{"text": "a", "voter_count": 1}], "total_voter_count": 1}
    data |= {"is_closed": False, "is_anonymous": True, "type": "quiz", "allows_multiple_answers": False}
    message = {"message_id": 1, "date": 1709209800, "chat": {"id": 1, "type": "private"}, "poll": data, "unheard_of": 1}
    again = make_codec().decode(json.dumps({"$telegram": ["Message", message]}))
    assert (type(again.poll.options[0]), again.poll.options[0].text) == (telegram.PollOption, "a")
    assert getattr(again.poll.options[0], "persistent_id", None) is None
    assert (again.date, again.api_kwargs, again.poll.options[0].get_bot()) == (NOW, {"unheard_of": 1}, BOT)
    assert_same(round_trip(again), again)


def test_periods_that_changed_their_type_between_versions():
    slots = shape_of(telegram.Voice).slots
    as_number = {"file_id": "a", "file_unique_id": "b", "duration": 5, "_id_attrs": ["file_unique_id"]}
    as_period = {
        "file_id": "a",
        "file_unique_id": "b",
        "_duration": {"$timedelta": [0, 5, 0]},
        "_id_attrs": ["file_unique_id"],
    }
    for state in (as_number, as_period):
        voice = make_codec().decode(json.dumps({"$telegram": ["Voice", {"state": state}]}))
        assert_same(voice, telegram.Voice("a", "b", 5))
        assert "duration" in slots or "_duration" in slots


def test_a_state_with_attributes_and_constants_of_another_version():
    state = {
        "id": 1,
        "gift": {"$telegram": ["NoSuchGift", {"x": 1}]},
        "level": 3,
        "_hidden": 4,
        "username": {"$telegram": ["constants.NoSuchEnum", "x"]},
        "first_name": {"$telegram": ["constants.ChatType", "private"]},
    }
    user = make_codec().decode(json.dumps({"$telegram": ["User", {"state": state}]}))
    assert user.api_kwargs == {"gift": {"$telegram": ["NoSuchGift", {"x": 1}]}, "level": 3}
    assert (user.username, user.first_name, user.last_name) == ("x", ChatType.PRIVATE, None)
    assert_same(round_trip(user), user)


def test_loading_survives_warnings_as_errors():
    data = {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private"}}
    data["message_auto_delete_timer_changed"] = {"message_auto_delete_time": 5}
    text = json.dumps({"$telegram": ["Message", data]})
    message = make_codec().decode(text)  # pytest makes them errors
    assert message.message_auto_delete_timer_changed.to_dict() == {"message_auto_delete_time": 5}
    assert_same(round_trip(message), message)


# --- what PTB keeps to itself ---


def test_the_private_names_are_those_of_the_installed_ptb():
    """Fails when PTB gets a private attribute that nobody has looked at."""
    private = {name for cls in ALL for name in shape_of(cls).slots if name[0] == "_"}
    known = own.CACHES | {own.BOT, own.FROZEN, own.ID_ATTRS, "_credentials"}
    periods = {"_duration", "_gif_duration", "_mpeg4_duration", "_video_duration", "_audio_duration", "_voice_duration"}
    periods |= {"_live_period", "_open_period", "_subscription_period", "_message_auto_delete_time", "_slow_mode_delay"}
    assert private <= known | periods | {"_start_timestamp", "_file_date", "_file_hashes"}
    assert {own.BOT, own.FROZEN, own.ID_ATTRS, own.API_KWARGS} <= set(shape_of(TelegramObject).slots)
    message = make_message()
    for name, empty in own.UNFILLED_CACHES.items():
        assert getattr(message, name) is empty
    unfilled = [(cls, name) for cls in ALL for name in own.CACHES if name in shape_of(cls).slots]
    for cls, name in unfilled:
        assert getattr(samples_of(cls)[1], name) is own.UNFILLED_CACHES.get(name)
    assert own.default_value(None) is own.UNFILLED_CACHES["_effective_attachment"]
    assert type(own.default_value("other")) is own.DefaultValue
    assert own.may_read_files(telegram.InputMediaPhoto)
    assert not own.may_read_files(telegram.Message)


def test_every_class_of_ptb_is_known():
    assert {cls.__name__: cls for cls in ALL} | {"TelegramObject": TelegramObject} == telegram_form.CLASSES
    reserved = {"DefaultValue", *telegram_form.ERRORS}
    assert not reserved & set(telegram_form.CLASSES)
    assert not [name for name in telegram_form.CLASSES if name.startswith(telegram_codec.telegram_state.CONSTANTS)]


def test_a_class_that_its_base_chooses_is_found_in_any_order():
    owner = ChatMemberOwner(User(1, "A", False), False)
    data = {"user": {"id": 1, "first_name": "A", "is_bot": False}, "is_anonymous": False}
    assert_same(make_codec().decode(json.dumps({"$telegram": ["ChatMemberOwner", data]})), owner)
    assert payload_of(owner) == ["ChatMemberOwner", {**data, "status": "creator"}]
    assert_same(round_trip(owner), owner)
