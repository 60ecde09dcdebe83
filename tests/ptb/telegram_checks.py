"""What the tests of Telegram objects in the codec share: a codec, comparisons, and a few objects."""

from __future__ import annotations

import datetime
import functools
import warnings
from pathlib import Path

import pytest
from telegram import Bot, Chat, InlineKeyboardButton, InlineKeyboardMarkup, Message, MessageEntity, TelegramObject, User
from telegram.ext import ExtBot

from ptb_kvpersistence.codec.classes import shape_of
from ptb_kvpersistence.codec.core import Codec
from ptb_kvpersistence.persistence.telegram_codec import BotExtension, TelegramExtension
from tests.ptb.telegram_samples import ALL, Samples

BOT = ExtBot("1:token")
UTC = datetime.timezone.utc
NOW = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
SAMPLES = [(1.0, 0.0), (0.0, 0.0), (0.5, 0.3), (1.0, 0.1)]
NO_BOT = {"InlineKeyboardMarkup", "OrderInfo"}  # inside of others PTB gives them none; they have no shortcuts either
GOLDEN = Path(__file__).with_name("telegram_golden")
CLASSES = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def make_codec(bot=BOT, types=(), warned=None):
    warn = (lambda message: None) if warned is None else warned.append
    return Codec(types, [TelegramExtension(lambda: bot, types), BotExtension(lambda: bot, warn)])


def round_trip(value, **options):
    codec = make_codec(**options)
    return codec.decode(codec.encode(value))


def payload_of(value):
    tree = make_codec().to_tree(value)
    assert list(tree) == ["$telegram"]
    return tree["$telegram"]


def is_state(payload):
    return list(payload[1]) == ["state"]


@functools.lru_cache
def samples_of(cls):
    """Instances of all sorts, made while PTB's warnings about deprecated arguments are not heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [Samples(f"{cls.__name__}{more}", optional=more[0], falsy=more[1]).instance(cls) for more in SAMPLES]


def is_comparable(value):
    """Whether PTB says what equality means for the object and for all in it."""
    return all(part._id_attrs for part in parts_of(value))


def public_value(value, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated attributes are compared, too
        try:
            return getattr(value, name)
        except Exception as error:
            return type(error)


def assert_same(one, other, place="value"):
    """Compare all public attributes, properties included, and what equality and the hash are made of."""
    assert type(one) is type(other), place
    if isinstance(one, TelegramObject):
        names = [name for name in dir(one) if name[0] != "_" and not callable(getattr(type(one), name, None))]
        for name in names:
            assert_same(public_value(one, name), public_value(other, name), f"{place}.{name}")
        assert_same(one._id_attrs, other._id_attrs, f"{place}._id_attrs")
        assert one._frozen == other._frozen, place
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other), place
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{place}[{index}]")
    elif hasattr(one, "items"):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}[{key!r}]")
    elif type(one).__name__ == "DefaultValue":
        assert one is other, place
    elif isinstance(one, datetime.datetime):
        assert one == other, place
        assert (one.tzinfo is None) == (other.tzinfo is None), place
    else:
        assert one == other or type(one) is type, place


def parts_of(value):
    if isinstance(value, TelegramObject) and not isinstance(value, Bot):
        yield value
        for name in shape_of(type(value)).slots:
            yield from parts_of(getattr(value, name, None))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from parts_of(item)


def make_message(**more):
    user = User(1, "Ann", False, username="ann")
    arguments = {"from_user": user, "text": "/start Grüße", "entities": [MessageEntity("bot_command", 0, 6)], **more}
    return Message(5, NOW, Chat(1, "private", first_name="Ann"), **arguments)


def keyboard(callback_data):
    return InlineKeyboardMarkup([[InlineKeyboardButton("a", callback_data=callback_data)]])
