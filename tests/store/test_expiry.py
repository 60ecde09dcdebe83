"""Entries that expire, where the contract suite does not look: to the millisecond, after reopening, in bots."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from inspect import isawaitable

import pytest

from ptb_kvpersistence.errors import DatabaseUnavailableError, KeyNotFoundError, WatchGapError
from ptb_kvpersistence.model import SetDomain, Sweep
from ptb_kvpersistence.testing.faces import SyncStore


def moment(clock, seconds):
    return datetime.fromtimestamp(clock.now / 1000 + seconds, timezone.utc)


async def collect(iterator):
    return [item async for item in iterator]


async def left(store, clock, key="k"):
    """Seconds that an entry still has; None if it does not expire."""
    entry = await store.entry(key)
    return None if entry.expires_at is None else (entry.expires_at - clock.now) / 1000


# --- when ---


async def test_the_smallest_ttl_is_more_than_nothing(store, clock):
    await store.set("k", 1, ttl=0.0000001)
    assert await store.get("k") == 1
    clock.advance(0.001)
    assert await store.get("k") is None


# --- in a transaction ---


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "exclusive"])
@pytest.mark.parametrize("how", ["ttl", "expires_at"])
async def test_an_own_write_expires_inside(store, rival, clock, lock, how):
    rival.set_many({"k": "stored", "l": "stored"})
    async with store.transaction(lock=lock):
        life = {"ttl": 10} if how == "ttl" else {"expires_at": moment(clock, 10)}
        await store.set("k", [1], **life)
        await store.set_many({"m": 2, "n": 3}, **life)
        assert await left(store, clock) == 10
        assert (await store.entry("k")).updated_at == clock.now
        clock.advance(9.999)
        assert await left(store, clock) == 0.001
        assert await store.count() == 4
        clock.advance(0.001)
        for key in "kmn":
            assert await store.get(key, "gone") == "gone"
            assert await store.entry(key) is None
            assert not await store.contains(key)
            assert await store.touch(key) is False
            assert await store.discard(key) is False
        assert await store.get_many("kl") == {"l": "stored"}
        assert await store.count() == 1
        assert await collect(store.keys()) == ["l"]
        assert await store.increment("n") == 1
        assert await store.add("m", "added") < 0
        assert await left(store, clock, "m") is None
    assert dict(rival) == {"l": "stored", "m": "added", "n": 1}, "what was over inside is not there afterwards"


async def test_a_ttl_counts_from_the_commit_on(store, clock):
    async with store.transaction():
        await store.set("k", 1, ttl=10)
        clock.advance(9)
        assert await left(store, clock) == 1
    assert await left(store, clock) == 10


async def test_the_lifetime_that_a_transaction_renews(store, clock):
    await store.set("k", 1, ttl=10)
    clock.advance(5)
    async with store.transaction(lock=True):
        assert await left(store, clock) == 5
        await store.increment("k")
        assert await left(store, clock) == 10
        clock.advance(5)
        assert await store.touch("k")
        clock.advance(6)
        assert await store.get("k") == 2
    assert await left(store, clock) == 10


async def test_what_was_read_expires_under_the_lock_too(store, clock):
    await store.set("k", 1, ttl=10)
    async with store.transaction(lock=True):
        assert await store.get("k") == 1
        clock.advance(10)
        assert await store.get("k") is None
        assert await store.count() == 0
        await store.set("k", 2)
        assert await store.count() == 1
        assert await store.discard("k")
        assert await store.count() == 0


# --- what is not seen ---


async def test_len_and_getitem_of_the_sync_face(rival, clock):
    rival.set("k", 1, ttl=10)
    assert len(rival) == rival["k"] == 1
    clock.advance(10)
    assert not len(rival)
    assert "k" not in rival
    assert list(rival) == list(rival.keys()) == list(rival.values()) == []
    with pytest.raises(KeyNotFoundError):
        rival["k"]


# --- where it is kept ---


async def test_keep_survives_reopening(file, clock):
    from ptb_kvpersistence import connect

    with connect(file) as database:
        database.create("shop").domain("orders", keep=10)["k"] = 1
    with connect(file) as database:
        orders = database.store("shop").domain("orders")
        orders["l"] = 1
        clock.advance(10)
        assert len(orders) == 0


async def test_keep_is_rolled_back_with_an_exclusive_transaction(store, rival, clock):
    rival.domain("orders", keep=20)["old"] = 1
    for name in ("orders", "others"):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with store.transaction(lock=True):
                await store.domain(name, keep=10).set("k", 1)
                raise ZeroDivisionError
        rival.domain(name)["l"] = 1
    async with store.transaction(lock=True):
        await store.domain("kept", keep=10).set("k", 1)
    clock.advance(10)
    assert [len(rival.domain(name)) for name in ("orders", "others", "kept")] == [2, 1, 0]


@pytest.fixture
def settings(store, monkeypatch):
    """The requests to set a domain that reach the backend; with something in ``refusing`` they are refused."""

    class Settings(list):
        refusing = False

        def perform(self, request, *arguments):
            if isinstance(request, SetDomain):
                self.append(request)
                if self.refusing:
                    raise DatabaseUnavailableError("the server is away")
            return perform(request, *arguments)

    settings, perform = Settings(), store.backend.perform
    monkeypatch.setattr(store.backend, "perform", settings.perform)
    return settings


async def test_keep_is_stored_once_also_by_transactions(store, rival, settings):
    for lock in (False, True):
        orders = store.domain(f"orders {lock}", keep=10)
        for _ in range(3):
            async with store.transaction(lock=lock):
                await orders.set("k", 1)
                await orders.set("l", 1)
        await orders.set("m", 1)
    assert [request.domain for request in settings] == ["orders False"]
    assert rival.domain("orders True").entry("m").expires_at is not None


async def test_keep_that_could_not_be_stored_behind_the_commit_is_stored_later(store, rival, settings, caplog):
    orders, settings.refusing = store.domain("orders", keep=10), True
    async with store.transaction():
        await orders.set("k", 1)
    assert "a transaction is committed" in caplog.text
    assert "the server is away" in caplog.text
    entry = rival.domain("orders").entry("k")
    assert entry.expires_at == entry.updated_at + 10_000
    with pytest.raises(DatabaseUnavailableError):
        async with store.transaction():
            assert await orders.get("k") == 1
    settings.refusing = False
    await orders.get("k")
    rival.domain("orders")["l"] = 1
    assert rival.domain("orders").entry("l").expires_at is not None
    assert len(settings) == 3


async def test_keep_that_is_refused_under_the_lock_ends_the_transaction(store, rival, monkeypatch):
    class Refusing:
        def __init__(self, session):
            self.end = session.end

        def perform(self, request):
            raise DatabaseUnavailableError("the server is away")

    def exclusive(*arguments, **options):
        session = begin(*arguments, **options)
        return refusing(session) if isawaitable(session) else Refusing(session)

    async def refusing(session):
        return Refusing(await session)

    begin = store.backend.exclusive
    monkeypatch.setattr(store.backend, "exclusive", exclusive)
    with pytest.raises(DatabaseUnavailableError):
        async with store.transaction(lock=True):
            await store.domain("orders", keep=10).set("k", 1)
    with rival.transaction(lock=True, timeout=0):
        rival["free"] = 1
    assert "k" not in rival.domain("orders")


# --- sweeping and the feed ---


async def sweep(store, limit=1000):
    request = Sweep(limit)
    return store.backend.perform(request) if isinstance(store, SyncStore) else await store.backend.perform(request)


async def test_commits_sweep_now_and_then(file, clock, monkeypatch):
    from ptb_kvpersistence import connect

    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.engine.SWEEP_EVERY", 0)
    with connect(file) as database:
        store = database.create("shop")
        store.set("k", 1, ttl=10)
        clock.advance(10)
        store["l"] = 1
        (change, _) = sorted(store.watch(since=0, timeout=0), key=lambda event: event.key)
        assert change.is_deleted
        assert await sweep(SyncStore(store)) == 0, "it was swept already"


def stored(file):
    with closing(sqlite3.connect(file)) as reader:
        return reader.execute("SELECT count(value), count(*) FROM entries").fetchone()


def test_sweeping_keeps_up_with_what_expires(file, clock, monkeypatch):
    from ptb_kvpersistence import connect

    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.engine.SWEEP_ON", 0)
    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.writes.TOMBSTONE_LIFETIME", 20_000)
    with connect(file) as database:
        database.create("shop").set_many({f"{n}": n for n in range(1000)}, ttl=10)
    clock.advance(10)
    with connect(file) as database:  # as a script does that writes once and ends
        database.store("shop")["k"] = 1
        assert stored(file) == (801, 1001), "one step"
        for n in range(6):
            database.store("shop")["k"] = n
        assert stored(file) == (1, 1001)
    clock.advance(21)
    with connect(file) as database:
        database.store("shop")["k"] = 1
        assert stored(file) == (1, 801), "tombstones go step by step too"
        with pytest.raises(WatchGapError):
            next(database.store("shop").watch(since=1))


# --- what a persistence holds ---


@pytest.fixture
async def shared(location):
    from ptb_kvpersistence import connect_async

    async with connect_async(location) as database:
        yield await database.store("default", create=True)


async def loaded(shared):
    from ptb_kvpersistence import KVPersistence

    persistence = KVPersistence(store=shared, bot="shop", max_staleness=0)
    return persistence, await persistence.get_user_data()


USERS = "ptb:user_data:shop"


@pytest.mark.parametrize("swept", [False, True])
async def test_flush_and_refresh_do_not_bring_it_back(shared, clock, swept):
    persistence, _ = await loaded(shared)
    await persistence.update_user_data(7, {"kept": 1})
    await shared.domain(USERS).set("42", {"trial": True}, ttl=10)
    await persistence.flush()
    persistence, data = await loaded(shared)
    assert data == {7: {"kept": 1}, 42: {"trial": True}}
    live = data[42]
    await persistence.refresh_user_data(42, live)
    clock.advance(10)
    if swept:
        await shared.backend.perform(Sweep())
    await persistence.refresh_user_data(42, live)
    assert live == {}
    await persistence.update_user_data(42, live)
    await persistence.flush()
    found = await shared.domain(USERS).get("42", "gone")
    assert found in ("gone", {})
    assert "trial" not in str(found)


async def test_an_unchanged_flush_after_its_time_does_not_bring_it_back(shared, clock):
    persistence, _ = await loaded(shared)
    await persistence.flush()
    await shared.domain(USERS).set("42", {"trial": True}, ttl=10)
    persistence, data = await loaded(shared)
    clock.advance(10)
    await persistence.update_user_data(42, data[42])
    await persistence.flush()
    assert await shared.domain(USERS).get("42", "gone") in ("gone", {})


async def test_a_bots_own_write_renews_it(shared, clock):
    await shared.domain(USERS).set("42", {"trial": True}, ttl=10)
    persistence, data = await loaded(shared)
    clock.advance(6)
    data[42]["n"] = 1
    await persistence.update_user_data(42, data[42])
    await persistence.flush()
    assert await shared.domain(USERS).get("42") == {"trial": True, "n": 1}
    assert await left(shared.domain(USERS), clock, "42") == 10
