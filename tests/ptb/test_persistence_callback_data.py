"""Buttons carry their objects over restarts, in the cache's order, and only the difference is written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup
from telegram.ext import InvalidCallbackData

from ptb_kvpersistence import KVPersistence

pytestmark = pytest.mark.everywhere

DOMAIN = "ptb:callback_data:1001"


@dataclass
class Choice:
    item: str
    price: tuple


async def offer(bot, *objects, chat=7):
    """Send a keyboard with one button per object; give what Telegram sees of them."""
    keyboard = [[InlineKeyboardButton("a button", callback_data=item)] for item in objects]
    await bot.app.bot.send_message(chat, "choose", reply_markup=InlineKeyboardMarkup(keyboard))
    return bot.buttons()


async def pressed(bot, data):
    """Press a button; give what the handler gets."""
    found = []
    await bot.press(data, lambda update, _: found.append(update.callback_query.data))
    (item,) = found
    return item


def keyboards(bot):
    return [row[0] for row in bot.app.bot.callback_data_cache.persistence_data[0]]


def stored(witness, kind):
    return {key[2:]: value for key, value in witness.values(DOMAIN).items() if key.startswith(kind)}


async def restart(start_bot, bot, **settings):
    await bot.stop()
    return await start_bot(**settings)


OBJECTS = [
    ("tuple", 1),
    Choice("tea", (1, 50)),
    {"a": {1, 2}, 3: None},
    2**70,
    b"bytes",
    "plain text",
    [InlineKeyboardButton("x", "y")],
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
async def test_a_button_pressed_after_a_restart_carries_its_object(start_bot, value):
    bot = await start_bot()
    (data,) = await offer(bot, value)
    assert len(data) == 64
    assert await pressed(bot, data) == value
    bot = await restart(start_bot, bot)
    found = await pressed(bot, data)
    assert found == value
    assert type(found) is type(value)


async def test_a_button_pressed_after_a_crash_carries_its_object(start_bot):
    bot = await start_bot()
    (data,) = await offer(bot, Choice("tea", ()))
    await bot.save()
    await bot.crash()
    bot = await start_bot()
    assert await pressed(bot, data) == Choice("tea", ())


async def test_the_message_under_a_pressed_button_has_its_objects_too(start_bot):
    bot = await start_bot()
    (data,) = await offer(bot, ("a", 1))
    bot = await restart(start_bot, bot)
    found = []
    await bot.press(
        data, lambda update, _: found.append(update.callback_query.message.reply_markup.inline_keyboard[0][0])
    )
    assert found[0].callback_data == ("a", 1)


async def test_the_order_of_the_cache_is_kept(start_bot):
    bot = await start_bot()
    buttons = [(await offer(bot, f"item {number}"))[0] for number in range(6)]
    for number in (2, 0, 4):
        await pressed(bot, buttons[number])
    before, queries = keyboards(bot), list(bot.app.bot.callback_data_cache.persistence_data[1].items())
    bot = await restart(start_bot, bot)
    assert keyboards(bot) == before
    assert list(bot.app.bot.callback_data_cache.persistence_data[1].items()) == queries
    await pressed(bot, buttons[1])
    await offer(bot, "new")
    before = keyboards(bot)
    bot = await restart(start_bot, bot)
    assert keyboards(bot) == before


async def test_what_the_cache_evicts_is_evicted_from_the_store(start_bot, witness):
    bot = await start_bot(callback_data=3)
    buttons = [(await offer(bot, f"item {number}"))[0] for number in range(3)]
    await bot.save()
    assert len(stored(witness, "k:")) == 3
    buttons.append((await offer(bot, "item 3"))[0])
    await bot.save()
    assert set(stored(witness, "k:")) == {button[:32] for button in buttons[1:]}
    bot = await restart(start_bot, bot, callback_data=3)
    assert isinstance(await pressed(bot, buttons[0]), InvalidCallbackData)
    assert await pressed(bot, buttons[3]) == "item 3"


async def test_the_same_order_decides_what_is_evicted_after_a_restart(start_bot):
    """Whether the bot was restarted makes no difference to which keyboard goes first."""
    remaining = []
    for is_restarted in (False, True):
        bot = await start_bot(callback_data=3, options={"bot": f"bot {is_restarted}"})
        buttons = [(await offer(bot, f"item {number}"))[0] for number in range(3)]
        if is_restarted:
            bot = await restart(start_bot, bot, callback_data=3, options={"bot": f"bot {is_restarted}"})
        await offer(bot, "item 3")
        await offer(bot, "item 4")
        remaining.append([number for number in range(3) if buttons[number][:32] in keyboards(bot)])
        await bot.stop()
    assert remaining[0] == remaining[1] == [2]


async def test_a_smaller_cache_after_a_restart_drops_the_surplus(start_bot, witness):
    bot = await start_bot()
    for number in range(5):
        await offer(bot, f"item {number}")
    bot = await restart(start_bot, bot, callback_data=2)
    assert len(keyboards(bot)) == 2
    await bot.stop()
    assert len(stored(witness, "k:")) == 2


# --- only the difference is written ---


async def test_only_the_difference_is_written(start_bot, witness):
    bot = await start_bot()
    buttons = [(await offer(bot, f"item {number}"))[0] for number in range(50)]
    await bot.save()
    before = witness.versions()
    assert len(stored(witness, "k:")) == 50

    head, commits = witness.head(), witness.commits()
    await bot.save()
    assert (witness.head(), witness.commits()) == (head, commits), "nothing changed: not even a commit"

    await offer(bot, "one more")
    await bot.save()
    changed = {place for place, version in witness.versions().items() if before.get(place) != version}
    assert len(changed) == 1
    before = witness.versions()

    await pressed(bot, buttons[10])
    await bot.save()
    changed = {place for place, version in witness.versions().items() if before.get(place) != version}
    assert {key[:2] for domain, key in changed if domain == DOMAIN} == {"k:", "q:"}
    assert len([place for place in changed if place[0] == DOMAIN]) == 2


async def test_a_restart_alone_writes_nothing(start_bot, witness):
    bot = await start_bot()
    for number in range(10):
        data = (await offer(bot, f"item {number}"))[0]
        await pressed(bot, data)
    await bot.stop()
    head = witness.head()
    bot = await start_bot()
    await bot.save()
    await bot.stop()
    assert witness.head() == head


async def test_pressing_the_oldest_again_and_again_writes_little(start_bot, witness):
    """An order kept by position would rewrite every keyboard."""
    bot = await start_bot()
    buttons = [(await offer(bot, f"item {number}"))[0] for number in range(20)]
    await bot.save()
    for number in (0, 1, 2, 3):
        before = witness.texts()
        await pressed(bot, buttons[number])
        await bot.save()
        # The keyboard, the query, and the user's and chat's first entries.
        assert len(set(witness.texts().items()) - set(before.items())) <= 4


# --- dropping and clearing ---


async def test_dropped_callback_data_is_dropped_from_the_store(start_bot, witness):
    bot = await start_bot()
    (data,) = await offer(bot, "secret")
    (kept,) = await offer(bot, "kept")
    await bot.save()
    await bot.press(data, lambda update, context: context.drop_callback_data(update.callback_query))
    await bot.save()
    assert set(stored(witness, "k:")) == {kept[:32]}
    assert stored(witness, "q:") == {}
    bot = await restart(start_bot, bot)
    assert isinstance(await pressed(bot, data), InvalidCallbackData)
    assert await pressed(bot, kept) == "kept"


async def test_a_cleared_cache_is_cleared_in_the_store(start_bot, witness):
    bot = await start_bot()
    for number in range(3):
        await pressed(bot, (await offer(bot, f"item {number}"))[0])
    await bot.save()
    bot.app.bot.callback_data_cache.clear_callback_queries()
    await bot.save()
    assert (len(stored(witness, "k:")), stored(witness, "q:")) == (3, {})
    bot.app.bot.callback_data_cache.clear_callback_data()
    await bot.save()
    assert witness.values(DOMAIN) == {}
    bot = await restart(start_bot, bot)
    assert bot.app.bot.callback_data_cache.persistence_data == ([], {})
    await pressed(bot, (await offer(bot, "new"))[0])
    assert len(keyboards(bot)) == 1


async def test_a_button_that_cannot_be_stored_costs_only_its_keyboard(start_bot, witness):
    bot = await start_bot()
    (good,) = await offer(bot, "good")
    await offer(bot, "fine", len)  # deepcopy takes a function, the codec does not
    await bot.stop()
    (error,) = bot.errors
    assert error.place.startswith("callback_data['k:")
    assert set(stored(witness, "k:")) == {good[:32]}


async def test_an_entry_that_cannot_be_read_is_left_out_and_left_alone(start_bot, witness, caplog):
    bot = await start_bot()
    (broken,) = await offer(bot, "broken")
    (good,) = await offer(bot, "good")
    await bot.stop()
    key = f"k:{broken[:32]}"
    witness.update_text(DOMAIN, key, '{"$newer": 1}')
    witness.put(DOMAIN, "k:of another shape", {"order": "x"})
    before = witness.texts()[DOMAIN, key]
    bot = await start_bot()
    assert await pressed(bot, good) == "good"
    assert isinstance(await pressed(bot, broken), InvalidCallbackData)
    await offer(bot, "new")
    await bot.stop()
    assert witness.texts()[DOMAIN, key] == before
    assert broken[:32] in caplog.text


async def test_without_arbitrary_callback_data_nothing_is_stored_or_lost(start_bot, witness):
    bot = await start_bot()
    (data,) = await offer(bot, "kept")
    await bot.stop()
    bot = await start_bot(callback_data=False)
    await bot.say("x")
    await bot.stop()
    bot = await start_bot()
    assert await pressed(bot, data) == "kept"


async def test_a_script_reads_what_the_bot_has(start_bot, location):
    bot = await start_bot()
    (data,) = await offer(bot, ("a", 1))
    await pressed(bot, data)
    before = bot.app.bot.callback_data_cache.persistence_data
    await bot.stop()
    persistence = KVPersistence(location, bot=1001)
    assert await persistence.get_callback_data() == before
    assert persistence.callback_data == before
    await persistence.flush()
