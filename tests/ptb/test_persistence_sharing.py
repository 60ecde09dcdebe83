"""Several bots on one store: shared sections, policies, conflicts and their log."""

from __future__ import annotations

import random
import re

import pytest
import pytest_asyncio

from ptb_kvpersistence import KVPersistence, connect_async
from tests.ptb.offline import OTHER_TOKEN, TOKEN, FaultyCommits
from tests.ptb.test_persistence_conversations import form

pytestmark = pytest.mark.everywhere

SHAREABLE = ("user_data", "chat_data", "bot_data")


@pytest_asyncio.fixture
async def databases():
    """Databases that outlive the bots of a test."""
    opened = []
    yield opened
    for database in opened:
        await database.close()


@pytest.fixture(params=["one location", "one AsyncStore"])
def start_pair(request, databases, start_bot, location):
    """Start two bots on one store, in each of the ways in which one process can."""

    async def start(**options):
        if request.param == "one location":
            settings = [{"filepath": location}, {"filepath": location}]
        else:
            databases.append(connect_async(location))
            store = await databases[-1].store(create=True)
            settings = [{"store": store}, {"store": store}]
        return [
            await start_bot(token, persistence=KVPersistence(**setting, max_staleness=0, **options))
            for token, setting in zip((TOKEN, OTHER_TOKEN), settings, strict=True)
        ]

    return start


def edit(function, section="user_data"):
    return lambda _, context: function(getattr(context, section))


async def look(bot, section="user_data"):
    found = []
    await bot.say("x", lambda _, context: found.append(dict(getattr(context, section))))
    assert not bot.errors
    return found[0]


@pytest.mark.everywhere(memory=True)
@pytest.mark.parametrize("shared", SHAREABLE)
async def test_each_section_is_shared_only_when_asked(start_pair, shared):
    one, two = await start_pair(share=[shared])
    for section in SHAREABLE:
        await one.say("x", edit(lambda data: data.update(a=1), section))
    await one.save()
    for section in SHAREABLE:
        assert await look(two, section) == ({"a": 1} if section == shared else {})


@pytest.mark.everywhere(memory=True)
async def test_both_see_and_keep_each_others_edits(start_pair):
    one, two = await start_pair(share=SHAREABLE)
    for section in SHAREABLE:
        await one.say("x", edit(lambda data: data.update(one=1, both={"one": 1}, log=["one"]), section))
        await two.say("x", edit(lambda data: data.update(two=2, both={"two": 2}, log=["two"]), section))
    await one.save()
    await two.save()
    for section in SHAREABLE:
        merged = await look(two, section)
        # Two lists made by both are no list that both have grown: the last writer's stays.
        assert merged == {"one": 1, "two": 2, "both": {"one": 1, "two": 2}, "log": ["two"]}
        await one.say("x", edit(lambda data: data["log"].append("more"), section))
    await one.save()
    for section in SHAREABLE:
        assert (await look(two, section))["log"][-1] == "more"
        assert await look(one, section) == await look(two, section)


@pytest.mark.everywhere(memory=True)
async def test_appends_of_both_are_kept(start_pair):
    one, two = await start_pair(share=["user_data"])
    await one.say("x", edit(lambda data: data.update(log=[])))
    await one.save()
    for number in range(5):
        for bot, name in ((one, "a"), (two, "b")):
            await bot.say("x", edit(lambda data, name=name, number=number: data["log"].append(f"{name}{number}")))
        if number % 2:
            await two.save()
        await one.save()
    await two.save()
    expected = sorted(f"{name}{number}" for name in "ab" for number in range(5))
    assert sorted((await look(one))["log"]) == expected
    assert sorted((await look(two))["log"]) == expected


@pytest.mark.everywhere(memory=True)
async def test_a_drop_of_one_keeps_what_the_other_edited_meanwhile(start_pair):
    one, two = await start_pair(share=["user_data"])
    await one.say("x", edit(lambda data: data.update(a=1, b=1)))
    await one.save()
    await two.say("x", edit(lambda data: data.update(b=2)))
    one.app.drop_user_data(42)
    await one.save()
    await two.save()
    assert await look(one) == await look(two) == {"b": 2}


@pytest.mark.everywhere(memory=True)
async def test_a_drop_is_seen_by_the_other(start_pair):
    one, two = await start_pair(share=["user_data"])
    await one.say("x", edit(lambda data: data.update(a=1)))
    await one.save()
    assert await look(two) == {"a": 1}
    one.app.drop_user_data(42)
    await one.save()
    assert await look(two) == {}
    await two.save()
    await two.say("x", edit(lambda data: data.update(new=1)))
    await two.save()
    assert await look(one) == {"new": 1}


async def test_conversations_and_buttons_stay_private(start_bot):
    one = await start_bot(TOKEN, options={"share": SHAREABLE}, handlers=[form()])
    two = await start_bot(OTHER_TOKEN, options={"share": SHAREABLE}, handlers=[form()])
    await one.say("start")
    await one.save()
    await two.say("next")
    assert await look(two) == {"step": "name"}, "the data is shared, the conversation is not"
    await two.say("start")
    await two.save()
    await one.say("next")
    assert await look(one) == {"step": "age"}


async def test_a_store_that_was_given_is_not_closed(start_bot, location):
    async with connect_async(location) as database:
        store = await database.create("common")
        bot = await start_bot(persistence=KVPersistence(store=store))
        assert bot.persistence.store.name == "common"
        assert bot.persistence.filepath is None
        await bot.say("x", edit(lambda data: data.update(a=1)))
        await bot.stop()
        await store.set("color", "red")
        assert await store.get("color") == "red"
        assert await store.domain("ptb:user_data:1001").get("42") == {"a": 1}


async def test_handlers_use_the_store(start_bot):
    bot = await start_bot()

    async def count(update, context):
        store = context.application.persistence.store
        await store.increment("visits")
        await store.domain("orders").add(f"PO-{await store.get('visits')}", {"at": update.message.date})

    for _ in range(3):
        await bot.say("x", count)
    assert not bot.errors
    store = bot.persistence.store
    assert await store.get("visits") == 3
    assert [key async for key, _ in store.domain("orders").items()] == ["PO-1", "PO-2", "PO-3"]


@pytest.mark.everywhere(memory=True)
async def test_a_handler_changes_the_data_of_another_user(start_pair):
    one, two = await start_pair(share=["user_data"])
    await two.say("x", edit(lambda data: data.update(coins=1)), user=5)
    await two.save()

    async def give(_, context):
        other = context.application.user_data[5]
        await context.application.persistence.refresh_user_data(5, other)
        other["coins"] += 10
        context.application.mark_data_for_update_persistence(user_ids=5)

    await one.say("x", give)
    await one.save()
    found = []
    await two.say("x", edit(lambda data: found.append(dict(data))), user=5)
    assert found == [{"coins": 11}]
    assert (one.errors, two.errors) == ([], [])


@pytest.mark.everywhere(memory=True)
@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "exclusive"])
@pytest.mark.parametrize("ending", ["committed", "rolled back", "conflict"])
async def test_one_transaction_spans_the_sections_of_two_bots(start_pair, lock, ending):
    one, two = await start_pair()
    for bot in (one, two):
        await bot.say("x", edit(lambda data: data.update(coins=10)))
        await bot.save()

    async def transfer(_, context):
        store = context.application.persistence.store
        async with store.transaction(lock=lock):
            for name, amount in (("1001", -3), ("2002", 3)):
                users = store.domain(f"ptb:user_data:{name}")
                data = await users.get("42")
                await users.set("42", {**data, "coins": data["coins"] + amount})
            await store.domain("journal").set("1", 3)
            if ending == "rolled back":
                raise RuntimeError("on purpose")
            if ending == "conflict" and not lock:
                context.user_data["seen"] = True
                context.application.mark_data_for_update_persistence(user_ids=42)
                await one.save()  # what a flush writes conflicts as anything else does

    await one.say("x", transfer)
    happens = ending == "committed" or (lock and ending == "conflict")
    assert len(one.errors) == (not happens)
    one.errors.clear()
    assert (await look(one))["coins"] == (7 if happens else 10)
    assert (await look(two))["coins"] == (13 if happens else 10)
    assert await one.persistence.store.domain("journal").get("1") == (3 if happens else None)


# --- policies and conflicts ---


async def conflict(one, two, ours, theirs, base=None):
    """Both bots change the same place without having seen each other; ``one`` saves last. Give what results."""
    if base is not None:
        await two.say("x", edit(lambda data: data.update(place=base)))
        await two.save()
        await look(one)
    await one.say("x", edit(lambda data: data.update(place=ours)))
    await two.say("x", edit(lambda data: data.update(place=theirs)))
    await two.save()
    await one.save()
    result = await look(two)
    assert await look(one) == result
    return result["place"]


@pytest.mark.parametrize(
    ("merge", "ours", "theirs", "base", "result"),
    [
        ("ours", "o", "t", "b", "o"),
        ("theirs", "o", "t", "b", "t"),
        ({"user_data.*.place": "theirs"}, "o", "t", "b", "t"),
        ({"user_data.*.place": "sum"}, 7, 11, 5, 13),
        ({"user_data.*.place": "sum"}, 1, 1, 0, 2),
        ({"user_data.*.place": "sum"}, 1, 1, None, 2),
        ({"user_data.*.place": "max"}, 3, 9, 1, 9),
        ({"user_data.*.place": "min"}, 3, 9, 10, 3),
        ({"user_data.42.place": "union"}, {1, 2}, {3}, {1}, {2, 3}),
        ({"user_data.*.place": "union"}, ["a", "b"], ["c"], [], ["c", "a", "b"]),
        ({"user_data.*.place": lambda base, ours, theirs: f"{base}{ours}{theirs}"}, "o", "t", "b", "bot"),
        ({"user_data.43.place": "sum"}, 7, 11, 5, 7),
        ({"chat_data.*.place": "sum"}, 7, 11, 5, 7),
    ],
    ids=lambda value: re.sub(r"<.*>", "function", str(value)),
)
async def test_policies(start_bot, merge, ours, theirs, base, result):
    options = {"share": ["user_data"], "merge": merge}
    one, two = await start_bot(TOKEN, options=options), await start_bot(OTHER_TOKEN, options=options)
    assert await conflict(one, two, ours, theirs, base) == result


async def test_a_conflict_is_counted_and_logged_by_place_never_by_content(start_bot, caplog):
    options = {"share": ["user_data"]}
    one, two = await start_bot(TOKEN, options=options), await start_bot(OTHER_TOKEN, options=options)
    assert await conflict(one, two, "my secret", "their secret", "old secret") == "my secret"
    (message,) = [r.getMessage() for r in caplog.records if "discarded" in r.getMessage()]
    assert message == "user_data[42]: both sides changed user_data.42.place; one value was discarded (value)"
    assert "secret" not in caplog.text
    assert one.persistence.discarded == 1


async def test_a_merge_without_conflict_logs_nothing(start_bot, caplog):
    options = {"share": ["user_data"], "merge": {"user_data.*.n": "sum"}}
    one, two = await start_bot(TOKEN, options=options), await start_bot(OTHER_TOKEN, options=options)
    for bot, name in ((one, "one"), (two, "two")):
        await bot.say("x", edit(lambda data, name=name: data.update({name: 1, "n": 3})))
    await two.save()
    await one.save()
    assert await look(two) == {"one": 1, "two": 1, "n": 6}
    assert [r for r in caplog.records if r.levelname in {"WARNING", "ERROR"} and "discarded" in r.getMessage()] == []


async def test_a_policy_that_fails_falls_back_and_is_told(start_bot, caplog):
    def failing(base, ours, theirs):
        raise ZeroDivisionError(ours)

    options = {"share": ["user_data"], "merge": {"user_data.*.place": failing}}
    one, two = await start_bot(TOKEN, options=options), await start_bot(OTHER_TOKEN, options=options)
    assert await conflict(one, two, "secret o", "secret t", "b") == "secret o"
    assert "user_data.42.place" in caplog.text
    assert "secret" not in caplog.text


# --- counters and histories ---


@pytest.mark.parametrize("seed", range(4))
async def test_random_histories_of_two_bots_lose_nothing(start_bot, seed):
    """Counters, appends and keys of their own; saves, failing saves and refreshes in any order."""
    options = {"share": ["user_data"], "merge": {"user_data.*.n": "sum"}}
    bots = [await start_bot(token, options=options) for token in (TOKEN, OTHER_TOKEN)]
    faults = [FaultyCommits(bot.persistence) for bot in bots]
    choose = random.Random(seed)
    await bots[0].say("x", edit(lambda data: data.update(n=0, log=[], keys={})))
    await bots[0].save()
    await look(bots[1])
    appended, count, keys = [], 0, set()
    for step in range(60):
        number = choose.randrange(2)
        bot = bots[number]
        match choose.randrange(5):
            case 0:
                await bot.say("x", edit(lambda data: data.update(n=data["n"] + 1)))
                count += 1
            case 1:
                await bot.say("x", edit(lambda data, step=step: data["log"].append(step)))
                appended.append(step)
            case 2:
                await bot.say("x", edit(lambda data, step=step: data["keys"].update({step: [step]})))
                keys.add(step)
            case 3:
                if choose.random() < 0.3:
                    faults[number].failures = [TimeoutError("no luck")]
                await bot.save()
            case _:
                await bot.say("x")
    for fault in faults:
        fault.failures = []
    for bot in (*bots, *bots):
        bot.app.mark_data_for_update_persistence(user_ids=42)
        await bot.save()
        await bot.say("x")
    for bot in bots:
        final = bot.app.user_data[42]
        assert final["n"] == count
        assert sorted(final["log"]) == appended
        assert set(final["keys"]) == keys
    assert bots[0].app.user_data[42] == bots[1].app.user_data[42]
