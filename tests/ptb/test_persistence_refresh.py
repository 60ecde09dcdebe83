"""What others write is in the dict at the next update, in place, and neither side's edits are lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from telegram.ext import ContextTypes

from ptb_kvpersistence import DatabaseError, KVPersistence
from ptb_kvpersistence.model import Changes, Commit
from tests.ptb.offline import FaultyCommits

pytestmark = pytest.mark.everywhere

SECTIONS = {"user_data": (42, "42"), "chat_data": (7, "7"), "bot_data": (None, "data")}


def domain_of(section, *, shared):
    return f"ptb:{section}" if shared else f"ptb:{section}:1001"


def options_of(*sections, shared, **more):
    return {"options": {"share": sections if shared else (), **more}}


async def look(bot, section="user_data"):
    """Process an update; give a copy of what its handler sees."""
    found = []
    await bot.say("x", lambda _, context: found.append(dict(getattr(context, section))))
    assert not bot.errors
    return found[0]


class Writers:
    """The ways in which somebody else writes an entry."""

    @staticmethod
    async def update(witness, domain, key, value):
        assert witness.update(domain, key, value) == 1

    @staticmethod
    async def insert_or_replace(witness, domain, key, value):
        witness.put(domain, key, value)

    @staticmethod
    async def persistence(witness, domain, key, value):
        section, shared = domain.split(":")[1], domain.count(":") == 1
        other = KVPersistence(witness.location, bot=1001, share=[section] if shared else ())
        await getattr(other, f"get_{section}")()
        if section == "bot_data":
            await other.update_bot_data(value)
        else:
            await getattr(other, f"update_{section}")(int(key), value)
        await other.flush()


WRITERS = {name: getattr(Writers, name) for name in ("update", "insert_or_replace", "persistence")}


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
async def test_a_change_from_outside_is_there_at_the_next_update(start_bot, witness, writer, section, shared):
    bot = await start_bot(**options_of(section, shared=shared))
    await bot.say("x", lambda _, context: getattr(context, section).update(keep={"x": [1]}, gone=1, n=1))
    await bot.save()
    seen = await look(bot, section)
    domain, key = domain_of(section, shared=shared), SECTIONS[section][1]
    await writer(witness, domain, key, {"keep": {"x": [1]}, "n": 2, "new": {"a": True}})
    again = await look(bot, section)
    assert again == {"keep": {"x": [1]}, "n": 2, "new": {"a": True}}
    assert type(again["new"]["a"]) is bool
    assert again["keep"] is seen["keep"], "what did not change is not touched"
    await bot.stop()
    assert witness.values(domain)[key] == again


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
async def test_objects_are_changed_in_place(start_bot, witness, shared):
    class Kept:
        pass

    kept = Kept()

    def keep(_, context):
        context.user_data.update(cart={"items": [1], "tags": {1}}, other=OrderedDict(a=[1], b=[2]))
        kept.data, kept.cart = context.user_data, context.user_data["cart"]
        kept.items, kept.tags, kept.other = kept.cart["items"], kept.cart["tags"], context.user_data["other"]

    bot = await start_bot(**options_of("user_data", shared=shared))
    await bot.say("x", keep)
    await bot.save()
    changed = {
        "cart": {"items": [1, {"a": 2}], "tags": {"$set": [1, 2]}, "note": "x"},
        "other": {"$OrderedDict": [["a", [1]], ["b", [2, 3]]]},
    }
    witness.update(domain_of("user_data", shared=shared), "42", changed)
    await look(bot)
    assert kept.data is bot.app.user_data[42]
    assert kept.cart is kept.data["cart"]
    assert kept.items is kept.cart["items"]
    assert kept.items == [1, {"a": 2}]
    assert kept.tags is kept.cart["tags"]
    assert kept.tags == {1, 2}
    assert kept.other == OrderedDict(a=[1], b=[2, 3])


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
async def test_users_that_others_have_created_are_there(start_bot, witness, shared):
    bot = await start_bot(**options_of("user_data", "chat_data", shared=shared))
    await bot.say("x", user=1)
    witness.put(domain_of("user_data", shared=shared), "42", {"vip": True})
    witness.put(domain_of("chat_data", shared=shared), "7", {"topic": "tea"})
    await bot.say("x", lambda _, context: context.user_data.update(b=1))
    assert bot.app.user_data[42] == {"vip": True, "b": 1}
    assert bot.app.chat_data[7] == {"topic": "tea"}
    await bot.stop()
    assert witness.values(domain_of("user_data", shared=shared))["42"] == {"vip": True, "b": 1}


async def test_a_user_whom_memory_has_created_empty_gets_what_others_wrote(start_bot, witness):
    bot = await start_bot()
    await bot.say("x")
    await bot.save()
    assert bot.app.user_data[42] == {}
    witness.put("ptb:user_data:1001", "42", {"vip": True})
    assert await look(bot) == {"vip": True}


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("section", SECTIONS)
async def test_a_deletion_from_outside_empties_the_dict_in_place(start_bot, witness, section, shared):
    bot = await start_bot(**options_of(section, shared=shared))
    await bot.say("x", lambda _, context: getattr(context, section).update(a=1, b={}))
    await bot.save()
    domain, key = domain_of(section, shared=shared), SECTIONS[section][1]
    assert witness.delete(domain, key) == 1
    assert await look(bot, section) == {}
    await bot.save()
    assert key not in witness.values(domain), "looking at it does not bring it back"
    await bot.say("x", lambda _, context: getattr(context, section).update(new=1))
    await bot.stop()
    assert witness.values(domain)[key] == {"new": 1}


async def test_what_was_edited_meanwhile_stays_when_others_delete(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1, b=1))
    await bot.save()
    await bot.say("x", lambda _, context: context.user_data.update(b=2))
    witness.delete("ptb:user_data:1001", "42")
    assert await look(bot) == {"b": 2}
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {"42": {"b": 2}}


async def test_unsaved_edits_and_foreign_ones_are_merged(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a={"x": 1, "y": 1}, log=["1"], gone=1))
    await bot.save()

    def edit(_, context):
        context.user_data["a"]["x"] = 2
        context.user_data["log"].append("ours")
        del context.user_data["gone"]

    await bot.say("x", edit)
    witness.update("ptb:user_data:1001", "42", {"a": {"x": 1, "y": 2, "z": 3}, "log": ["1", "theirs"], "gone": 1})
    merged = {"a": {"x": 2, "y": 2, "z": 3}, "log": ["1", "theirs", "ours"]}
    assert await look(bot) == merged
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {"42": merged}
    head = witness.head()
    assert await look(bot) == merged
    await bot.stop()
    assert witness.head() == head


async def test_a_foreign_edit_that_was_never_seen_survives_the_flush(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1, log=["1"]))
    await bot.save()
    await bot.say("x", lambda _, context: (context.user_data.update(b=2), context.user_data["log"].append("ours")))
    witness.update("ptb:user_data:1001", "42", {"a": 7, "log": ["1", "theirs"]})
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {"42": {"a": 7, "log": ["1", "theirs", "ours"], "b": 2}}
    assert await look(bot) == {"a": 7, "log": ["1", "theirs", "ours"], "b": 2}


async def test_a_foreign_edit_in_the_middle_of_the_commit_is_merged(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    faulty = FaultyCommits(bot.persistence)

    async def interfere(_request):
        faulty.before = None
        witness.update("ptb:user_data:1001", "42", {"a": 1, "theirs": 1})

    faulty.before = interfere
    await bot.say("x", lambda _, context: context.user_data.update(ours=1))
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {"42": {"a": 1, "theirs": 1, "ours": 1}}
    assert len(faulty.commits) == 2
    assert not bot.errors


async def test_an_update_during_a_commit_does_not_roll_back(start_bot, witness):
    """A late look must not be taken for an edit of somebody else's."""
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    for number in range(2):

        async def handle(_request, number=number):
            faulty.after = None
            await bot.say("x", lambda _, context: context.user_data.update(late=number))

        await bot.say("x", lambda _, context, number=number: context.user_data.update(n=number))
        faulty.after = handle
        await asyncio.wait_for(bot.save(), 5)
        assert bot.app.user_data[42] == {"n": number, "late": number}
    await bot.stop()
    assert witness.values("ptb:user_data:1001") == {"42": {"n": 1, "late": 1}}


async def test_own_commits_do_not_hide_what_others_wrote_before_them(start_bot, witness):
    bot = await start_bot()
    for user in (1, 2):
        await bot.say("x", lambda _, context: context.user_data.update(a=1), user=user)
    await bot.save()
    await bot.say("x", lambda _, context: context.user_data.update(b=1), user=1)
    witness.update("ptb:user_data:1001", "2", {"a": 2})
    await bot.save()
    found = []
    await bot.say("x", lambda _, context: found.append(dict(context.user_data)), user=2)
    assert found == [{"a": 2}]


async def test_a_handler_that_is_running_sees_it_in_its_own_dict(start_bot, witness):
    bot = await start_bot(build=lambda builder: builder.concurrent_updates(8))
    await bot.say("x", lambda _, context: context.user_data.update(a=1, log=[]))
    await bot.save()
    entered, gate, seen = asyncio.Event(), asyncio.Event(), []

    async def slow(_, context):
        mine = context.user_data
        mine["mine"] = 1
        mine["log"].append("mine")
        entered.set()
        await gate.wait()
        mine["after"] = 1
        seen.append(dict(mine))

    running = asyncio.ensure_future(bot.say("slow", slow))
    await entered.wait()
    witness.update("ptb:user_data:1001", "42", {"a": 2, "log": ["theirs"]})
    await bot.say("quick", lambda _, context: context.user_data["log"].append("quick"))
    gate.set()
    await running
    assert seen == [{"a": 2, "log": ["theirs", "mine", "quick"], "mine": 1, "after": 1}]
    assert bot.app.user_data[42] == seen[0]
    await bot.stop()
    assert witness.values("ptb:user_data:1001")["42"] == seen[0]


async def test_many_concurrent_updates_of_one_user_lose_nothing(start_bot, witness):
    bot = await start_bot(build=lambda builder: builder.concurrent_updates(64))
    await bot.say("x", lambda _, context: context.user_data.update(n=0, theirs=0))
    await bot.save()

    async def handle(number):
        async def action(_, context):
            context.user_data["n"] += 1
            await asyncio.sleep(0)
            context.user_data["n"] += 1

        await bot.say("x", action)

    for theirs in range(1, 6):
        await asyncio.gather(*(handle(number) for number in range(5)), bot.save())
        value = witness.values("ptb:user_data:1001")["42"]
        witness.update("ptb:user_data:1001", "42", {**value, "theirs": theirs})
    await bot.say("x")
    await bot.stop()
    final = bot.app.user_data[42]
    assert final["theirs"] == 5
    assert witness.values("ptb:user_data:1001")["42"] == final
    assert not bot.errors


@dataclass
class Profile:
    visits: int = 0
    tags: list = field(default_factory=list)


async def test_custom_types_are_changed_in_place_and_merged_by_attribute(start_bot, witness):
    types = ContextTypes(user_data=Profile)
    bot = await start_bot(options={"context_types": types}, context_types=types)
    await bot.say("x", lambda _, context: context.user_data.tags.append("a"))
    await bot.save()
    live, tags = bot.app.user_data[42], bot.app.user_data[42].tags
    tag = witness.values("ptb:user_data:1001")["42"]
    ((kind, (name, attributes)),) = tag.items()
    witness.update("ptb:user_data:1001", "42", {kind: [name, {**attributes, "visits": 5}]})
    await bot.say("x")
    assert bot.app.user_data[42] is live
    assert live.visits == 5
    assert live.tags is tags
    assert not bot.errors


async def test_a_default_of_a_custom_type_is_no_edit(start_bot, witness):
    types = ContextTypes(user_data=Profile)
    bot = await start_bot(options={"context_types": types}, context_types=types)
    await bot.say("x", lambda _, context: setattr(context.user_data, "visits", 5))
    await bot.save()
    ((kind, value),) = witness.values("ptb:user_data:1001")["42"].items()
    witness.put("ptb:user_data:1001", "43", {kind: [value[0], {"visits": 7, "tags": ["vip"]}]})
    await bot.say("x", user=43)
    assert bot.app.user_data[43] == Profile(7, ["vip"])
    await bot.stop()
    assert witness.values("ptb:user_data:1001")["43"][kind][1] == {"visits": 7, "tags": ["vip"]}


# --- what a refresh costs, and what it survives ---


class Requests:
    """Counts what a persistence asks its backend."""

    def __init__(self, persistence):
        backend = persistence.store.backend
        self.kinds, perform = [], backend.perform

        async def counting(request, timeout=None):
            self.kinds.append(type(request))
            return await perform(request, timeout)

        backend.perform = counting


async def test_with_nothing_changed_nobody_asks_the_file(start_bot, path, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    await bot.say("x")
    requests = Requests(bot.persistence)
    for user in range(20):
        await bot.say("x", user=user)
    assert requests.kinds == []
    witness.put("ptb:user_data:1001", "42", {"a": 2})
    for _ in range(5):
        await bot.say("x")
    assert requests.kinds == [Changes], "one look sees what changed"
    assert bot.app.user_data[42] == {"a": 2}


async def test_the_three_hooks_of_an_update_share_a_look(start_bot, witness):
    bot = await start_bot()
    persistence = bot.persistence
    persistence._keeper.sight.max_staleness = 10.0
    await bot.say("x")
    requests = Requests(persistence)
    witness.put("ptb:user_data:1001", "42", {"a": 1})
    persistence._keeper.sight.looked_at -= 20
    await bot.say("x")
    await bot.say("x")
    assert requests.kinds == [Changes]
    assert bot.app.user_data[42] == {"a": 1}
    witness.put("ptb:user_data:1001", "42", {"a": 2})
    await bot.say("x")
    assert bot.app.user_data[42] == {"a": 1}, "the last look is fresh enough, as max_staleness says"


@pytest.mark.parametrize(
    "error", [DatabaseError("disk I/O error"), OSError("gone")], ids=["of the package", "of the system"]
)
async def test_handlers_run_though_the_store_cannot_be_read(start_bot, witness, caplog, error):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    backend = bot.persistence.store.backend
    perform = backend.perform

    async def broken(request, timeout=None):
        if isinstance(request, Commit):
            return await perform(request, timeout)
        raise error

    backend.perform = broken
    witness.put("ptb:user_data:1001", "42", {"a": 2})
    assert (await look(bot))["a"] == 1
    assert "memory has to do" in caplog.text
    backend.perform = perform
    witness.put("ptb:user_data:1001", "42", {"a": 3})
    assert (await look(bot))["a"] == 3


async def test_a_locked_database_holds_up_no_handler(start_bot, path, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE entries SET value = '{\"a\": 2}' WHERE key = '42'")
        started = time.perf_counter()
        assert await look(bot) == {"a": 1}
        assert time.perf_counter() - started < 3
        other.execute("COMMIT")
    assert await look(bot) == {"a": 2}


async def test_keys_that_no_entity_has_are_left_alone(start_bot, witness):
    bot = await start_bot()
    for key in ("nonsense", "042", "1.5", "٤٢", " 42", "+42"):
        witness.put("ptb:user_data:1001", key, {"a": 1})
    witness.put("ptb:bot_data:1001", "other", {"a": 1})
    witness.put("", "mine", {"a": 1})
    witness.put("orders", "42", {"a": 1})
    assert await look(bot) == {}
    assert bot.app.bot_data == {}
    await bot.stop()
    assert len([key for domain, key in witness.rows() if domain == "ptb:user_data:1001"]) == 7
    assert (witness.values("orders"), witness.values("")) == ({"42": {"a": 1}}, {"mine": {"a": 1}})
