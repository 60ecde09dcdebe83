"""What handlers put into user_data, chat_data and bot_data is there after a restart: values, types, live bots."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from telegram import Chat, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update, User
from telegram.ext import CallbackContext, ContextTypes

from ptb_kvpersistence import KVPersistence

pytestmark = pytest.mark.everywhere


async def restart(start_bot, bot, **settings):
    await bot.stop()
    return await start_bot(**settings)


class Colour(enum.Enum):
    RED = 1


PLAIN = {"text": "ä\u2028", "number": 1, "float": 1.0, "flag": True, "none": None, "list": [1, [2]], "dict": {"a": {}}}
RICH = {
    1: "int key",
    "1": "str key",
    (1, "a"): "tuple key",
    None: "None key",
    "tuple": (1, (2, [3])),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "bytes": b"\x00\xff",
    "datetime": datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc),
    "timedelta": timedelta(days=1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=7),
    "big": 2**80,
    "enum": Colour.RED,
    "ordered": OrderedDict(b=1, a=2),
    "counter": Counter("aab"),
    "defaultdict": defaultdict(list, a=[1]),
    "deque": deque([1, 2], maxlen=3),
    "$tuple": "looks like a tag",
}


@pytest.mark.parametrize("value", [PLAIN, RICH], ids=["plain", "rich"])
async def test_all_three_sections_survive_a_restart(start_bot, value):
    def fill(_, context):
        for data in (context.user_data, context.chat_data, context.bot_data):
            data.update(value)

    bot = await start_bot()
    await bot.say("x", fill)
    bot = await restart(start_bot, bot)
    found = []
    await bot.say(
        "y", lambda _, context: found.extend((dict(context.user_data), dict(context.chat_data), context.bot_data))
    )
    for data in found:
        assert data == value
        assert list(data) == list(value)
        assert [type(item) for item in data.values()] == [type(item) for item in value.values()]
    assert dict(bot.app.user_data) == {42: value}
    assert dict(bot.app.chat_data) == {7: value}


async def test_many_users_and_chats_keep_apart(start_bot):
    bot = await start_bot()
    for number in range(30):
        await bot.say(
            "x",
            lambda _, context, number=number: (
                context.user_data.update(u=number),
                context.chat_data.update(c=number),
            ),
            user=number + 1,
            chat=-1000 - number,
        )
    bot = await restart(start_bot, bot)
    assert dict(bot.app.user_data) == {number + 1: {"u": number} for number in range(30)}
    assert dict(bot.app.chat_data) == {-1000 - number: {"c": number} for number in range(30)}


async def test_what_was_saved_survives_a_crash_and_what_was_not_is_gone(start_bot):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    await bot.say("x", lambda _, context: context.user_data.update(b=2))
    await bot.crash()
    bot = await start_bot()
    assert dict(bot.app.user_data) == {42: {"a": 1}}


async def test_the_same_application_starts_and_stops_again(start_bot):
    bot = await start_bot()
    for count in range(3):
        await bot.say("x", lambda _, context, count=count: context.user_data.setdefault("n", []).append(count))
        await bot.stop()
        await bot.start()
    assert bot.app.user_data[42] == {"n": [0, 1, 2]}


def test_one_persistence_serves_one_loop_after_another(location):
    from tests.ptb.offline import OfflineBot

    async def run(persistence, count):
        bot = await OfflineBot(persistence).start()
        await bot.say("x", lambda _, context: context.user_data.setdefault("n", []).append(count))
        await bot.stop()
        return dict(bot.app.user_data)

    persistence = KVPersistence(location)
    asyncio.run(run(persistence, 0))
    assert asyncio.run(run(persistence, 1)) == {42: {"n": [0, 1]}}


async def test_a_job_that_changes_data_is_saved(start_bot, witness):
    bot = await start_bot(job_queue=True)

    async def job(context):
        context.user_data["job"] = context.chat_data["job"] = 1

    async with bot.app:
        await bot.app.start()
        bot.app.job_queue.run_once(job, 0, user_id=42, chat_id=7)
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if bot.app.user_data[42]:
                break
        await asyncio.sleep(0.01)
        await bot.app.stop()
    await bot.stop()
    assert witness.values("ptb:user_data:1001") == {"42": {"job": 1}}
    assert witness.values("ptb:chat_data:1001") == {"7": {"job": 1}}


async def test_data_changed_outside_handlers_is_saved_when_marked(start_bot, witness):
    bot = await start_bot()
    bot.app.user_data[5]["gift"] = 1
    bot.app.mark_data_for_update_persistence(user_ids=5)
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {"5": {"gift": 1}}


# --- Telegram objects ---


class Holder:
    """Bots cannot be copied, so whoever keeps one in the data says how."""

    def __init__(self, bot):
        self.bot = bot

    def __deepcopy__(self, memo):
        return Holder(self.bot)


async def test_telegram_objects_come_back_with_the_live_bot(start_bot):
    def keep(update, context):
        context.user_data["last"] = update.message
        context.chat_data["seen"] = {"users": [update.effective_user], ("chat",): update.effective_chat}
        context.bot_data["update"] = update
        context.bot_data["bot"] = Holder(context.bot)

    holder = {"options": {"types": [Holder]}}
    bot = await start_bot(**holder)
    await bot.say("remember me", keep)
    original = bot.app.user_data[42]["last"]
    bot = await restart(start_bot, bot, **holder)
    message = bot.app.user_data[42]["last"]
    assert type(message) is Message
    assert message == original
    assert message.to_dict() == original.to_dict()
    assert message.get_bot() is bot.app.bot
    await message.reply_text("after the restart")
    assert [sent["text"] for sent in bot.telegram.sent] == ["after the restart"]
    seen = bot.app.chat_data[7]["seen"]
    assert type(seen["users"][0]) is User
    assert type(seen[("chat",)]) is Chat
    await seen["users"][0].send_message("hello")
    assert bot.telegram.sent[-1]["chat_id"] == 42
    assert type(bot.app.bot_data["update"]) is Update
    assert bot.app.bot_data["update"].effective_user.get_bot() is bot.app.bot
    assert bot.app.bot_data["bot"].bot is bot.app.bot


async def test_a_foreign_bot_becomes_none_with_a_warning(start_bot, caplog):
    from telegram.ext import ExtBot

    from tests.ptb.offline import OTHER_TOKEN

    holder = {"options": {"types": [Holder]}}
    bot = await start_bot(**holder)
    await bot.say("x", lambda _, context: context.user_data.update(other=Holder(ExtBot(OTHER_TOKEN))))
    bot = await restart(start_bot, bot, **holder)
    assert bot.app.user_data[42]["other"].bot is None
    assert any("bot" in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert OTHER_TOKEN not in caplog.text


async def test_a_keyboard_in_the_data_survives(start_bot):
    keyboard = InlineKeyboardMarkup([[InlineKeyboardButton("a", callback_data="x")]])
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(keyboard=keyboard))
    bot = await restart(start_bot, bot)
    assert bot.app.user_data[42]["keyboard"] == keyboard


# --- custom context types ---


@dataclass
class Profile:
    visits: int = 0
    tags: set = field(default_factory=set)
    friends: dict = field(default_factory=dict)


class Room:
    def __init__(self):
        self.topic = None
        self.members = []


class Settings(dict):
    def __init__(self):
        super().__init__(volume=5)
        self.dirty = False


class SlottedRoom:
    __slots__ = ("members", "topic")

    def __init__(self):
        self.topic, self.members = None, []


@dataclass
class Nested:
    rooms: list = field(default_factory=list)


class Context(CallbackContext):
    pass


def settings_with(context_types, **options):
    return {"options": {"context_types": context_types, **options}, "context_types": context_types}


async def test_context_types_of_every_kind_survive(start_bot):
    types = settings_with(ContextTypes(context=Context, user_data=Profile, chat_data=Room, bot_data=Settings))

    def fill(_, context):
        assert type(context) is Context
        context.user_data.visits += 1
        context.user_data.tags |= {"new", 3}
        context.user_data.friends[7] = (1, 2)
        context.chat_data.topic = "tea"
        context.chat_data.members.append(context._user_id)
        context.bot_data["volume"] += 1
        context.bot_data.dirty = True

    bot = await start_bot(**types)
    await bot.say("x", fill)
    bot = await restart(start_bot, bot, **types)
    await bot.say("x", fill)
    bot = await restart(start_bot, bot, **types)
    user, chat, data = bot.app.user_data[42], bot.app.chat_data[7], bot.app.bot_data
    assert (type(user), type(chat), type(data)) == (Profile, Room, Settings)
    assert user == Profile(2, {"new", 3}, {7: (1, 2)})
    assert vars(chat) == {"topic": "tea", "members": [42, 42]}
    assert (dict(data), data.dirty) == ({"volume": 7}, True)


async def test_slotted_classes_and_registered_ones_inside_survive(start_bot):
    types = settings_with(ContextTypes(user_data=SlottedRoom, bot_data=Nested), types=[Room])

    def fill(_, context):
        context.user_data.topic = "tea"
        room = Room()
        room.members = [context.user_data.topic]
        context.bot_data.rooms.append(room)

    bot = await start_bot(**types)
    await bot.say("x", fill)
    bot = await restart(start_bot, bot, **types)
    assert (bot.app.user_data[42].topic, bot.app.user_data[42].members) == ("tea", [])
    (room,) = bot.app.bot_data.rooms
    assert (type(room), room.members) == (Room, ["tea"])


async def test_untouched_context_types_start_from_their_defaults(start_bot):
    types = settings_with(ContextTypes(user_data=Profile, chat_data=Room, bot_data=Settings))
    bot = await start_bot(**types)
    await bot.say("x")
    bot = await restart(start_bot, bot, **types)
    assert bot.app.user_data[42] == Profile()
    assert bot.app.user_data[43] == Profile()
    assert bot.app.bot_data == {"volume": 5}


class Opaque(UserDict):
    """A class of the user's that was not registered."""


async def test_a_class_that_was_not_registered_is_told_by_place_and_saved_once_it_is(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1, deep=[Opaque(b=2)]))
    await bot.say("x", lambda _, context: context.user_data.update(a=1), user=43)
    await bot.stop()
    assert [str(error).partition(":")[0] for error in bot.errors][:1] == ["user_data[42]['deep'][0]"]
    assert "types=[" in str(bot.errors[0])
    assert witness.values("ptb:user_data:1001") == {"43": {"a": 1}}
    bot = await start_bot(options={"types": [Opaque]})
    await bot.say("x", lambda _, context: context.user_data.update(a=1, deep=[Opaque(b=2)]))
    bot = await restart(start_bot, bot, options={"types": [Opaque]})
    assert bot.app.user_data[42]["deep"] == [Opaque(b=2)]
    assert not bot.errors
