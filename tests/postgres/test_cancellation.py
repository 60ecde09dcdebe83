"""Callers that are cancelled, at each step: what was begun goes on, and no connection or lock is lost."""

from __future__ import annotations

import asyncio

import pytest

from ptb_kvpersistence import connect_async
from ptb_kvpersistence.backends.postgres.aio import AsyncPostgresBackend
from ptb_kvpersistence.errors import ReentryError
from ptb_kvpersistence.model import Address, Commit, GetMany, OpenStore, Put, SetDomain

STEPS = 40


@pytest.fixture
async def backend(schema):
    backend = AsyncPostgresBackend(schema.url)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend):
    return (await backend.perform(OpenStore("shop", "create"))).id


async def cancelled_after(steps, coroutine):
    """Cancel a task after so many turns of the loop; True if it had not ended by then."""
    task = asyncio.create_task(coroutine)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


def in_use(backend):
    (here,) = backend._loops.values()
    return [gate._value for gate in here.runner.pool._gates.values()], len(here.runner.pool._free), here.sessions


async def settled(backend):
    (here,) = backend._loops.values()
    while here._tasks:
        await asyncio.wait(list(here._tasks))


async def test_commits(backend, store):
    for steps in range(STEPS):
        key = f"k{steps:02}"
        puts = tuple(Put(domain, key, b"1") for domain in "de")
        await cancelled_after(steps, backend.perform(Commit(store, puts, (), key)))
        await settled(backend)
        first, second = await backend.perform(GetMany(store, (Address("d", key), Address("e", key))))
        assert (first is None) == (second is None)
        if steps:
            assert first is not None  # what was begun goes on
    gates, free, _ = in_use(backend)
    assert set(gates) == {3, 4, 6}
    assert 1 <= free <= 3


async def test_beginning_an_exclusive_session(backend, store, schema):
    rival = AsyncPostgresBackend(schema.url)

    async def work():
        session = await backend.exclusive(store, 5)
        await session.end(None)

    for steps in range(STEPS):
        await cancelled_after(steps, work())
        await settled(backend)
        session = await rival.exclusive(store, 2)
        await session.end(None)
    assert in_use(backend)[2] == {}
    await rival.close()


async def test_waiting_for_an_exclusive_session(backend, store, schema):
    rival = AsyncPostgresBackend(schema.url)
    for delay in (0, 0.005, 0.05):
        session = await rival.exclusive(store, 5)
        waiter = asyncio.create_task(backend.exclusive(store, 5))
        await asyncio.sleep(delay)
        waiter.cancel()
        await asyncio.wait([waiter])
        await session.end(None)
        again = await rival.exclusive(store, 2)
        await again.end(None)
    await settled(backend)
    await rival.close()


async def test_ending_an_exclusive_session(backend, store):
    for steps in range(STEPS):
        key = f"k{steps:02}"

        async def work(key, reached):
            session = await backend.exclusive(store, 5)
            reached.set()
            await session.end(Commit(store, (Put("d", key, b"1"),)))

        reached = asyncio.Event()
        task = asyncio.create_task(work(key, reached))
        await reached.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await settled(backend)
        (record,) = await backend.perform(GetMany(store, (Address("d", key),)))
        assert record is not None
    assert in_use(backend)[2] == {}


async def test_transactions_of_the_store(schema):
    async with connect_async(schema.url) as database:
        store = await database.create("shop")

        async def work():
            async with store.transaction(lock=True) as view:
                await view.set("a", await view.get("a", 0) + 1)
                await view.set("b", await view.get("b", 0) + 1)

        for steps in range(0, 4 * STEPS, 3):
            await cancelled_after(steps, work())
        found = await store.get_many(["a", "b"])  # from one snapshot, for the last one may still be ending
        assert found.get("a") == found.get("b")
        async with store.transaction(lock=True, timeout=2) as view:
            await view.set("a", 0)


async def test_who_would_wait_for_himself_is_told_at_once(backend, store):
    other = (await backend.perform(OpenStore("other", "create"))).id
    session = await backend.exclusive(store, 5)
    for refused in (
        backend.perform(Commit(store, (Put("d", "k", b"1"),))),
        backend.perform(SetDomain(store, "d", 1000)),
        backend.exclusive(store, 5),
    ):
        with pytest.raises(ReentryError):
            await refused
    assert (await backend.perform(Commit(other, (Put("d", "k", b"1"),)))).is_committed
    second = await backend.exclusive(other, 5)
    await second.end(None)
    await session.end(None)


async def test_a_sync_wait_in_a_running_loop_is_refused(backend, store):
    sync = backend.blocking()
    assert sync.perform(Commit(store, (Put("d", "k", b"1"),))).is_committed
    session = await backend.exclusive(store, 5)
    with pytest.raises(ReentryError, match="AsyncStore"):
        sync.perform(Commit(store, (Put("d", "k", b"1"),)))
    with pytest.raises(ReentryError, match="AsyncStore"):
        sync.exclusive(store, 5)
    await session.end(None)
    sync.close()


async def test_a_domain_that_was_set_in_a_session_is_rolled_back_with_it(backend, store, schema):
    session = await backend.exclusive(store, 5)
    await session.perform(SetDomain(store, "d", 1000))
    await session.end(None)
    assert schema.rows("SELECT * FROM kv_domains") == []
    session = await backend.exclusive(store, 5)
    await session.perform(SetDomain(store, "d", 1000))
    await session.end(Commit(store, (Put("d", "k", b"1"),)))
    assert schema.rows("SELECT domain, keep FROM kv_domains") == [("d", 1000)]
    (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
    assert record.ttl == 1000
