"""One bad value costs its own entity and nothing else: not copied, not encoded, or not read at the start."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from telegram.ext import ContextTypes

from ptb_kvpersistence import DatabaseError, EncodeError
from tests.ptb.test_persistence_conversations import form

pytestmark = pytest.mark.everywhere

USERS, CHATS, BOT = "ptb:user_data:1001", "ptb:chat_data:1001", "ptb:bot_data:1001"
ROOT = Path(__file__).parents[2]


class Stubborn:
    """Can be copied, cannot be stored."""


# --- what cannot be copied ---


async def fill(bot):
    """Three users in a conversation each, with data in every section."""
    for user in (1, 2, 3):
        await bot.say("start", lambda _, context: context.user_data.update(a=1), user=user, chat=user)
    await bot.say("x", lambda _, context: context.bot_data.update(a=1), user=1, chat=1)


def everything(witness, *, without=()):
    """What fill() leaves in the store, but for some users."""
    users = [user for user in (1, 2, 3) if user not in without]
    assert witness.values(USERS) == {str(user): {"a": 1, "step": "name"} for user in users}
    assert set(witness.values(CHATS)) == {"1", "2", "3"}
    assert {tuple(json.loads(key)[1]) for key in witness.values("ptb:conversations:1001")} == {(1, 1), (2, 2), (3, 3)}


@pytest.mark.parametrize("place", ["bot_data", "user_data"])
async def test_with_a_value_that_cannot_be_copied_a_flush_saves_the_rest(start_bot, witness, place):
    bot = await start_bot(handlers=[form()])
    await fill(bot)
    await bot.say("x", lambda _, context: getattr(context, place).update(lock=threading.Lock()), user=2, chat=2)
    with pytest.raises(TypeError, match="lock"):
        await bot.save()
    await bot.persistence.flush()
    users = {str(user): {"a": 1, "step": "name"} for user in (1, 2, 3)}
    if place == "user_data":
        del users["2"]
    assert witness.values(USERS) == users
    assert set(witness.values(CHATS)) == {"1", "2", "3"}
    assert witness.values(BOT) == ({} if place == "bot_data" else {"data": {"a": 1}})
    await bot.crash()


async def test_a_bot_that_goes_on_after_its_updater_died_is_saved_by_itself(start_bot, witness, caplog):
    bot = await start_bot(handlers=[form()])
    keeper = bot.persistence._keeper
    await fill(bot)
    await bot.say("x", lambda _, context: context.bot_data.update(lock=threading.Lock()), user=2, chat=2)
    with pytest.raises(TypeError, match="lock"):
        await bot.save()
    keeper._patience = 0.02
    await asyncio.sleep(0.03)
    await bot.say("x", user=1, chat=1)
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if not bot.persistence.pending:
            break
    everything(witness)
    assert "bot_data['lock']: cannot store a _thread.lock" in caplog.text
    assert "PTB has not updated the persistence for long" in caplog.text
    await bot.crash()


DYING = """
import asyncio, sys, threading
from ptb_kvpersistence import KVPersistence
from tests.ptb.offline import OfflineBot
from tests.ptb.test_persistence_conversations import form
from tests.ptb.test_persistence_isolation import fill

async def main():
    bot = await OfflineBot(KVPersistence(sys.argv[1]), handlers=[form()]).start()
    await fill(bot)
    await bot.say("x", lambda _, context: getattr(context, sys.argv[2]).update(lock=threading.Lock()), user=2, chat=2)
    {ending}

asyncio.run(main())
"""


@pytest.mark.parametrize(("ending", "place"), [("await bot.stop()", "bot_data"), ("raise SystemExit(3)", "user_data")])
def test_a_process_that_ends_with_such_a_value_saves_the_rest(location, witness, ending, place):
    """PTB's shutdown raises before it flushes."""
    command = [sys.executable, "-c", DYING.replace("{ending}", ending), str(location), place]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == (3 if "Exit" in ending else 1), ended.stderr
    everything(witness, without=(2,) if place == "user_data" else ())
    assert "cannot store a _thread.lock" in ended.stderr


# --- what cannot be encoded ---


async def test_a_value_that_cannot_be_stored_costs_its_entity_and_is_told_once_with_its_place(
    start_bot, witness, caplog
):
    bot = await start_bot(handlers=[form()])
    await fill(bot)
    await bot.say("x", lambda _, context: context.user_data.update(cart=[{"lock": Stubborn()}]), user=2, chat=2)
    await bot.save()
    everything(witness, without=(2,))
    (error,) = bot.errors
    assert isinstance(error, EncodeError)
    assert isinstance(error, TypeError)
    assert error.place == "user_data[2]['cart'][0]['lock']"
    assert str(error).startswith("user_data[2]['cart'][0]['lock']: cannot store a ")
    assert "Stubborn" in str(error)
    logged = [record for record in caplog.records if record.levelname == "ERROR" and "ptb_kv" in record.name]
    assert len(logged) == 1
    await bot.say("x", lambda _, context: context.user_data.pop("cart"), user=2, chat=2)
    await bot.save()
    everything(witness)


@pytest.mark.parametrize("section", ["user_data", "chat_data", "bot_data"])
async def test_each_section_names_its_place(start_bot, section):
    bot = await start_bot()
    await bot.say("x", lambda _, context: getattr(context, section).update({("a", 1): {"deep": Stubborn()}}))
    await bot.save()
    place = {"user_data": "user_data[42]", "chat_data": "chat_data[7]", "bot_data": "bot_data"}[section]
    assert [error.place for error in bot.errors] == [f"{place}[('a', 1)]['deep']"]
    await bot.crash()


async def test_the_last_good_version_of_a_bad_entity_stays(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    await bot.say("x", lambda _, context: context.user_data.update(a=2, bad=Stubborn()))
    await bot.stop()
    assert witness.values(USERS) == {"42": {"a": 1}}
    bot = await start_bot()
    assert dict(bot.app.user_data) == {42: {"a": 1}}


async def test_cycles_and_deep_nesting_are_told_too(start_bot, witness):
    def loop(_, context):
        context.user_data["self"] = context.user_data

    def deep(_, context):
        value = []
        for _ in range(300):
            value = [value]
        context.user_data["deep"] = value

    bot = await start_bot()
    await bot.say("x", loop, user=1)
    await bot.say("x", deep, user=2)
    await bot.say("x", lambda _, context: context.user_data.update(a=1), user=3)
    await bot.save()
    told = sorted(str(error) for error in bot.errors)  # PTB keeps its coroutines in a set
    assert ["circular" in told[0], "nested too deeply" in told[1]] == [True, True]
    assert witness.values(USERS)["3"] == {"a": 1}
    assert "1" not in witness.values(USERS)


@dataclass
class Hostile:
    """A user's class whose own code fails while it is stored."""

    value: int = 0

    def __getattr__(self, name):
        message = "do not look"
        raise RuntimeError(message)

    def __deepcopy__(self, memo):
        return Hostile(self.value)


async def test_a_class_whose_own_code_fails_costs_no_other_entity(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(hostile=Hostile(3)))
    await bot.say("x", lambda _, context: context.user_data.update(a=1), user=43)
    await bot.save()
    assert witness.values(USERS)["43"] == {"a": 1}
    assert all(isinstance(error, EncodeError) for error in bot.errors)


# --- what cannot be read at the start ---

TRUNCATED = '{"a": [1, 2'
BROKEN = {
    "text": "not JSON at all",
    "truncated": TRUNCATED,
    "unknown tag": '{"$newer": [1]}',
    "wrong payload": '{"a": {"$datetime": 7}}',
    "unknown class": '{"a": {"$dataclass": ["somewhere.else:Thing", {}]}}',
}


@pytest.mark.parametrize("section", ["user_data", "chat_data", "bot_data"])
@pytest.mark.parametrize("broken", ["text", "truncated", "unknown tag", "wrong payload", "unknown class"])
async def test_an_entry_that_cannot_be_read_is_quarantined(start_bot, database, witness, caplog, section, broken):
    place = {"user_data": (USERS, "42"), "chat_data": (CHATS, "7"), "bot_data": (BOT, "data")}[section]
    bot = await start_bot()
    await bot.say("x", lambda _, context: getattr(context, section).update(a=1))
    await bot.say("x", lambda _, context: context.user_data.update(a=1), user=43)
    await bot.stop()
    if database.refuses_other_text and broken in {"text", "truncated"}:
        with pytest.raises(DatabaseError, match="json"):
            witness.update_text(*place, BROKEN[broken])
        return
    witness.update_text(*place, BROKEN[broken])
    before = witness.texts()[place]

    bot = await start_bot()
    found = []
    await bot.say("x", lambda _, context: found.append(dict(getattr(context, section))))
    assert found == [{}], "the entity starts from its default"
    assert bot.app.user_data[43] == {"a": 1}, "the section loads without it"
    (record,) = [r for r in caplog.records if r.levelname == "ERROR" and "cannot be read" in r.getMessage()]
    assert all(repr(part) in record.getMessage() for part in place)

    await bot.say("x", lambda _, context: getattr(context, section).update(new=1))
    await bot.say("x", lambda _, context: context.user_data.update(b=2), user=43)
    await bot.save()
    await bot.stop()
    assert witness.texts()[place] == before, "the entry is left as it is"
    assert json.loads(witness.texts()[USERS, "43"][1]) == {"a": 1, "b": 2}
    assert not bot.errors


async def test_a_drop_does_not_delete_what_cannot_be_read(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    witness.update_text(USERS, "42", BROKEN["unknown tag"])
    before = witness.texts()[USERS, "42"]
    bot = await start_bot()
    bot.app.drop_user_data(42)
    await bot.stop()
    assert witness.texts()[USERS, "42"] == before


async def test_a_repaired_entry_is_there_at_the_next_update(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    witness.update_text(USERS, "42", BROKEN["unknown tag"])
    bot = await start_bot()
    await bot.say("x")
    witness.update(USERS, "42", {"a": 2})
    await bot.say("x", lambda _, context: context.user_data.update(b=3))
    assert bot.app.user_data[42] == {"a": 2, "b": 3}
    await bot.stop()
    assert witness.values(USERS)["42"] == {"a": 2, "b": 3}


async def test_a_deleted_one_makes_room_for_what_memory_has(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.stop()
    witness.update_text(USERS, "42", BROKEN["unknown tag"])
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(b=2))
    await bot.save()
    witness.delete(USERS, "42")
    await bot.say("x", lambda _, context: context.user_data.update(c=3))
    await bot.stop()
    assert witness.values(USERS)["42"] == {"b": 2, "c": 3}
    assert not bot.errors


async def test_an_entry_broken_while_the_bot_runs_is_left_alone_too(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    witness.update_text(USERS, "42", BROKEN["unknown tag"])
    before = witness.texts()[USERS, "42"]
    await bot.say("x", lambda _, context: context.user_data.update(b=2))
    assert bot.app.user_data[42] == {"a": 1, "b": 2}, "handlers go on with what memory has"
    await bot.save()
    await bot.stop()
    assert witness.texts()[USERS, "42"] == before
    assert not bot.errors


@dataclass
class Settings:
    volume: int = 5


async def test_a_default_of_its_own_type_takes_the_place_of_what_cannot_be_read(start_bot, witness):
    types = ContextTypes(user_data=Settings, bot_data=Settings)
    settings = {"options": {"context_types": types}, "context_types": types}
    bot = await start_bot(**settings)
    await bot.say("x", lambda _, context: setattr(context.user_data, "volume", 7))
    await bot.stop()
    for place in ((USERS, "42"), (BOT, "data")):
        witness.update_text(*place, BROKEN["unknown tag"])
    bot = await start_bot(**settings)
    await bot.say("x")
    assert (bot.app.user_data[42], bot.app.bot_data) == (Settings(), Settings())


async def test_a_conversation_that_cannot_be_read_starts_anew(start_bot, witness):
    bot = await start_bot(handlers=[form()])
    await bot.say("start")
    await bot.say("start", user=43)
    await bot.stop()
    (key,) = [key for key in witness.values("ptb:conversations:1001") if json.loads(key)[1] == [7, 42]]
    witness.update_text("ptb:conversations:1001", key, '{"$enum": ["gone:Step", "NAME"]}')
    before = witness.texts()["ptb:conversations:1001", key]
    bot = await start_bot(handlers=[form()])
    await bot.say("next", user=43)
    await bot.say("next")
    assert (bot.app.user_data[42]["step"], bot.app.user_data[43]["step"]) == ("name", "age")
    await bot.say("start")
    await bot.say("next")
    assert bot.app.user_data[42]["step"] == "age"
    await bot.stop()
    assert witness.texts()["ptb:conversations:1001", key] == before


@pytest.mark.parametrize("text", ["[1, 2]", "7", "null", '"x"', '{"$set": [1]}'])
@pytest.mark.parametrize("section", ["user_data", "bot_data"])
async def test_an_entry_of_another_type_than_the_context_has_is_quarantined(start_bot, witness, text, section):
    """A handler that finds a list for user_data would fail at every update."""
    place = {"user_data": (USERS, "42"), "bot_data": (BOT, "data")}[section]
    bot = await start_bot()
    await bot.say("x", lambda _, context: getattr(context, section).update(a=1))
    await bot.stop()
    witness.update_text(*place, text)
    before = witness.texts()[place]
    bot = await start_bot()
    await bot.say("x", lambda _, context: getattr(context, section).update(b=2))
    await bot.stop()
    assert not bot.errors
    assert witness.texts()[place] == before
