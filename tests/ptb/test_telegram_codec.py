"""Telegram objects and bots through the codec, on the installed python-telegram-bot."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
import telegram
import telegram.constants
import telegram.ext
from telegram import (
    Bot,
    CallbackQuery,
    Chat,
    LinkPreviewOptions,
    Message,
    Update,
    User,
)
from telegram.constants import ChatType, ParseMode
from telegram.error import RetryAfter, TelegramError
from telegram.ext import Defaults, ExtBot, InvalidCallbackData

from ptb_kvpersistence.codec.core import Codec
from ptb_kvpersistence.errors import DecodeError, EncodeError
from ptb_kvpersistence.persistence import telegram_form
from ptb_kvpersistence.persistence.telegram_codec import TelegramExtension
from tests.ptb.telegram_checks import (
    BOT,
    NOW,
    assert_same,
    keyboard,
    make_codec,
    make_message,
    parts_of,
    payload_of,
    round_trip,
)

# --- particular objects ---


def test_a_message_as_it_is_stored():
    assert payload_of(make_message()) == [
        "Message",
        {
            "message_id": 5,
            "date": 1709209800,
            "chat": {"id": 1, "type": "private", "first_name": "Ann"},
            "from": {"id": 1, "first_name": "Ann", "is_bot": False, "username": "ann"},
            "text": "/start Grüße",
            "entities": [{"type": "bot_command", "offset": 0, "length": 6}],
            "channel_chat_created": False,
            "delete_chat_photo": False,
            "group_chat_created": False,
            "supergroup_chat_created": False,
        },
    ]


def test_an_object_as_its_state_is_stored():
    tagged = {"$telegram": ["constants.PollType", "quiz"]}
    assert payload_of(
        telegram.KeyboardButtonPollType(type=telegram.constants.PollType.QUIZ, api_kwargs={"type": 1})
    ) == [
        "KeyboardButtonPollType",
        {"state": {"type": tagged, "_id_attrs": ["type"], "api_kwargs": {"type": 1}}},
    ]
    assert payload_of(LinkPreviewOptions(url="u", is_disabled=None))[1]["state"]["prefer_large_media"] == {
        "$telegram": ["DefaultValue", None]
    }


@pytest.mark.parametrize(
    "data",
    [
        "text",
        "",
        0,
        b"x",
        1.5,
        float("inf"),
        2**70,
        "\ud800",
        ("a", 1),
        ["a", (1, 2)],
        [],
        (),
        {},
        {1: {"x"}},
        {"state": 1},
        {"$tuple": [1]},
        User(1, "A", False),
        [User(1, "A", False)],
        ChatType.PRIVATE,
        NOW,
        datetime.timedelta(seconds=1),
    ],
    ids=repr,
)
def test_callback_data_comes_back_exactly(data):
    again = round_trip(make_message(reply_markup=keyboard(data))).reply_markup.inline_keyboard[0][0].callback_data
    assert again == data
    assert type(again) is type(data)
    assert not isinstance(data, list) or list(map(type, again)) == list(map(type, data))


def test_the_form_is_chosen_by_all_that_de_json_looks_at():
    """One codec sees objects one after another that differ in nothing but a value."""
    codec = make_codec()
    for text in ("x", "", "x"):
        for data in ("x", "", 1, 0, True, False, None, (), [], (1,), NOW, 1.0, 0.0):
            for date in (NOW, telegram.constants.ZERO_DATE, NOW.replace(microsecond=1)):
                message = Message(5, date, Chat(1, "private"), text=text, reply_markup=keyboard(data))
                assert_same(codec.decode(codec.encode(message)), message)
    for kind in ("emoji", "custom_emoji", "unheard-of"):
        assert_same(codec.decode(codec.encode(telegram.ReactionType(kind))), telegram.ReactionType(kind))


def test_the_shape_tells_apart_whatever_de_json_may_look_at():
    values = ["x", "", 1, 0, True, False, 1.0, 0.0, b"x", (), ("x",), (1,), ("x", 1), [], ["x"], {}, {"x": 1}]
    values += [
        NOW,
        telegram.constants.ZERO_DATE,
        datetime.timedelta(1),
        datetime.timedelta(0),
        ChatType.GROUP,
        ChatType.PRIVATE,
    ]
    values += [User(1, "A", False), User(0, "A", False), User(1, "", False), User(1, "A", True), (User(1, "A", False),)]
    objects = [Chat(value, "group") for value in values] + [Chat(1, kind) for kind in ("x", "y", "private")]
    objects += [User(1, "A", False, api_kwargs={"x": value}) for value in ("x", "", 1, 0, [], [1], (), None)]
    assert len({telegram_form.write(value, lambda item, _: item)[1] for value in objects}) == len(objects)
    alike = [Chat(1, "group", title="a"), Chat(-2, "group", title="ü")]
    assert len({telegram_form.write(value, lambda item, _: item)[1] for value in alike}) == 1


def test_a_message_that_passes_for_an_inaccessible_one():
    codec = make_codec()
    for date in (NOW, telegram.constants.ZERO_DATE):
        message = make_message(pinned_message=Message(1, date, Chat(1, "private")))
        assert_same(codec.decode(codec.encode(message)), message)


def test_moments_come_back_in_the_zone_of_the_bots_defaults():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    bot = ExtBot("1:token", defaults=Defaults(tzinfo=zone))
    again = round_trip(make_message(), bot=bot)
    assert (again.date, again.date.utcoffset()) == (NOW, datetime.timedelta(hours=2))


def test_explicit_none_differs_from_a_default():
    for value in (LinkPreviewOptions(), LinkPreviewOptions(is_disabled=None), LinkPreviewOptions(is_disabled=True)):
        assert_same(round_trip(value), value)


def test_callback_queries_with_invalid_data():
    query = CallbackQuery("1", User(1, "A", False), "2", data=InvalidCallbackData("uuid"))
    again = round_trip(Update(1, callback_query=query)).callback_query
    assert type(again.data) is InvalidCallbackData
    assert (again.data.callback_data, again.data.args, str(again.data)) == ("uuid", query.data.args, str(query.data))


def test_errors_of_ptb(monkeypatch):
    monkeypatch.setenv("PTB_TIMEDELTA", "true")
    error = RetryAfter(7)
    error.note = ("mine",)
    again = round_trip(error)
    assert (type(again), again.args, again.message, again.note) == (RetryAfter, error.args, error.message, ("mine",))
    assert again.retry_after == error.retry_after
    with pytest.raises(EncodeError, match="message"):
        make_codec().encode(type("Own", (TelegramError,), {})("x"))


def test_caches_are_not_stored():
    update = Update(1, message=make_message())
    text = make_codec().encode(update)
    assert update.effective_message is update.message
    assert update.message.effective_attachment is None
    assert make_codec().encode(update) == text
    again = round_trip(update)
    assert again.effective_message is again.message
    with_state = make_message(reply_markup=keyboard((1,)), dice=telegram.Dice(1, "x"))
    assert round_trip(with_state).effective_attachment == with_state.dice


def test_deep_replies():
    message = make_message()
    for _ in range(40):
        message = make_message(reply_to_message=message)
    assert_same(round_trip(message), message)
    for _ in range(300):
        message = make_message(reply_to_message=message)
    started = time.monotonic()
    with pytest.raises(EncodeError, match="deep"):
        make_codec().encode(message)
    assert time.monotonic() - started < 3


def test_shortcuts_work_after_loading():
    message = make_message(reply_to_message=make_message())
    for part in parts_of(round_trip(message)):
        assert part.get_bot() is BOT
    again = round_trip(make_message(reply_markup=keyboard((1,))), bot=None)
    with pytest.raises(RuntimeError, match="no bot"):
        again.get_bot()


def test_objects_out_of_an_older_pickle_lack_attributes():
    user = User(1, "A", False, username="a")
    object.__setattr__(user, "_frozen", False)
    del user.language_code
    again = round_trip(user)
    assert (again.language_code, again.username, again) == (None, "a", User(1, "A", False))


# --- users' classes ---


class Fan(User):
    __slots__ = ("level",)


class Marked(User):
    def __init__(self, *args, **kwargs):
        raise AssertionError("must not run")

    @property
    def name(self):
        raise AssertionError("must not run")


@pytest.mark.parametrize("cls", [Fan, Marked])
def test_subclasses_of_users_must_be_registered(cls):
    value = cls.__new__(cls)
    User.__init__(value, 1, "A", False, api_kwargs={"x": 1})
    object.__setattr__(value, "level", (1, 2))
    for holder in (value, make_message(from_user=value)):
        with pytest.raises(EncodeError, match=r"Fan|Marked.*types=\["):
            make_codec().encode(holder)
    text = make_codec(types=[cls]).encode(make_message(from_user=value))
    again = make_codec(types=[cls]).decode(text).from_user
    assert (type(again), again.level, again.id, again.api_kwargs, again.get_bot()) == (cls, (1, 2), 1, {"x": 1}, BOT)
    assert again == value
    with pytest.raises(DecodeError, match=r"types=\["):
        make_codec().decode(text)


def test_a_class_can_be_registered_later():
    extension = TelegramExtension(lambda: None)
    extension.register(Fan)
    codec = Codec(extensions=[extension])
    assert type(codec.decode(codec.encode(Fan(1, "A", False)))) is Fan


def test_a_subclass_does_not_pass_for_the_class_of_the_same_name():
    impostor = type("User", (User,), {"__slots__": ()})
    with pytest.raises(EncodeError):
        make_codec().encode(impostor(1, "A", False))


# --- what is no data ---


async def callback(*args: Any) -> Any:
    """Never called."""


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (telegram.InputFile(b"x"), "file_id"),
        (telegram.InputMediaPhoto(b"x"), "file_id"),
        (telegram.ext.Job(callback), "schedule it again"),
        (telegram.ext.CommandHandler("start", callback), "handlers are code"),
        (telegram.ext.CallbackContext.__new__(telegram.ext.CallbackContext), "store what you need"),
        (telegram.ext.ApplicationBuilder().token("1:a").build(), "context.application"),
        (telegram.ext.DictPersistence(), "in itself"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_data_is_refused_with_advice(value, advice):
    with pytest.raises(EncodeError, match=advice) as caught:
        make_codec().encode({"it": [value]}, "user_data[42]")
    assert caught.value.place.startswith("user_data[42]['it'][0]")


def test_the_place_of_a_fault_leads_into_the_object():
    for entry, place in [
        ({"menu": keyboard({"lock": object()})}, "['menu'].inline_keyboard[0][0].callback_data['lock']"),
        (make_message(reply_markup=keyboard((1, object()))), ".reply_markup.inline_keyboard[0][0].callback_data[1]"),
        (User(1, "A", False, api_kwargs={"x": [object()]}), ".api_kwargs['x'][0]"),
    ]:
        with pytest.raises(EncodeError) as caught:
            make_codec().encode(entry, "user_data[42]")
        assert caught.value.place == f"user_data[42]{place}"


# --- constants and bots ---


def test_members_of_ptbs_enums():
    members = [
        ChatType.PRIVATE,
        ParseMode.HTML,
        telegram.constants.ChatAction.TYPING,
        telegram.constants.MessageLimit(4096),
    ]
    assert make_codec().to_tree(members)[0] == {"$enum": ["telegram.constants:ChatType", "PRIVATE"]}
    again = round_trip({member: member for member in members})
    assert all(key is value is member for member, (key, value) in zip(members, again.items(), strict=True))


def test_bots_are_placeholders(monkeypatch):
    warned = []
    twin, other = Bot("1:token"), Bot("2:other")
    assert make_codec(warned=warned).to_tree([BOT, twin, ExtBot("1:token")]) == [{"$bot": "current"}] * 3
    assert warned == []
    assert make_codec(warned=warned).to_tree([other]) == [{"$bot": "foreign"}]
    assert make_codec(bot=None, warned=warned).to_tree([BOT]) == [{"$bot": "foreign"}]
    assert len(warned) == 2
    assert not any("token" in message or "other" in message for message in warned)
    assert round_trip([BOT, other]) == [BOT, None]
    assert round_trip([BOT])[0] is BOT
    monkeypatch.setattr(Bot, "token", property(lambda self: 1 / 0))
    assert make_codec().to_tree([BOT, twin]) == [{"$bot": "current"}, {"$bot": "foreign"}]
