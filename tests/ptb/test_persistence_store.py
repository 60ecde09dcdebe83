"""Handlers use ``persistence.store`` beside the sections: watching, locks, counters, the same on each database."""

from __future__ import annotations

import asyncio

import pytest

from ptb_kvpersistence import connect_async
from tests.ptb.offline import OTHER_TOKEN, TOKEN

pytestmark = pytest.mark.everywhere


async def within(seconds, awaitable):
    return await asyncio.wait_for(awaitable, seconds)


async def test_a_handler_watches_what_others_do(start_bot, location):
    bot, other = await start_bot(TOKEN), await start_bot(OTHER_TOKEN)
    seen, watching, ready = [], [], asyncio.Event()

    async def watch(store):
        async with store.watch(domain="orders") as changes:
            ready.set()
            async for change in changes:
                seen.append((change.key, change.value))
                if len(seen) == 2:
                    return

    async def start(_, context):
        watching.append(asyncio.create_task(watch(context.application.persistence.store)))

    async def order(_, context):
        await context.application.persistence.store.domain("orders").set("PO-1", {"items": [1]})

    await bot.say("watch", start)
    await within(5, ready.wait())
    await other.say("order", order)
    async with connect_async(location) as database:
        store = await database.store("default")
        await store.domain("orders").set("PO-2", "from a script")
        await within(10, watching[0])
    assert seen == [("PO-1", {"items": [1]}), ("PO-2", "from a script")]
    assert not bot.errors
    assert not other.errors


async def test_a_watcher_sees_what_a_flush_saves(start_bot, location):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    async with connect_async(location) as database:
        store = await database.store("default")
        async with store.watch(domain="ptb:user_data:1001") as changes:
            await bot.save()
            change = await within(10, anext(changes))
    assert (change.key, change.value) == ("42", {"a": 1})


async def test_handlers_of_two_bots_take_turns_under_a_lock(start_bot):
    bots = [await start_bot(TOKEN), await start_bot(OTHER_TOKEN)]
    inside = []

    async def report(_, context):
        store = context.application.persistence.store
        async with store.lock("report", ttl=30) as lease:
            inside.append(lease.token)
            count = await store.get("reports", 0)
            await asyncio.sleep(0.01)
            await store.set("reports", count + 1)

    async def talk(bot):
        for _ in range(5):
            await bot.say("report", report)

    await asyncio.gather(*map(talk, bots))
    assert [bot.errors for bot in bots] == [[], []]
    assert await bots[0].persistence.store.get("reports") == 10
    assert inside == sorted(set(inside)), "each lease has a token of its own, and they grow"


async def test_counters_of_handlers_that_run_at_once(start_bot):
    bots = [
        await start_bot(token, build=lambda builder: builder.concurrent_updates(16)) for token in (TOKEN, OTHER_TOKEN)
    ]

    async def count(store):
        for _ in range(10):
            await store.increment("visits")

    await asyncio.gather(*(count(bot.persistence.store) for bot in bots for _ in range(4)))
    assert await bots[1].persistence.store.get("visits") == 80
