"""Notifications: equal tokens mean that nothing was committed, and there is none where that cannot be known."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ptb_kvpersistence.backends.redis import aio_notices
from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend
from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.model import Address, Commit, GetMany, OpenStore, Put
from tests.redis.test_cluster import settled
from tests.servers.proxy import Proxy


@pytest.fixture
async def pair(connect, url):
    subject, writer = connect(url), connect(url)
    store = (await subject.perform(OpenStore("shop", "create"))).id
    await writer.perform(OpenStore("shop"))
    return subject, writer, store


async def test_without_an_age_nothing_is_known(pair):
    subject, _, _ = pair
    assert subject.raw.peek() is None
    assert subject.raw.peek(0.05) is None


async def test_each_commit_of_anybody_is_seen_in_time(pair):
    subject, writer, store = pair
    for number in range(20):
        token = await settled(subject, 0.2)
        assert token is not None
        for each in (subject, writer):
            await each.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
        committed_at = time.monotonic()
        while subject.raw.peek(0.2) == token:
            assert time.monotonic() - committed_at <= 0.25
            await asyncio.sleep(0.005)


async def test_reads_and_conflicts_change_nothing(pair):
    subject, writer, store = pair
    token = await settled(subject)
    for _ in range(5):
        await writer.perform(GetMany(store, (Address("d", "n"),)))
        await writer.perform(Commit(store, (), (), "only an id"))
    await asyncio.sleep(0.4)
    assert await settled(subject) == token


async def test_a_deaf_server_makes_no_token(pair, own_server):
    subject, _, _ = pair
    assert await settled(subject) is not None
    own_server.freeze()
    try:
        deadline = time.monotonic() + 3
        while subject.raw.peek(0.3) is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    finally:
        own_server.thaw()
    assert await settled(subject) is not None


async def test_what_was_missed_while_the_connection_was_away_is_another_token(connect, own_server, url):
    proxy = Proxy(own_server.port)
    subject, writer = connect(url.replace(str(own_server.port), str(proxy.port))), connect(url)
    store = (await subject.perform(OpenStore("shop", "create"))).id
    token = await settled(subject)
    proxy.cut_all()
    await writer.perform(Commit(store, (Put("d", "n", b"1"),)))
    assert await settled(subject) not in {None, token}
    token = await settled(subject)
    await asyncio.to_thread(own_server.restart)
    assert await settled(subject) not in {None, token}
    proxy.close()


async def test_nobody_listens_for_who_does_not_ask(pair, monkeypatch, own_server):
    subject, _, _ = pair
    if hasattr(subject.raw, "_loops"):
        monkeypatch.setattr(aio_notices, "UNASKED", 0.3)
        monkeypatch.setattr(aio_notices, "AGAIN_AFTER", 0.01)
    assert await settled(subject) is not None
    with own_server.client() as client:
        assert listeners(client) == 1
        if hasattr(subject.raw, "_loops"):
            await asyncio.sleep(0.8)
            assert listeners(client) == 0
            assert await settled(subject) is not None
        await subject.close()
        await asyncio.sleep(0.1)
        assert listeners(client) == 0


def listeners(client):
    return sum(number for _, number in client.pubsub_numsub(*client.pubsub_channels("*:changed")))


def test_threads_that_peek_at_once(url):
    backend, failures, tokens = RedisBackend(url), [], set()

    def look():
        try:
            tokens.update(backend.peek(1) for _ in range(100))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()
    assert failures == []
    assert len(tokens - {None}) == 1


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_closing_while_it_begins_to_listen_takes_no_time(connect, url, steps):
    subject = connect(url)
    await subject.perform(OpenStore("shop", "ensure"))
    subject.raw.peek(0.3)
    for _ in range(steps):
        await asyncio.sleep(0)
    began = time.monotonic()
    await subject.close()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("steps", range(0, 40, 2))
def test_a_run_that_ends_while_it_begins_to_listen_takes_no_time(url, steps):
    backend = AsyncRedisBackend(url)

    async def main():
        await backend.perform(OpenStore("shop", "ensure"))
        backend.peek(0.3)
        for _ in range(steps):
            await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 2
    asyncio.run(backend.close())
