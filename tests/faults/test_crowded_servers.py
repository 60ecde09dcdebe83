"""Bots whose connections do not suffice: the pool's, the server's, and a pooler's in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import ContextVar

import psycopg
import pytest
from telegram import Update
from telegram.ext import TypeHandler

from ptb_kvpersistence import DatabaseError, KVPersistence
from ptb_kvpersistence.backends.postgres.pool import LANES
from ptb_kvpersistence.errors import DatabaseUnavailableError
from ptb_kvpersistence.persistence.sight import LOOK_TIMEOUT
from tests.faults.stalls import Times
from tests.faults.talking import OPTIONS, PROMPT, USERS, Talk, assert_all_there, begin, saved, saving
from tests.ptb.offline import OTHER_TOKEN, TOKEN, OfflineBot
from tests.ptb.places import PostgresPlace
from tests.servers import postgres
from tests.servers.pooler import Pooler
from tests.servers.ports import free_port

pytestmark = pytest.mark.slow


said_at: ContextVar[float] = ContextVar("said_at")


class Counting:
    """A bot whose handlers count: in user_data, in the store, and in the store alone with it."""

    def __init__(self, location, token=TOKEN, **options):
        self.bot = OfflineBot(
            KVPersistence(location, **{**OPTIONS, **options}), token, handlers=[TypeHandler(Update, self._handle)]
        )
        self.times = Times()

    async def _handle(self, update, context):
        self.times.note(said_at.get())
        context.user_data["n"] = context.user_data.get("n", 0) + 1
        store = self.bot.persistence.store
        await store.increment("total")
        if update.update_id % 5 == 0:
            async with store.transaction(lock=True, timeout=30) as view:
                await view.set("locked", await view.get("locked", 0) + 1)

    async def _say(self, number, user):
        await asyncio.sleep(number * 0.005)  # so that most come while others wait for the store
        said_at.set(time.monotonic())
        await self.bot.say("x", user=user)

    async def work(self, updates, users=20):
        await asyncio.gather(*(self._say(number, number % users + 1) for number in range(updates)))


async def test_more_handlers_than_connections(remote, monkeypatch):
    for lane in LANES:
        monkeypatch.setitem(LANES, lane, 1)
    location = remote.location if remote.kind == "postgres" else f"{remote.location}&max_connections=1"
    counting = Counting(location)
    bot = await counting.bot.start()
    before, remote.proxy.delay = remote.proxy.accepted, 0.002
    async with saving(bot):
        await counting.work(60)
    assert max(counting.times.seconds()) < LOOK_TIMEOUT + PROMPT
    assert remote.proxy.accepted - before <= 4, "one for each lane, and those of exclusive transactions"
    store = bot.persistence.store
    assert (await store.get("total"), await store.get("locked")) == (60, 12)
    await bot.save()
    await saved(bot)
    assert sum(data["n"] for data in remote.witness().values(USERS).values()) == 60
    assert bot.errors == []
    await bot.stop()


@contextlib.contextmanager
def full(remote):
    """Let the server take no connection more."""
    with contextlib.ExitStack() as opened:
        if remote.kind == "postgres":
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    opened.enter_context(contextlib.closing(psycopg.connect(remote.server.url)))
        else:
            client = opened.enter_context(remote.server.client())
            most = client.config_get("maxclients")["maxclients"]
            client.config_set("maxclients", len(client.client_list()))
            opened.callback(client.config_set, "maxclients", most)
        yield


async def test_a_server_that_takes_no_more_connections(remote, start_there):
    bot, talk = await begin(start_there)
    witness = remote.witness()
    await bot.persistence.store.backend.release()
    remote.proxy.cut_all()
    with full(remote):
        async with saving(bot):
            await talk.during(6)  # longer than a commit waits
            deadline = time.monotonic() + 30
            while not bot.errors and time.monotonic() < deadline:
                await talk.during(0.5)
        assert bot.persistence.pending
        assert talk.count > 100
        talk.assert_prompt()
        assert {type(error) for error in bot.errors} == {DatabaseUnavailableError}
        # Valkey closes the connection at once, so that what it says before may not be heard.
        said = "clients" if remote.kind == "postgres" else "did not answer"
        assert all(said in str(error) for error in bot.errors), bot.errors
    await saved(bot)
    await assert_all_there(bot, talk, witness)


@pytest.fixture
def place():
    place = PostgresPlace()
    yield place
    place.close()


async def test_two_bots_behind_a_pooler(place):
    pooler = Pooler(postgres.shared_url(), 2)
    location = postgres.through(place.location, pooler.port)
    crowd = [Counting(location, token, max_staleness=0.2) for token in (TOKEN, OTHER_TOKEN)]
    bots = [await counting.bot.start() for counting in crowd]
    async with saving(bots[0]), saving(bots[1]):
        for _ in range(4):
            await asyncio.gather(*(counting.work(20, users=5) for counting in crowd))
    store = bots[0].persistence.store
    assert (await store.get("total"), await store.get("locked")) == (160, 32)
    for bot in bots:
        await bot.save()
        await saved(bot)
        assert bot.errors == []
        assert bot.persistence.store.backend.peek(0.2) is None, "notifications do not come through"
        await bot.stop()
    values = place.witness().values(USERS)
    assert sum(data["n"] for data in values.values()) == 160
    assert set(values) == set("12345")
    assert all(max(counting.times.seconds()) < LOOK_TIMEOUT + PROMPT for counting in crowd)
    pooler.close()
    assert pooler.most <= 2
    assert pooler.left_behind == []


async def test_a_pooler_that_is_started_again(place):
    pooler = Pooler(postgres.shared_url(), 2, port=free_port())
    bot = OfflineBot(KVPersistence(postgres.through(place.location, pooler.port), **OPTIONS))
    await bot.start()
    talk = Talk(bot)
    async with saving(bot):
        await talk.during(0.5)
        await asyncio.to_thread(pooler.close)
        await talk.during(2)
        pooler = Pooler(postgres.shared_url(), 2, port=pooler.port)
        await saved(bot)
    await assert_all_there(bot, talk, place.witness())
    await bot.stop()
    pooler.close()
    assert pooler.left_behind == []
    assert all(isinstance(error, DatabaseError) for error in bot.errors)
