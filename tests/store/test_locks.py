"""Named locks: what the contract suite does not know, threads, wrong use and clocks that go back."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import (
    ConfigurationError,
    InvalidKeyError,
    LeaseLostError,
    LockTimeoutError,
    ReentryError,
    StoreClosedError,
    StoreNotFoundError,
)
from ptb_kvpersistence.model import (
    AcquireLease,
    ReleaseLease,
    RenewLease,
)
from ptb_kvpersistence.store import leases

# --- the sync face ---


@pytest.fixture(params=["file", "memory"])
def location(request, tmp_path):
    return str(tmp_path / "shop.db") if request.param == "file" else f"memory:{tmp_path.name}"


@pytest.fixture
def database(location):
    with connect(location) as database:
        yield database


@pytest.fixture
def shop(database):
    return database.store("shop", create=True)


@pytest.fixture
def rival(shop, location):
    """The same store by a connection of its own."""
    with connect(location) as database:
        yield database.store("shop")


def in_thread(function):
    """Run a function in a thread of its own, and give what it gives."""
    results = []

    def run():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    (result,) = results
    return result


@contextmanager
def held_elsewhere(store, name="report"):
    """Have another thread hold a lock."""
    holds, ends = threading.Event(), threading.Event()

    def hold():
        with store.lock(name):
            holds.set()
            ends.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    try:
        yield ends
    finally:
        ends.set()
        thread.join(10)


def lose(lease):
    """Have the lease expire and be taken by somebody else, as if this process had been frozen meanwhile."""
    backend = lease.backend
    if hasattr(backend, "engine"):
        backend.engine._leases._leases[lease.store, lease.name].expires_at = 1
    else:
        backend.perform(RenewLease(lease.store, lease.name, lease.token, 1))
        time.sleep(0.005)
    reply = backend.perform(AcquireLease(lease.store, lease.name, "thief", 30_000))
    assert reply.token > lease.token


def test_tokens_grow_though_the_clock_goes_back(shop, monkeypatch):
    store, perform = shop.handle.info.id, shop.backend.perform
    first = perform(AcquireLease(store, "report", "a", 30_000)).token
    perform(ReleaseLease(store, "report", "a", first))
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000_000_000_000)
    assert perform(AcquireLease(store, "report", "b", 30_000)).token == first + 1


def test_reentry_is_refused_at_once(shop, rival):
    started = time.monotonic()
    with shop.lock("report") as lease:
        for store in (shop, shop.domain("d"), rival):
            with pytest.raises(ReentryError):
                store.lock("report", timeout=10).__enter__()
        assert lease.is_held
        shop["still"] = "written"
    assert time.monotonic() - started < 2


def test_one_lock_object_serves_many_threads(shop):
    lock, counts = shop.lock("count", timeout=30), []

    def work():
        for _ in range(20):
            with lock:
                shop["n"] = shop.get("n", 0) + 1
        counts.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == 4
    assert shop["n"] == 80


@pytest.mark.parametrize("exclusive", [False, True], ids=["optimistic", "exclusive"])
def test_a_transaction_inside_is_fenced_where_it_commits(shop, rival, exclusive):
    with shop.lock("report") as lease:
        with shop.transaction(lock=exclusive):
            shop["inside"] = 1
        transaction = shop.transaction(lock=exclusive)
        transaction.__enter__()
        shop["lost"] = 1
        lose(lease)
        with pytest.raises(LeaseLostError):
            transaction.__exit__(None, None, None)
        lease.lost()
        with pytest.raises(LeaseLostError), shop.transaction(lock=exclusive):
            shop["lost"] = 1
        with shop.transaction(lock=exclusive):
            assert shop["inside"] == 1
    assert dict(rival) == {"inside": 1}
    with rival.transaction(lock=True, timeout=0):
        rival["session"] = "ended"


def test_the_lock_cannot_be_taken_inside_a_transaction(shop):
    with shop.transaction(), pytest.raises(ReentryError, match="acquire the lock first"):
        shop.lock("report").__enter__()


@pytest.mark.parametrize("ttl", [0, -1, 0.01, "30", None, True, float("nan")])
def test_wrong_lifetimes_are_refused(shop, ttl):
    with pytest.raises(ConfigurationError):
        shop.lock("report", ttl=ttl)


@pytest.mark.parametrize("name", ["", "a\0b", 3, None, "\ud800"])
def test_wrong_names_are_refused(shop, name):
    with pytest.raises(InvalidKeyError):
        shop.lock(name)


def test_a_lifetime_may_be_a_timedelta(shop):
    with shop.lock("report", ttl=timedelta(minutes=1)) as lease:
        assert 59 < lease.seconds_left <= 60


def test_a_lock_of_a_deleted_store(shop, rival, database):
    database.delete("shop")
    for store in (shop, rival):
        with pytest.raises(StoreNotFoundError):
            store.lock("report").__enter__()
    assert not leases.held


async def test_waiting_would_block_the_running_loop(shop, rival):
    with shop.lock("free in a loop"):
        pass
    with held_elsewhere(rival):
        started = time.monotonic()
        with pytest.raises(ReentryError, match="AsyncStore"):
            shop.lock("report", timeout=10).__enter__()
        assert time.monotonic() - started < 2


def test_closing_the_database_gives_back_what_is_held_by_it(location, shop, rival, caplog):
    with connect(location) as database:
        store = database.store("shop")
        with held_elsewhere(store, "in a thread"), rival.lock("of another connection") as other:
            with store.lock("report") as lease:
                database.close()
                with shop.lock("report", timeout=0), shop.lock("in a thread", timeout=0):
                    pass
                with pytest.raises(LeaseLostError, match="with the database"):
                    lease.check()
            assert isinstance(in_thread(lambda: shop.lock(other.name, timeout=0).__enter__()), LockTimeoutError)
    assert not leases.held
    assert not caplog.records


# --- the async face ---


@pytest.fixture
async def ashop(location):
    async with connect_async(location) as database:
        yield await database.store("shop", create=True)


@pytest.fixture
async def arival(ashop, location):
    async with connect_async(location) as database:
        yield await database.store("shop")


async def other_task(coroutine):
    return await asyncio.create_task(coroutine)


async def enter(lock):
    async with lock as lease:
        return lease


async def alose(lease):
    backend = lease.backend
    if hasattr(backend, "engine"):
        backend.engine._leases._leases[lease.store, lease.name].expires_at = 1
    else:
        await backend.perform(RenewLease(lease.store, lease.name, lease.token, 1))
        await asyncio.sleep(0.005)
    assert (await backend.perform(AcquireLease(lease.store, lease.name, "thief", 30_000))).token > lease.token


async def test_the_same_rules_for_the_async_face(ashop):
    with pytest.raises(ConfigurationError):
        ashop.lock("report", ttl=0)
    with pytest.raises(InvalidKeyError):
        ashop.lock("")
    async with ashop.transaction():
        with pytest.raises(ReentryError, match="acquire the lock first"):
            await enter(ashop.lock("report"))


async def test_closing_the_database_gives_back_what_its_tasks_hold(location, ashop, arival, caplog):
    async with connect_async(location) as database:
        store, inside, is_closed = await database.store("shop"), asyncio.Event(), asyncio.Event()

        async def work():
            async with store.lock("in a task"):
                inside.set()
                await is_closed.wait()

        task = asyncio.create_task(work())
        await inside.wait()
        async with arival.lock("of another connection") as other:
            async with store.lock("report") as lease:
                await database.close()
                async with ashop.lock("report", timeout=0), ashop.lock("in a task", timeout=0):
                    pass
                with pytest.raises(LeaseLostError, match="with the database"):
                    lease.check()
            with pytest.raises(LockTimeoutError):
                await other_task(enter(ashop.lock(other.name, timeout=0)))
        is_closed.set()
        await task
    assert not leases.held
    assert not caplog.records


@pytest.mark.parametrize("then", ["goes on", "ends before"])
def test_closing_the_database_gives_back_what_another_loop_holds(location, shop, caplog, then):
    database, inside, is_over = connect_async(location), threading.Event(), threading.Event()

    async def hold():
        store = await database.store("shop")
        if then == "ends before":
            await store.lock("report").__aenter__()
            inside.set()
            return
        async with store.lock("report"):
            inside.set()
            await asyncio.to_thread(is_over.wait, 20)

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    assert inside.wait(10)
    if then == "ends before":
        thread.join()
    asyncio.run(database.close())
    with shop.lock("report", timeout=0):
        pass
    is_over.set()
    thread.join()
    leases.held.clear()
    assert not caplog.records


async def test_a_database_is_closed_though_its_locks_cannot_be_given_back(location, shop, ashop, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("on purpose")

    database, adatabase = connect(location), connect_async(location)
    async with (await adatabase.store("shop")).lock("b"):
        with database.store("shop").lock("a"):
            for each in (database, adatabase):
                monkeypatch.setattr(each._backend, "perform", fail)
            with pytest.raises(RuntimeError, match="on purpose"):
                database.close()
            with pytest.raises(RuntimeError, match="on purpose"):
                await adatabase.close()
            monkeypatch.undo()
            with pytest.raises(StoreClosedError):
                database.names()
            with pytest.raises(StoreClosedError):
                await adatabase.names()
    assert not leases.held
