"""Leases of named locks: the requests, and the locks of both faces on top of them."""

from __future__ import annotations

import asyncio
import logging
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
    StoreNotFoundError,
)
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    Commit,
    Fence,
    GetMany,
    Put,
    ReleaseLease,
    RenewLease,
    VersionCheck,
)
from ptb_kvpersistence.store import leases


@pytest.fixture
def lease_clock(monkeypatch, clock):
    """The time of leases, apart from that of entries, in milliseconds."""
    monkeypatch.setattr("ptb_kvpersistence.backends.memory.leases.now_ms", clock)
    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.leases.now_ms", clock)
    return clock


@pytest.fixture
def acquire(backend, store):
    async def ask(holder, name="report", ttl=30_000, *, waits=False, of=backend, at=store):
        return await of.perform(AcquireLease(at, name, holder, ttl, waits))

    return ask


# --- requests ---


async def test_a_lock_has_one_holder(place, acquire):
    first = await acquire("a")
    assert first.token is not None
    assert first.holder == "a"
    other = place.open()
    assert await acquire("b", of=other) == (None, "a", 0)
    assert await acquire("a") == (None, "a", 0)
    assert (await acquire("b", "another lock")).token is not None


async def test_locks_of_different_stores_are_different(acquire, store):
    assert (await acquire("a")).token
    assert (await acquire("b", at=store + 1)).token


async def test_a_lock_that_was_given_back_is_free_and_tokens_grow(backend, store, acquire):
    tokens = []
    for holder in "abcba":
        token = (await acquire(holder)).token
        assert await backend.perform(ReleaseLease(store, "report", holder, token))
        assert not await backend.perform(ReleaseLease(store, "report", holder, token))
        tokens.append(token)
    assert tokens == sorted(set(tokens))


async def test_tokens_grow_though_the_clock_goes_back(monkeypatch, place, backend, store, acquire):
    first = (await acquire("a")).token
    await backend.perform(ReleaseLease(store, "report", "a", first))
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000_000_000_000)
    if place.schema:
        place.schema.set_clock(1_000_000_000_000)
    assert (await acquire("b")).token == first + 1


async def test_a_lease_ends_unless_renewed(backend, store, acquire, lease_clock):
    token = (await acquire("a", ttl=1000)).token
    lease_clock.now += 999
    assert await backend.perform(RenewLease(store, "report", token, 1000))
    lease_clock.now += 999
    assert (await acquire("b")).token is None
    lease_clock.now += 1
    assert not await backend.perform(RenewLease(store, "report", token, 1000))
    later = await acquire("b")
    assert later.token > token
    assert not await backend.perform(RenewLease(store, "report", token, 1000))
    assert not await backend.perform(ReleaseLease(store, "report", "a", token))
    assert (await acquire("c")).holder == "b"


async def test_who_came_first_is_served_first(place, backend, store, acquire, lease_clock):
    other = place.open()
    token = (await acquire("a")).token
    assert (await acquire("b", waits=True)).ahead == 0
    assert (await acquire("c", waits=True, of=other)).ahead == 1
    assert (await acquire("d", waits=True)).ahead == 2
    await backend.perform(ReleaseLease(store, "report", "a", token))
    assert await acquire("d", waits=True) == (None, None, 2)
    assert await acquire("new", waits=False) == (None, None, 3)
    await backend.perform(ReleaseLease(store, "report", "b"))  # leaves the line
    assert await acquire("d", waits=True) == (None, None, 1)
    assert (await acquire("c", waits=True)).token > token


async def test_who_waits_but_does_not_ask_is_passed_over(backend, store, acquire, lease_clock):
    token = (await acquire("a")).token
    await acquire("frozen", waits=True)
    await acquire("b", waits=True)
    await backend.perform(ReleaseLease(store, "report", "a", token))
    assert (await acquire("b", waits=True)).token is None
    lease_clock.now += 250
    assert (await acquire("b", waits=True)).token > token


async def test_a_fenced_commit_is_made_only_while_the_lease_is_held(backend, store, acquire, witness, lease_clock):
    token = (await acquire("a", ttl=1000)).token
    fence = (Fence("report", token),)
    reply = await backend.perform(Commit(store, (Put("d", "k", b"1"),), fences=fence))
    assert reply.is_committed
    for wrong in (Fence("report", token - 1), Fence("report", token + 1), Fence("other", token)):
        with pytest.raises(LeaseLostError, match=wrong.name):
            await backend.perform(Commit(store, (Put("d", "k", b"2"),), fences=(*fence, wrong)))
    lease_clock.now += 1000
    with pytest.raises(LeaseLostError):
        await backend.perform(Commit(store, (Put("d", "k", b"3"),), fences=fence))
    await acquire("b")
    with pytest.raises(LeaseLostError):
        await backend.perform(Commit(store, (Put("d", "k", b"4"),), (VersionCheck("d", "k", 0),), fences=fence))
    assert witness.entries() == {("shop", "d", "k"): b"1"}
    await backend.perform(Commit(store, (Put("d", "free", b"5"),)))


async def test_a_fenced_commit_that_is_sent_again_after_the_lease_is_applied_once(backend, store, acquire):
    token = (await acquire("a")).token
    commit = Commit(store, (Put("d", "k", b"1"),), id="same", fences=(Fence("report", token),))
    first = await backend.perform(commit)
    await backend.perform(ReleaseLease(store, "report", "a", token))
    again = await backend.perform(commit)
    assert first.is_committed
    assert again.applied_before
    (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
    assert record.version == first.versions[0]


# --- the sync face ---


@pytest.fixture(params=["file", "memory", "postgres"])
def location(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("schema").url
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


def test_the_lock_keeps_out_others_and_nobody_else(shop, rival):
    with shop.lock("report") as lease:
        assert lease.is_held
        lease.check()
        assert lease.name == "report"
        assert isinstance(in_thread(rival.lock("report", timeout=0).__enter__), LockTimeoutError)
        started = time.monotonic()
        error = in_thread(shop.lock("report", timeout=0.2).__enter__)
        assert isinstance(error, LockTimeoutError)
        assert isinstance(error, TimeoutError)
        assert 0.2 <= time.monotonic() - started < 2
        rival["anybody"] = "writes"
        with shop.lock("another"):
            pass
    assert not lease.is_held
    with pytest.raises(LeaseLostError):
        lease.check()
    with rival.lock("report", timeout=0) as later:
        assert later.token > lease.token
    assert not leases.held


def test_a_lock_that_comes_free_is_taken(shop, rival):
    with held_elsewhere(rival) as ends:
        threading.Timer(0.2, ends.set).start()
        with shop.lock("report", timeout=10) as lease:
            assert lease.is_held


def test_a_lock_belongs_to_the_store_not_to_the_domain(shop, rival):
    with held_elsewhere(rival.domain("d")), pytest.raises(LockTimeoutError):
        shop.domain("other").lock("report", timeout=0).__enter__()


def test_an_exception_inside_gives_the_lock_back(shop, rival):
    with pytest.raises(KeyError), shop.lock("report"):
        raise KeyError
    with rival.lock("report", timeout=0):
        pass


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


def test_it_is_renewed_while_it_is_held(shop, rival):
    with shop.lock("report", ttl=0.8) as lease:
        time.sleep(1.8)
        assert lease.is_held
        shop["written"] = True
        assert isinstance(in_thread(rival.lock("report", timeout=0).__enter__), LockTimeoutError)


def test_a_holder_that_lost_its_lease_writes_nothing_more(shop, rival, caplog):
    caplog.set_level(logging.WARNING)
    with shop.lock("report", ttl=30) as lease:
        shop["before"] = 1
        lose(lease)
        for write in (
            lambda: shop.set("after", 1),
            lambda: shop.domain("d").set("after", 1),
            lambda: shop.increment("before"),
            lambda: shop.pop("before"),
            shop.clear,
            lambda: shop.set_many({"after": 1}),
            lambda: shop.run(lambda view: view.set("after", 1)),
        ):
            with pytest.raises(LeaseLostError):
                write()
        assert shop["before"] == 1
        assert isinstance(in_thread(lambda: shop.set("another thread", 1)), int)
    assert dict(rival) == {"another thread": 1, "before": 1}
    shop["outside"] = "free again"
    assert "was lost while it was held" in caplog.text


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


def test_a_lost_lease_is_noticed_without_writing(shop):
    with shop.lock("report", ttl=0.3) as lease:
        lose(lease)
        deadline = time.monotonic() + 5
        while lease.is_held and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(LeaseLostError, match="report"):
            lease.check()


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


async def test_async_lock(ashop, arival):
    async with ashop.lock("report", ttl=0.8) as lease:
        with pytest.raises(LockTimeoutError):
            await other_task(enter(arival.lock("report", timeout=0)))
        with pytest.raises(LockTimeoutError):
            await other_task(enter(ashop.lock("report", timeout=0.2)))
        for store in (ashop, arival):
            with pytest.raises(ReentryError):
                await enter(store.lock("report"))
        await asyncio.sleep(1.6)
        assert lease.is_held  # renewed
        await ashop.set("written", True)
        async with ashop.transaction(lock=True):
            await ashop.set("too", True)
    assert not lease.is_held
    later = await enter(arival.lock("report", timeout=0))
    assert later.token > lease.token
    assert not leases.held


async def test_async_holder_that_lost_its_lease(ashop, arival):
    async with ashop.lock("report") as lease:
        await ashop.set("before", 1)
        await alose(lease)
        with pytest.raises(LeaseLostError):
            await ashop.set("after", 1)
        with pytest.raises(LeaseLostError):
            async with ashop.transaction():
                await ashop.set("after", 1)
        with pytest.raises(LeaseLostError):
            async with ashop.transaction(lock=True):
                await ashop.set("after", 1)
        await other_task(ashop.set("another task", 1))
    assert await arival.get_many(["after", "another task", "before"]) == {"another task": 1, "before": 1}
    async with arival.transaction(lock=True, timeout=0):
        await arival.set("session", "ended")


async def test_async_lost_lease_is_noticed_without_writing(ashop):
    async with ashop.lock("report", ttl=0.3) as lease:
        await alose(lease)
        await asyncio.sleep(0.35)
        assert not lease.is_held
        with pytest.raises(LeaseLostError):
            lease.check()


async def test_many_tasks_count_under_one_lock(ashop, arival):
    async def work(store):
        for _ in range(10):
            async with store.lock("count", timeout=30):
                await store.set("n", await store.get("n", 0) + 1)

    await asyncio.gather(*(work(store) for store in (ashop, arival) * 2))
    assert await ashop.get("n") == 40


@pytest.mark.parametrize("delay", [0, 0.0001, 0.0005, 0.001, 0.003, 0.01, 0.1])
async def test_a_cancelled_waiter_leaves_nothing_behind(ashop, arival, delay):
    waiter = asyncio.create_task(enter(ashop.lock("report", timeout=20)))
    await asyncio.sleep(delay)
    waiter.cancel()
    await asyncio.wait([waiter])
    async with arival.lock("report", timeout=2, ttl=60):
        waiting = asyncio.create_task(enter(ashop.lock("report", timeout=20)))
        await asyncio.sleep(delay + 0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    started = time.monotonic()
    await enter(ashop.lock("report", timeout=2))
    assert time.monotonic() - started < 1.5
    assert not leases.held


async def test_the_async_lock_survives_a_release_of_connections(ashop, arival):
    async with ashop.lock("report", ttl=0.8) as lease:
        for _ in range(8):
            await ashop.backend.release()
            await asyncio.sleep(0.2)
        assert lease.is_held
        await ashop.set("written", 1)
        with pytest.raises(LockTimeoutError):
            await other_task(enter(arival.lock("report", timeout=0)))


async def test_the_same_rules_for_the_async_face(ashop):
    with pytest.raises(ConfigurationError):
        ashop.lock("report", ttl=0)
    with pytest.raises(InvalidKeyError):
        ashop.lock("")
    async with ashop.transaction():
        with pytest.raises(ReentryError, match="acquire the lock first"):
            await enter(ashop.lock("report"))
