"""Telegram objects and bots through the codec, on the installed python-telegram-bot."""

from __future__ import annotations

import datetime

import pytest
import telegram
from telegram import Bot, Chat, InlineKeyboardButton, InlineKeyboardMarkup, Message, MessageEntity, User
from telegram.ext import ExtBot, InvalidCallbackData

from ptb_kvpersistence.codec.core import Codec
from ptb_kvpersistence.errors import DecodeError, EncodeError
from ptb_kvpersistence.persistence.telegram_codec import BotExtension, TelegramExtension
from ptb_kvpersistence.persistence.telegram_form import is_same

BOT = ExtBot("1:token")
UTC = datetime.timezone.utc
NOW = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)


def make_codec(bot=BOT, types=(), warnings=None):
    warn = (lambda message: None) if warnings is None else warnings.append
    return Codec(types, [TelegramExtension(lambda: bot, types), BotExtension(lambda: bot, warn)])


def round_trip(value, **options):
    codec = make_codec(**options)
    return codec.decode(codec.encode(value))


def payload_of(value):
    tree = make_codec().to_tree(value)
    assert list(tree) == ["$telegram"]
    return tree["$telegram"]


def make_message(**more):
    user = User(1, "Ann", False, username="ann")
    arguments = {"from_user": user, "text": "/start Grüße", "entities": [MessageEntity("bot_command", 0, 6)], **more}
    return Message(5, NOW, Chat(1, "private", first_name="Ann"), **arguments)


def keyboard(callback_data):
    return InlineKeyboardMarkup([[InlineKeyboardButton("a", callback_data=callback_data)]])


def test_a_message_is_stored_as_the_bot_apis_json():
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


def test_a_message_comes_back_the_same_and_bound_to_the_bot():
    message = make_message(reply_to_message=make_message())
    again = round_trip(message)
    assert is_same(again, message)
    assert again == message
    for part in (again, again.chat, again.from_user, again.reply_to_message.from_user, again.entities[0]):
        assert part.get_bot() is BOT


@pytest.mark.parametrize(
    "data",
    ["text", ("a", 1), ["a", (1, 2)], {1: {"x"}}, {"state": 1}, {"$tuple": [1]}, User(1, "A", False), NOW, "", 0, b"x"],
)
def test_callback_data_comes_back_exactly(data):
    again = round_trip(keyboard(data)).inline_keyboard[0][0].callback_data
    assert again == data
    assert type(again) is type(data)


def test_the_place_of_a_fault_leads_into_the_object():
    with pytest.raises(EncodeError) as caught:
        make_codec().encode({"menu": keyboard({"lock": object()})}, "user_data[42]")
    assert caught.value.place == "user_data[42]['menu'].inline_keyboard[0][0].callback_data['lock']"


def test_bots_are_placeholders():
    warnings = []
    twin, other = Bot("1:token"), Bot("2:other")
    assert make_codec(warnings=warnings).to_tree([BOT, twin]) == [{"$bot": "current"}] * 2
    assert warnings == []
    assert make_codec(warnings=warnings).to_tree([other]) == [{"$bot": "foreign"}]
    assert len(warnings) == 1
    assert round_trip([BOT, other]) == [BOT, None]


def test_objects_of_telegram_ext():
    again = round_trip(InvalidCallbackData("id"))
    assert (type(again), again.callback_data) == (InvalidCallbackData, "id")


def test_a_users_subclass_must_be_registered():
    class Fan(User):
        __slots__ = ("level",)

    fan = Fan(1, "A", False)
    with pytest.raises(EncodeError, match=r"types=\["):
        round_trip(fan)
    with fan._unfrozen():
        fan.level = (1, 2)
    again = round_trip(fan, types=[Fan])
    assert (type(again), again.level, again.id, again.get_bot(), again) == (Fan, (1, 2), 1, BOT, fan)


def test_what_is_no_data_is_refused():
    with pytest.raises(EncodeError, match="file_id"):
        round_trip({"upload": telegram.InputFile(b"x")})


@pytest.mark.parametrize(
    "text", ['{"$telegram":1}', '{"$telegram":["os.system",{}]}', '{"$telegram":["User",[]]}', '{"$bot":1}']
)
def test_hostile_payloads(text):
    with pytest.raises(DecodeError):
        make_codec().decode(text)
