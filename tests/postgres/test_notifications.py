"""Peek: a token while notifications are known to come through, None in all other cases."""

from __future__ import annotations

import asyncio
import time

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.postgres import channel
from ptb_kvpersistence.backends.postgres.channel import Channel
from ptb_kvpersistence.backends.postgres.schema import LOOK
from ptb_kvpersistence.model import Commit, Delete, DeleteStore, GetMany, ListStores, OpenStore, Put, Sweep
from tests.servers.postgres import through

LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT 1' AND application_name = 'ptb_kvpersistence'"


def peek(backend, max_age=0.3):
    return getattr(backend, "backend", backend).peek(max_age)


async def until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return found


async def listening(backend):
    return await until(lambda: peek(backend))


async def test_nothing_is_promised_without_notifications(backend, store):
    assert peek(backend, 0) is None
    assert peek(backend, 0.05) is None


async def test_equal_tokens_mean_that_nobody_committed(connect_to, schema, backend, store):
    other = connect_to(schema.url)
    token = await listening(backend)
    await asyncio.sleep(0.6)
    await backend.perform(GetMany(store, ()))
    await backend.perform(Commit(store, (Delete("d", "never there"),)))
    assert peek(backend) == token
    writes = [
        (backend, Commit(store, (Put("d", "k", b"1"),))),
        (other, Commit(store, (Put("d", "k", b"2", 1),))),
        (other, OpenStore("new", "create")),
        (other, DeleteStore("new")),
        (other, Sweep()),
    ]
    for writer, request in writes:
        await asyncio.sleep(0.01)
        await writer.perform(request)
        before, token = token, await until(lambda before=token: peek(backend) not in (None, before) and peek(backend))
        assert token != before


async def test_a_dead_channel_is_noticed_in_time(connect_to, schema, proxy, store):
    remote = connect_to(through(schema.url, proxy.port))
    await remote.perform(ListStores())
    token = await listening(remote)
    proxy.is_deaf = True
    await asyncio.sleep(0.35)
    assert peek(remote) is None
    proxy.is_deaf = False
    proxy.cut_all()
    assert await listening(remote) != token


async def test_a_channel_behind_a_cut_connection_gives_new_tokens(connect_to, schema, proxy, backend, store):
    remote = connect_to(through(schema.url, proxy.port))
    await remote.perform(ListStores())
    token = await listening(remote)
    proxy.cut_all()
    # Whatever is committed now cannot be told to it.
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    assert await until(lambda: peek(remote) not in (None, token) and peek(remote)) != token


async def test_a_pooler_in_between_is_noticed(monkeypatch, connect_to, schema):
    # A pooler says a number of its own when a connection is made.
    monkeypatch.setattr("ptb_kvpersistence.backends.postgres.attempts.LOOK", LOOK.replace("_pid()", "_pid() + 1"))
    backend = connect_to(schema.url)
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    for number in range(10):
        await backend.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
        assert peek(backend) is None
    runner = backend.backend.runner if hasattr(backend, "backend") else next(iter(backend._loops.values())).runner
    (connection,) = runner.pool.all()
    assert not connection.memory.is_used


async def test_it_stops_when_nobody_asks(monkeypatch, schema):
    monkeypatch.setattr(channel, "UNASKED", 0.2)
    async with connect_async(schema.url) as database:
        backend = (await database.create("shop")).backend
        await listening(backend)
        (here,) = backend._loops.values()
        assert here.channel.is_listening
        await until(lambda: not here.channel.is_listening)
        assert peek(backend) is None


async def test_release_ends_it_and_the_next_look_begins_anew(schema):
    async with connect_async(schema.url) as database:
        store = await database.create("shop")
        token = await listening(store.backend)
        await store.backend.release()
        assert peek(store.backend) is None
        await store.set("k", 1)
        assert await listening(store.backend) != token


def test_the_shortest_age_sets_the_heartbeat():
    looked = Channel("somewhere")
    for age in (3.0, 0.3, 30.0, 0.05):
        looked.wants_connection(age)
    assert looked.interval == pytest.approx(0.1)


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_watchers_hear_of_changes(schema, face):
    seen = []
    with connect(schema.url) as database:
        store = database.create("shop")
        if face == "async":
            async with connect_async(schema.url) as other:
                watched = await other.store("shop")

                async def watch():
                    async for event in watched.watch():
                        seen.append((event.key, event.value, time.monotonic()))  # noqa: PERF401 - one by one

                task = asyncio.create_task(watch())
                await asyncio.sleep(0.5)
                sent = time.monotonic()
                await asyncio.to_thread(store.set, "k", 1)
                await until(lambda: seen)
                task.cancel()
                await asyncio.wait([task])
        else:

            def follow():
                with connect(schema.url) as other:
                    for event in other.store("shop").watch(timeout=3):
                        seen.append((event.key, event.value, time.monotonic()))
                        return

            following = asyncio.create_task(asyncio.to_thread(follow))
            await asyncio.sleep(0.5)
            sent = time.monotonic()
            await asyncio.to_thread(store.set, "k", 1)
            await following
    ((key, value, at),) = seen
    assert (key, value) == ("k", 1)
    assert at - sent < 0.3
