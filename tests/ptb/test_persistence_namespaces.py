"""Whose data is whose: several bots in one file, names of their own, imports that wait for their bot, scripts."""

from __future__ import annotations

import asyncio
import threading

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.errors import ConfigurationError, DecodeError, KVPersistenceError
from ptb_kvpersistence.model import OpenStore
from ptb_kvpersistence.persistence import namespaces
from ptb_kvpersistence.persistence.sections import Sections
from ptb_kvpersistence.persistence.sections_io import import_sections
from tests.ptb.offline import OTHER_TOKEN, TOKEN
from tests.ptb.test_persistence_conversations import form

pytestmark = pytest.mark.everywhere

IMPORTED = Sections({42: {"old": 1}}, {7: {"old": 2}}, {"old": 3}, {"form": {(7, 42): "AGE"}}, None)


def bots(witness):
    return {key: value["namespace"] for key, value in witness.values("ptb:bots").items()}


async def test_two_bots_in_one_file_do_not_mix(start_bot):
    settings = {TOKEN: "one", OTHER_TOKEN: "two"}
    for token, name in settings.items():
        bot = await start_bot(token, handlers=[form()])

        async def fill(update, context, name=name):
            for data in (context.user_data, context.chat_data, context.bot_data):
                data["name"] = name
            button = InlineKeyboardButton("a", callback_data=(name,))
            await context.bot.send_message(7, "x", reply_markup=InlineKeyboardMarkup([[button]]))

        await bot.say("start" if name == "one" else "x")
        await bot.say("x", fill)
        await bot.stop()
    for token, name in settings.items():
        bot = await start_bot(token, handlers=[form()])
        for data in (bot.app.user_data[42], bot.app.chat_data[7], bot.app.bot_data):
            assert data["name"] == name
        (keyboard,), _ = bot.app.bot.callback_data_cache.persistence_data
        assert list(keyboard[2].values()) == [(name,)]
        await bot.say("next")
        assert bot.app.user_data[42].get("step") == ("age" if name == "one" else None)
        await bot.stop()


async def test_a_bot_is_named_by_the_number_in_its_token_or_by_bot(start_bot, witness):
    for token, options in ((TOKEN, {}), (OTHER_TOKEN, {"bot": "shop"}), ("3003:x", {"bot": 77})):
        bot = await start_bot(token, options=options)
        await bot.say("x", lambda _, context: context.user_data.update(a=1))
        await bot.stop()
    assert bots(witness) == {"bot:1001": "1001", "bot:shop": "shop", "bot:77": "77"}
    assert {domain for domain, _ in witness.rows() if "user" in domain} == {
        "ptb:user_data:1001",
        "ptb:user_data:shop",
        "ptb:user_data:77",
    }


async def test_a_new_token_goes_on_with_the_data_under_the_same_name(start_bot):
    bot = await start_bot(TOKEN, options={"bot": "shop"})
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    bot = await start_bot(OTHER_TOKEN, options={"bot": "shop"})
    assert dict(bot.app.user_data) == {42: {"a": 1}}


@pytest.mark.parametrize("name", ["ä ☃", "bot:1", "unclaimed", "a'b\"c", "1001:extra", "%"])
async def test_names_of_every_kind_work(start_bot, name):
    for other in (name, name + "x"):
        bot = await start_bot(options={"bot": other})
        await bot.say("x", lambda _, context, other=other: context.user_data.update(name=other))
        await bot.stop()
    for other in (name, name + "x"):
        bot = await start_bot(options={"bot": other})
        assert bot.app.user_data[42] == {"name": other}
        await bot.stop()


# --- imports ---


async def test_an_import_without_a_name_goes_to_the_first_bot_without_data(start_bot, location, witness):
    bot = await start_bot(OTHER_TOKEN)
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    import_sections(location, IMPORTED, bot=None)
    assert "unclaimed" in bots(witness)

    bot = await start_bot(OTHER_TOKEN)
    assert bot.app.user_data[42] == {"a": 1}, "this one has data of its own"
    await bot.stop()
    bot = await start_bot(TOKEN)
    assert (bot.app.user_data[42], bot.app.chat_data[7], bot.app.bot_data) == ({"old": 1}, {"old": 2}, {"old": 3})
    await bot.say("x", lambda _, context: context.user_data.update(new=1))
    await bot.stop()
    assert set(bots(witness)) == {"bot:1001", "bot:2002"}
    bot = await start_bot("3003:x")
    assert dict(bot.app.user_data) == {}
    await bot.stop()
    bot = await start_bot(TOKEN)
    assert bot.app.user_data[42] == {"old": 1, "new": 1}


async def test_two_bots_that_start_at_once_do_not_both_get_the_import(start_bot, location, witness):
    import_sections(location, IMPORTED, bot=None)
    both = await asyncio.gather(start_bot(TOKEN), start_bot(OTHER_TOKEN))
    assert sorted(len(bot.app.user_data) for bot in both) == [0, 1]
    assert len(set(bots(witness).values())) == 2


@pytest.mark.parametrize("order", ["1212121212", "1122121212", "1211221212", "1221121212"])
def test_the_claim_is_atomic_in_any_order_of_two_starts(location, witness, order):
    import_sections(location, IMPORTED, bot=None)
    imported = bots(witness)["unclaimed"]
    backend = open_backend(location)
    store = backend.perform(OpenStore("default", "open")).id
    running = {name: namespaces.resolve(store, name) for name in "12"}
    replies = dict.fromkeys(running)
    found = {}
    for name in order + "12" * 5:
        if name in found:
            continue
        try:
            replies[name] = backend.perform(running[name].send(replies[name]))
        except StopIteration as done:
            found[name] = done.value
    backend.close()
    assert sorted(found) == ["1", "2"]
    assert list(found.values()).count(imported) == 1
    assert found["1"] != found["2"]
    assert bots(witness) == {f"bot:{name}": namespace for name, namespace in found.items()}


async def test_an_import_under_a_name_waits_for_that_bot(start_bot, location):
    import_sections(location, IMPORTED, bot="1001")
    bot = await start_bot(OTHER_TOKEN)
    assert dict(bot.app.user_data) == {}
    await bot.stop()
    bot = await start_bot(TOKEN)
    assert bot.app.user_data[42] == {"old": 1}


# --- an empty namespace beside filled ones ---


def warned(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "has no data in this store" in r.msg]


async def test_an_empty_namespace_beside_filled_ones_is_warned_about(start_bot, caplog):
    bot = await start_bot(TOKEN)
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    assert warned(caplog) == []
    bot = await start_bot(OTHER_TOKEN)
    (message,) = warned(caplog)
    assert "2002" in message
    assert "1001" in message
    assert "bot=" in message
    assert "offline" not in message, "a token must not be logged"
    await bot.stop()
    caplog.clear()
    bot = await start_bot(TOKEN)
    assert warned(caplog) == []


# --- scripts ---


async def test_a_script_without_a_bot_takes_the_only_namespace(start_bot, location):
    bot = await start_bot(TOKEN)
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    script = KVPersistence(location)
    assert await script.get_user_data() == {42: {"a": 1}}
    await script.update_user_data(42, {"a": 2})
    await script.flush()
    bot = await start_bot(TOKEN)
    assert bot.app.user_data[42] == {"a": 2}


async def test_a_script_must_say_which_bot_where_there_are_several(start_bot, location):
    for token in (TOKEN, OTHER_TOKEN):
        bot = await start_bot(token)
        await bot.say("x", lambda _, context, token=token: context.user_data.update(token=token[:4]))
        await bot.stop()
    before = set(threading.enumerate())  # the one that watches the end of the process among them
    with pytest.raises(ConfigurationError, match=r"several bots \(1001, 2002\); say which with bot=") as caught:
        await KVPersistence(location).get_user_data()
    assert isinstance(caught.value, KVPersistenceError)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # a worker whose connection is closed is about to end
        assert not thread.is_alive()
    script = KVPersistence(location, bot=2002)
    assert await script.get_user_data() == {42: {"token": "2002"}}
    await script.flush()


async def test_what_a_script_writes_first_goes_to_the_first_bot(start_bot, location, witness):
    script = KVPersistence(location)
    await script.update_user_data(42, {"seed": 1})
    await script.flush()
    again = KVPersistence(location)
    assert await again.get_user_data() == {42: {"seed": 1}}
    await again.flush()
    bot = await start_bot(TOKEN)
    assert bot.app.user_data[42] == {"seed": 1}
    assert set(bots(witness)) == {"bot:1001"}


async def test_a_damaged_register_is_told_with_what_to_do(start_bot, witness):
    bot = await start_bot(TOKEN)
    await bot.stop()
    witness.put("ptb:bots", "bot:1001", {"oops": 1})
    with pytest.raises(DecodeError, match=r"'bot:1001'.*repair or delete it"):
        await start_bot(TOKEN)
