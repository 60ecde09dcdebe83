"""How often a bot asks a server: counted by a proxy in between, which sees each question and each answer."""

from __future__ import annotations

import asyncio

import pytest

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.backends.redis.aio_wire import Pool
from ptb_kvpersistence.persistence import sight
from tests.ptb.offline import OfflineBot
from tests.ptb.places import ValkeyPlace

USERS = "ptb:user_data:1001"


async def turns(remote, act):
    before = remote.proxy.turns
    await act()
    return remote.proxy.turns - before


async def test_the_three_hooks_of_an_update_cost_one_round_trip(remote, start_there, monkeypatch):
    monkeypatch.setattr(sight, "GAP", 1.0)  # a busy machine may stop us between two hooks
    bot = await start_there()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    witness = remote.witness()
    for number in range(10):
        await asyncio.sleep(0.02)
        if number % 2:
            witness.put(USERS, "42", {"a": number})
            witness.put("ptb:chat_data:1001", "7", {"a": number})
            witness.put("ptb:bot_data:1001", "data", {"a": number})
        assert await turns(remote, lambda: bot.say("x")) == 1
        seen = (bot.app.user_data[42], bot.app.chat_data[7], bot.app.bot_data)
        assert number % 2 == 0 or seen == ({"a": number},) * 3
    assert not bot.errors


async def test_many_updates_at_once_share_their_looks(remote, start_there):
    bot = await start_there()
    await bot.say("x")
    await asyncio.sleep(0.02)
    assert await turns(remote, lambda: asyncio.gather(*(bot.say("x", user=user) for user in range(1, 21)))) <= 5


async def test_an_interval_with_a_hundred_users_costs_one_round_trip(remote, start_there):
    bot = await start_there()
    for value in range(2):
        for user in range(1, 101):
            await bot.say("x", lambda _, context, value=value: context.user_data.update(a=value), user=user, chat=user)
        spent = await turns(remote, bot.save)
        assert spent == 1, "BEGIN, the lock, the commit and COMMIT travel together"
        assert len(remote.witness().values(USERS)) == 100
    assert set(map(str, remote.witness().values(USERS).values())) == {"{'a': 1}"}
    assert await turns(remote, bot.save) == 0, "nothing changed"


async def test_what_others_changed_costs_an_interval_a_second_round_trip(remote, start_there):
    bot = await start_there(share=["user_data"], merge={"user_data.*.n": "sum"})
    for user in range(1, 101):
        await bot.say("x", lambda _, context: context.user_data.update(n=1), user=user, chat=user)
    await bot.save()
    for user in range(1, 101):
        await bot.say("x", lambda _, context: context.user_data.update(n=2), user=user, chat=user)
    witness = remote.witness()
    for user in range(1, 11):
        witness.put("ptb:user_data", str(user), {"n": 11})
    assert await turns(remote, bot.save) == 2
    values = witness.values("ptb:user_data")
    assert [values[str(user)] for user in range(1, 101)] == [{"n": 12}] * 10 + [{"n": 2}] * 90


def looks(bot):
    """Count the requests that the bot makes from now on; the channel's heartbeats are none."""
    backend = bot.persistence.store.backend
    made, perform = [], backend.perform

    async def counting(request, timeout=None):
        made.append(request)
        return await perform(request, timeout)

    backend.perform = counting
    return made


async def quiet(bot, made, updates=8):
    """Wait until that many updates in a row, longer than max_staleness apart, cost no request."""
    for _ in range(40):
        del made[:]
        for _ in range(updates):
            await asyncio.sleep(0.05)
            bot.persistence._keeper.sight.looked_at -= 1
            await bot.say("x")
        if not made:
            return
    pytest.fail(f"the last updates made {made}")


async def test_a_live_channel_that_says_nothing_changed_saves_the_look(remote, start_there):
    bot = await start_there(max_staleness=1)
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    made = looks(bot)
    await quiet(bot, made)
    remote.witness().put(USERS, "42", {"a": 2})
    for _ in range(100):
        bot.persistence._keeper.sight.looked_at -= 1
        await bot.say("x")
        if bot.app.user_data[42] == {"a": 2}:
            break
        await asyncio.sleep(0.02)
    assert bot.app.user_data[42] == {"a": 2}
    assert len(made) == 1, "the notification made it look"
    await quiet(bot, made)
    remote.proxy.cut_all()
    remote.witness().put(USERS, "42", {"a": 3})
    for _ in range(100):
        bot.persistence._keeper.sight.looked_at -= 1
        await bot.say("x")
        if bot.app.user_data[42] == {"a": 3}:
            break
        await asyncio.sleep(0.02)
    assert bot.app.user_data[42] == {"a": 3}, "a channel that broke is not believed"
    await quiet(bot, made)
    assert not bot.errors


async def test_within_max_staleness_nobody_asks(remote, start_there):
    bot = await start_there(max_staleness=30)
    await bot.say("x")
    made = looks(bot)
    for _ in range(5):
        await bot.say("x")
    assert made == []


async def test_a_cluster_is_asked_as_seldom(valkey_cluster, monkeypatch):
    """Its nodes tell clients where they are themselves, past any proxy; so exchanges are counted here."""
    asked, exchange = [], Pool.exchange

    async def counting(self, ask):
        asked.append(ask.node)
        return await exchange(self, ask)

    monkeypatch.setattr(Pool, "exchange", counting)
    place = ValkeyPlace(valkey_cluster)
    bot = await OfflineBot(KVPersistence(place.location)).start()
    for value in range(2):
        for user in range(1, 101):
            await bot.say("x", lambda _, context, value=value: context.user_data.update(a=value), user=user, chat=user)
        del asked[:]
        await bot.save()
        assert len(asked) == 1
    await asyncio.sleep(0.02)
    del asked[:]
    await bot.say("x")
    assert len(asked) == 1
    await bot.stop()
    assert len(place.witness().values(USERS)) == 100
    place.close()
