"""Entries that expire, where the contract suite does not look: to the millisecond, after reopening, in bots."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.errors import KeyNotFoundError
from ptb_kvpersistence.model import Sweep
from ptb_kvpersistence.testing.faces import SyncStore


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
