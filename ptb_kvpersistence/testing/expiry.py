"""Entries that expire: when, what renews them, and that nobody sees them afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ptb_kvpersistence.errors import BusyError, KeyNotFoundError
from ptb_kvpersistence.model import Address, Changes, Commit, GetMany, Put, SetDomain, Sweep
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import Subject, collect
from ptb_kvpersistence.testing.place import Place
from ptb_kvpersistence.testing.suite import Suite

Writing = Callable[[AsyncStore], Awaitable[None]]


def moment(seconds: float) -> datetime:
    """Give the time in so many seconds."""
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


async def left(shop: AsyncStore, key: str = "k") -> float | None:
    """Seconds that an entry still has; None if it does not expire."""
    entry = await shop.entry(key)
    assert entry is not None
    return None if entry.expires_at is None else entry.expires_at / 1000 - time.time()


def about(seconds: float) -> Any:
    """Equal so many seconds, as far as a slow machine and two clocks allow."""
    return pytest.approx(seconds, abs=45)


async def increment(shop: AsyncStore) -> None:
    await shop.increment("k")


async def replace(shop: AsyncStore) -> None:
    assert await shop.replace("k", 2)


async def edit(shop: AsyncStore) -> None:
    async with shop.edit("k"):
        pass


async def touch(shop: AsyncStore) -> None:
    assert await shop.touch("k")


async def in_transaction(shop: AsyncStore) -> None:
    async with shop.transaction():
        await shop.increment("k")


async def in_locked_transaction(shop: AsyncStore) -> None:
    async with shop.transaction(lock=True):
        await shop.replace("k", 2)


async def cleared_edit(shop: AsyncStore) -> None:
    async with shop.edit("k", 0):
        pass


WRITES: list[Writing] = [increment, replace, edit, touch, in_transaction, in_locked_transaction, cleared_edit]


class Expiry(Suite):
    """Never shown after its time, a deletion in the feed, renewed by writing."""

    guarantee = "expiry"

    @pytest.mark.parametrize("ttl", [1000, 1000.0, timedelta(seconds=1000)], ids=["int", "float", "timedelta"])
    async def test_ttl(self, shop: AsyncStore, place: Place, ttl: Any) -> None:
        await shop.set("k", 1, ttl=ttl)
        assert await left(shop) == about(1000)
        place.pass_time(900)
        assert await shop.get("k") == 1
        place.pass_time(100)
        assert await shop.get("k", "gone") == "gone"

    async def test_expires_at(self, shop: AsyncStore, place: Place) -> None:
        berlin = timezone(timedelta(hours=2))
        await shop.set("k", 1, expires_at=moment(1000).astimezone(berlin))
        place.pass_time(900)
        assert await shop.contains("k")
        place.pass_time(200)
        assert not await shop.contains("k")

    async def test_it_is_gone_in_its_own_time(self, shop: AsyncStore) -> None:
        """By the clock that the database really has, for once."""
        await shop.set("k", 1, ttl=0.2)
        assert await left(shop) == pytest.approx(0.2, abs=45)
        await asyncio.sleep(0.25)
        assert await shop.get("k") is None

    async def test_it_is_swept_in_small_steps(
        self, shop: AsyncStore, rival: Store, place: Place, backend: Subject
    ) -> None:
        await shop.set_many({f"k{n:02}": n for n in range(25)}, ttl=1000)
        await shop.set("kept", 1)
        assert await backend.perform(Sweep(10)) == 0
        place.pass_time(1000)
        assert [await backend.perform(Sweep(10)) for _ in range(4)] == [10, 10, 5, 0]
        assert dict(rival) == {"kept": 1}

    async def test_sweeping_keeps_what_lives(self, shop: AsyncStore, place: Place, backend: Subject) -> None:
        await shop.set("k", 1, ttl=1000)
        place.pass_time(500)
        assert await backend.perform(Sweep()) == 0
        await shop.touch("k", ttl=2000)
        place.pass_time(1000)
        assert await backend.perform(Sweep()) == 0
        witness = place.witness()
        assert set(witness.entries()) == {("shop", "", "k")}
        place.pass_time(1000)
        assert await backend.perform(Sweep()) == 1
        assert witness.tombstones() == {("shop", "", "k")}

    async def test_a_put_with_both_is_stored_with_both(
        self, store: int, shop: AsyncStore, backend: Subject, place: Place
    ) -> None:
        """So that a copy of an entry expires when the entry does, and is renewed as the entry is."""
        until = int(moment(500).timestamp() * 1000)
        await backend.perform(SetDomain(store, "d", 100_000))
        puts = (Put("", "k", b"1", 1_000_000, until), Put("d", "k", b"2", 2_000_000, until), Put("d", "l", b"3"))
        await backend.perform(Commit(store, puts))
        addresses = tuple(Address(put.domain, put.key) for put in puts)
        records = await backend.perform(GetMany(store, addresses))
        assert [(record.ttl, record.expires_at) for record in records[:2]] == [(1_000_000, until), (2_000_000, until)]
        feed = {change[:2]: change for change in (await backend.perform(Changes(store, 0))).changes}
        assert (feed["d", "k"].ttl, feed["d", "k"].expires_at) == (2_000_000, until)
        place.pass_time(450)
        await shop.increment("k")
        assert await left(shop) == about(1000), "a later write renews it by its ttl"
        place.pass_time(100)
        assert await backend.perform(GetMany(store, addresses[1:])) == (None, None)

    async def test_a_moment_that_has_passed(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", 1)
        await shop.set("k", 2, expires_at=moment(-100))
        assert not await shop.contains("k")

    async def test_other_ways_of_writing_take_a_lifetime(self, shop: AsyncStore, place: Place) -> None:
        await shop.add("a", 1, ttl=1000)
        await shop.set_many({"b": 1, "c": 2}, ttl=1000)
        await shop.add("d", 1, expires_at=moment(1000))
        await shop.set_many({"e": 1}, expires_at=moment(1000))
        assert [await left(shop, key) for key in "abcde"] == [about(1000)] * 5
        async with shop.transaction():
            await shop.set("f", 1, ttl=1000)
            await shop.increment("f")
            await shop.touch("b", ttl=2000)
        assert await left(shop, "f") == about(1000)
        assert await left(shop, "b") == about(2000)
        place.pass_time(1000)
        assert await collect(shop.keys()) == ["b"]

    @pytest.mark.parametrize("swept", [False, True])
    async def test_nobody_sees_an_expired_entry(
        self, shop: AsyncStore, backend: Subject, place: Place, swept: bool
    ) -> None:
        await shop.set_many({"a": 1, "c": 3})
        await shop.set_many({"b": [2], "n": 2}, ttl=1000)
        place.pass_time(1000)
        if swept:
            await backend.perform(Sweep())

        async def look() -> None:
            assert await shop.get("b", "gone") == "gone"
            assert not await shop.contains("b")
            assert await shop.entry("b") is None
            assert await shop.get_many(["a", "b", "c"]) == {"a": 1, "c": 3}
            assert await shop.count() == 2
            assert await shop.count("b") == 0
            assert await collect(shop.items()) == [("a", 1), ("c", 3)]
            assert await collect(shop.keys(reverse=True)) == ["c", "a"]
            assert await collect(shop.values(start="b")) == [3]
            with pytest.raises(KeyNotFoundError):
                await shop.delete("b")
            with pytest.raises(KeyNotFoundError):
                await shop.pop("b")
            with pytest.raises(KeyNotFoundError):
                async with shop.edit("b"):
                    pass
            assert await shop.discard("b") is False
            assert await shop.touch("b") is False
            assert await shop.touch("b", ttl=500) is False
            assert await shop.replace("b", 5) is False
            assert await shop.count() == 2

        await look()
        async with shop.transaction():
            await look()
        async with shop.transaction(lock=True):
            await look()
        assert await shop.append("b", 1) == 1
        assert await shop.increment("n") == 1
        assert await left(shop, "b") is await left(shop, "n") is None, "a new entry has no lifetime"

    async def test_its_place_is_free(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", 1, ttl=1000)
        old = (await shop.entry("k")).version
        place.pass_time(1000)
        with pytest.raises(RuntimeError):
            await shop.set("k", 2, if_version=old)
        assert await shop.add("k", 3) > old
        assert await shop.setdefault("k", 4) == 3
        await shop.set("l", 1, ttl=1000)
        place.pass_time(1000)
        assert await shop.setdefault("l", 4) == 4
        assert await left(shop, "l") is None

    @pytest.mark.parametrize("write", WRITES)
    async def test_a_later_write_renews_it(self, shop: AsyncStore, place: Place, write: Writing) -> None:
        await shop.set("k", 1, ttl=1000)
        for _ in range(3):
            place.pass_time(900)
            await write(shop)
            assert await left(shop) == about(1000)
        place.pass_time(1000)
        assert not await shop.contains("k")

    async def test_append_renews_it(self, shop: AsyncStore, place: Place) -> None:
        await shop.append("k", 1)
        assert await left(shop) is None
        await shop.touch("k", ttl=1000)
        place.pass_time(900)
        await shop.append("k", 2)
        assert await left(shop) == about(1000)

    @pytest.mark.parametrize("write", WRITES)
    async def test_an_absolute_time_stays(self, shop: AsyncStore, place: Place, write: Writing) -> None:
        await shop.set("k", 1, expires_at=moment(1000))
        place.pass_time(600)
        await write(shop)
        assert await left(shop) == about(400)

    @pytest.mark.parametrize("write", WRITES)
    async def test_what_does_not_expire_stays_so(self, shop: AsyncStore, place: Place, write: Writing) -> None:
        await shop.set("k", 1)
        await write(shop)
        assert await left(shop) is None

    async def test_reading_does_not_renew_it(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", 1, ttl=1000)
        place.pass_time(600)
        await shop.get("k")
        assert await shop.setdefault("k", 2) == 1
        assert await left(shop) == about(400)

    async def test_set_gives_a_new_lifetime_or_none(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", 1, ttl=1000)
        await shop.set("k", 1, ttl=2000)
        assert await left(shop) == about(2000)
        await shop.set("k", 1)
        assert await left(shop) is None

    async def test_touch_gives_another_lifetime(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", 1)
        assert await shop.touch("k", ttl=1000)
        assert await left(shop) == about(1000)
        assert await shop.touch("k", expires_at=moment(5000))
        place.pass_time(3000)
        assert await left(shop) == about(2000)
        assert await shop.touch("absent", ttl=1000) is False
        assert await shop.get("k") == 1

    async def test_keep(self, shop: AsyncStore, rival: Store, place: Place) -> None:
        orders = shop.domain("orders", keep=timedelta(seconds=1000))
        await orders.set("k", 1)
        rival.domain("orders")["l"] = 1  # the setting belongs to the domain, not to who set it
        rival.domain("other")["k"] = 1
        await shop.set("k", 1)
        assert [await left(orders), await left(orders, "l")] == [about(1000)] * 2
        place.pass_time(900)
        await orders.increment("k")
        place.pass_time(900)
        assert await collect(orders.keys()) == ["k"]
        place.pass_time(100)
        assert await orders.count() == 0
        assert "k" in rival
        assert "k" in rival.domain("other")

    async def test_keep_can_be_overridden_and_changed(self, shop: AsyncStore, place: Place) -> None:
        orders = shop.domain("orders", keep=1000)
        await orders.set("short", 1, ttl=500)
        await orders.set("at", 1, expires_at=moment(700))
        await orders.set("k", 1)
        longer = shop.domain("orders", keep=10000)
        await longer.set("new", 1)
        found = [await left(orders, key) for key in ("short", "at", "k", "new")]
        assert found == [about(500), about(700), about(1000), about(10_000)]
        await orders.set("again", 1)
        assert await left(orders, "again") == about(10000), "the setting is written once per handle"

    @pytest.mark.parametrize("swept", ["before", "by the watcher", "not yet"])
    async def test_the_feed_shows_a_deletion(
        self, rival: Store, place: Place, swept: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        perform = rival.backend.perform

        def cannot_sweep(request: Any, timeout: float | None = None) -> Any:
            if isinstance(request, Sweep):
                raise BusyError("somebody has the store to himself")
            return perform(request, timeout)

        version = rival.set("k", "secret", ttl=1000)
        (event,) = rival.watch(since=0, timeout=0)
        assert (event.value, event.is_deleted) == ("secret", False)
        place.pass_time(1000)
        if swept == "before":
            rival.backend.perform(Sweep())
        if swept == "not yet":
            monkeypatch.setattr(rival.backend, "perform", cannot_sweep)
        (event,) = rival.watch(since=0, timeout=0)
        assert (event.key, event.value, event.is_deleted) == ("k", None, True)
        assert (event.version > version) is (swept != "not yet")
        assert len(list(rival.watch(since=version, timeout=0))) == (swept != "not yet")
