"""Entries that expire: when, what renews them, and that nobody sees them afterwards; on both backends and faces."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ptb_kvpersistence.errors import KeyNotFoundError
from ptb_kvpersistence.model import Sweep
from tests.store.faces import Sync, collect


def moment(clock, seconds):
    return datetime.fromtimestamp(clock.now / 1000 + seconds, timezone.utc)


async def left(store, clock, key="k"):
    """Seconds that an entry still has; None if it does not expire."""
    entry = await store.entry(key)
    return None if entry.expires_at is None else (entry.expires_at - clock.now) / 1000


# --- when ---


@pytest.mark.parametrize("ttl", [10, 10.0, timedelta(seconds=10)], ids=["int", "float", "timedelta"])
async def test_ttl(store, clock, ttl):
    await store.set("k", 1, ttl=ttl)
    assert await left(store, clock) == 10
    clock.advance(9.999)
    assert await store.get("k") == 1
    clock.advance(0.001)
    assert await store.get("k", "gone") == "gone"


async def test_expires_at(store, clock):
    berlin = timezone(timedelta(hours=2))
    await store.set("k", 1, expires_at=moment(clock, 10).astimezone(berlin))
    clock.advance(9.999)
    assert await store.contains("k")
    clock.advance(0.001)
    assert not await store.contains("k")


async def test_a_moment_that_has_passed(store, clock):
    await store.set("k", 1)
    await store.set("k", 2, expires_at=moment(clock, -1))
    assert not await store.contains("k")


async def test_the_smallest_ttl_is_more_than_nothing(store, clock):
    await store.set("k", 1, ttl=0.0000001)
    assert await store.get("k") == 1
    clock.advance(0.001)
    assert await store.get("k") is None


async def test_other_ways_of_writing_take_a_lifetime(store, clock):
    await store.add("a", 1, ttl=10)
    await store.set_many({"b": 1, "c": 2}, ttl=10)
    await store.add("d", 1, expires_at=moment(clock, 10))
    await store.set_many({"e": 1}, expires_at=moment(clock, 10))
    assert [await left(store, clock, key) for key in "abcde"] == [10] * 5
    async with store.transaction():
        await store.set("f", 1, ttl=10)
        await store.increment("f")
        await store.touch("b", ttl=20)
    assert await left(store, clock, "f") == 10
    assert await left(store, clock, "b") == 20
    clock.advance(10)
    assert await collect(store.keys()) == ["b"]


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


@pytest.mark.parametrize("swept", [False, True])
async def test_nobody_sees_an_expired_entry(store, clock, swept):
    await store.set_many({"a": 1, "c": 3})
    await store.set_many({"b": [2], "n": 2}, ttl=10)
    clock.advance(10)
    if swept:
        await sweep(store)

    async def look():
        assert await store.get("b", "gone") == "gone"
        assert not await store.contains("b")
        assert await store.entry("b") is None
        assert await store.get_many(["a", "b", "c"]) == {"a": 1, "c": 3}
        assert await store.count() == 2
        assert await store.count("b") == 0
        assert await collect(store.items()) == [("a", 1), ("c", 3)]
        assert await collect(store.keys(reverse=True)) == ["c", "a"]
        assert await collect(store.values(start="b")) == [3]
        with pytest.raises(KeyNotFoundError):
            await store.delete("b")
        with pytest.raises(KeyNotFoundError):
            await store.pop("b")
        with pytest.raises(KeyNotFoundError):
            async with store.edit("b"):
                pass
        assert await store.discard("b") is False
        assert await store.touch("b") is False
        assert await store.touch("b", ttl=5) is False
        assert await store.replace("b", 5) is False
        assert await store.count() == 2

    await look()
    async with store.transaction():
        await look()
    async with store.transaction(lock=True):
        await look()
    assert await store.append("b", 1) == 1
    assert await store.increment("n") == 1
    assert await left(store, clock, "b") is await left(store, clock, "n") is None, "a new entry has no lifetime"


async def test_len_and_getitem_of_the_sync_face(rival, clock):
    rival.set("k", 1, ttl=10)
    assert len(rival) == rival["k"] == 1
    clock.advance(10)
    assert not len(rival)
    assert "k" not in rival
    assert list(rival) == list(rival.keys()) == list(rival.values()) == []
    with pytest.raises(KeyNotFoundError):
        rival["k"]


async def test_its_place_is_free(store, clock):
    await store.set("k", 1, ttl=10)
    old = (await store.entry("k")).version
    clock.advance(10)
    with pytest.raises(RuntimeError):
        await store.set("k", 2, if_version=old)
    assert await store.add("k", 3) > old
    assert await store.setdefault("k", 4) == 3
    await store.set("l", 1, ttl=10)
    clock.advance(10)
    assert await store.setdefault("l", 4) == 4
    assert await left(store, clock, "l") is None


# --- renewal ---


async def increment(store):
    await store.increment("k")


async def replace(store):
    assert await store.replace("k", 2)


async def edit(store):
    async with store.edit("k"):
        pass


async def touch(store):
    assert await store.touch("k")


async def in_transaction(store):
    async with store.transaction():
        await store.increment("k")


async def in_locked_transaction(store):
    async with store.transaction(lock=True):
        await store.replace("k", 2)


async def cleared_edit(store):
    async with store.edit("k", 0):
        pass


WRITES = [increment, replace, edit, touch, in_transaction, in_locked_transaction, cleared_edit]


@pytest.mark.parametrize("write", WRITES)
async def test_a_later_write_renews_it(store, clock, write):
    await store.set("k", 1, ttl=10)
    for _ in range(3):
        clock.advance(9)
        await write(store)
        assert await left(store, clock) == 10
    clock.advance(10)
    assert not await store.contains("k")


async def test_append_renews_it(store, clock):
    await store.append("k", 1)
    assert await left(store, clock) is None
    await store.touch("k", ttl=10)
    clock.advance(9)
    await store.append("k", 2)
    assert await left(store, clock) == 10


@pytest.mark.parametrize("write", WRITES)
async def test_an_absolute_time_stays(store, clock, write):
    await store.set("k", 1, expires_at=moment(clock, 10))
    clock.advance(6)
    await write(store)
    assert await left(store, clock) == 4


@pytest.mark.parametrize("write", WRITES)
async def test_what_does_not_expire_stays_so(store, clock, write):
    await store.set("k", 1)
    await write(store)
    assert await left(store, clock) is None


async def test_reading_does_not_renew_it(store, clock):
    await store.set("k", 1, ttl=10)
    clock.advance(6)
    await store.get("k")
    assert await store.setdefault("k", 2) == 1
    assert await left(store, clock) == 4


async def test_set_gives_a_new_lifetime_or_none(store, clock):
    await store.set("k", 1, ttl=10)
    await store.set("k", 1, ttl=20)
    assert await left(store, clock) == 20
    await store.set("k", 1)
    assert await left(store, clock) is None


async def test_touch_gives_another_lifetime(store, clock):
    await store.set("k", 1)
    assert await store.touch("k", ttl=10)
    assert await left(store, clock) == 10
    assert await store.touch("k", expires_at=moment(clock, 50))
    clock.advance(30)
    assert await left(store, clock) == 20
    assert await store.touch("absent", ttl=10) is False
    assert await store.get("k") == 1


# --- a domain that keeps its entries for a time ---


async def test_keep(store, rival, clock):
    orders = store.domain("orders", keep=timedelta(seconds=10))
    await orders.set("k", 1)
    rival.domain("orders")["l"] = 1  # the setting belongs to the domain, not to who set it
    rival.domain("other")["k"] = 1
    await store.set("k", 1)
    assert await left(orders, clock) == await left(orders, clock, "l") == 10
    clock.advance(9)
    await orders.increment("k")
    clock.advance(9)
    assert await collect(orders.keys()) == ["k"]
    clock.advance(1)
    assert await orders.count() == 0
    assert "k" in rival
    assert "k" in rival.domain("other")


async def test_keep_can_be_overridden_and_changed(store, clock):
    orders = store.domain("orders", keep=10)
    await orders.set("short", 1, ttl=5)
    await orders.set("at", 1, expires_at=moment(clock, 7))
    await orders.set("k", 1)
    longer = store.domain("orders", keep=100)
    await longer.set("new", 1)
    found = [await left(orders, clock, key) for key in ("short", "at", "k", "new")]
    assert found == [5, 7, 10, 100]
    await orders.set("again", 1)
    assert await left(orders, clock, "again") == 100, "the setting is written once per handle"


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
    return store.backend.perform(request) if isinstance(store, Sync) else await store.backend.perform(request)


async def test_it_is_swept_in_small_steps(store, rival, clock):
    await store.set_many({f"k{n:02}": n for n in range(25)}, ttl=10)
    await store.set("kept", 1)
    assert await sweep(store, 10) == 0
    clock.advance(10)
    assert [await sweep(store, 10) for _ in range(4)] == [10, 10, 5, 0]
    assert dict(rival) == {"kept": 1}


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
        assert await sweep(Sync(store)) == 0, "it was swept already"


@pytest.mark.parametrize("swept", [False, True])
async def test_the_feed_shows_a_deletion(rival, clock, swept):
    version = rival.set("k", "secret", ttl=10)
    (event,) = rival.watch(since=0, timeout=0)
    assert (event.value, event.is_deleted) == ("secret", False)
    clock.advance(10)
    if swept:
        rival.backend.perform(Sweep())
    (event,) = rival.watch(since=0, timeout=0)
    assert (event.key, event.value, event.is_deleted) == ("k", None, True)
    assert (event.version > version) is swept
    assert len(list(rival.watch(since=version, timeout=0))) == swept


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
