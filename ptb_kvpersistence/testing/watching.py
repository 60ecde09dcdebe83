"""Watchers: order, coalescing, going on where one left off, being told of gaps, and ending."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any

import pytest

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.errors import ConfigurationError, DecodeError, WatchGapError
from ptb_kvpersistence.model import Changes, Commit, DeleteStore, Put, Sweep
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.store.watching import Event
from ptb_kvpersistence.testing.faces import Face, Subject
from ptb_kvpersistence.testing.place import Place
from ptb_kvpersistence.testing.suite import Connect, Suite, on_sync_face


def brief(events: list[Event]) -> list[tuple[str, Any]]:
    """What a reader compares."""
    return [(event.key, "deleted" if event.is_deleted else event.value) for event in events]


async def take(shop: AsyncStore, count: int, **options: Any) -> list[Event]:
    """Follow a store until so many events have come; blocks the thread of the sync face."""
    events: list[Event] = []
    async with aclosing(shop.watch(**options)) as watch:
        async for event in watch:
            events.append(event)
            if len(events) == count:
                break
    return events


class Watching(Suite):
    """What watchers see, and when."""

    guarantee = "watching"

    async def test_a_watcher_sees_the_latest_change_of_each_key(
        self, face: Face, shop: AsyncStore, rival: Store
    ) -> None:
        rival["a"] = 1
        rival["b"] = 1
        rival["c"] = 1
        rival["a"] = 2
        del rival["b"]
        rival["null"] = None
        events = await face.watched(shop, since=0)
        assert brief(events) == [("c", 1), ("a", 2), ("b", "deleted"), ("null", None)]
        versions = [event.version for event in events]
        assert versions == sorted(set(versions))
        assert versions[1] == rival.entry("a").version

    async def test_only_its_own_domain(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        rival["a"] = 1
        rival.domain("d")["b"] = 2
        assert brief(await face.watched(shop, since=0)) == [("a", 1)]
        assert brief(await face.watched(shop, since=0, domain="d")) == [("b", 2)]
        assert brief(await face.watched(shop, since=0, domain="none")) == []

    async def test_a_transaction_is_seen_whole(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        def change(view: Store) -> None:
            view.set_many({"a": 1, "b": 2})
            view.clear()
            view["c"] = 3

        rival["a"] = 0
        version = rival.entry("a").version
        rival.run(change)
        assert brief(await face.watched(shop, since=version)) == [("a", "deleted"), ("c", 3)]

    async def test_a_value_that_cannot_be_read(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        rival["a"] = 1
        rival.backend.perform(Commit(rival.handle.info.id, (Put("", "bad", b'{"$future": 1}'),)))
        good, bad = await face.watched(shop, since=0)
        assert good.error is None
        assert isinstance(bad.error, DecodeError)
        assert (bad.key, bad.value, bad.is_deleted) == ("bad", None, False)

    async def test_from_any_version(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        versions = [rival.set(f"k{n}", n) for n in range(4)]
        for n, version in enumerate(versions):
            assert [event.value for event in await face.watched(shop, since=version)] == list(range(n + 1, 4))

    async def test_the_horizon_has_passed(self, face: Face, shop: AsyncStore, rival: Store, place: Place) -> None:
        first = rival.set("a", 1)
        rival["b"] = 1
        del rival["b"]
        last = (await face.watched(shop, since=0))[-1]
        place.pass_time(TOMBSTONE_LIFETIME / 1000 + 1)
        rival.backend.perform(Sweep())
        with pytest.raises(WatchGapError, match="from the start"):
            await face.watched(shop, since=first)
        assert brief(await face.watched(shop, since=0)) == [("a", 1)]
        assert await face.watched(shop, since=last.version) == []
        assert await face.watched(shop, since=last.cursor) == []

    async def test_a_version_of_the_future(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        version = rival.set("a", 1)
        with pytest.raises(WatchGapError):
            await face.watched(shop, since=version + 1)
        assert await face.watched(shop, since=version) == []

    @pytest.mark.parametrize("since", [-1, 1.0, True, "", "5", "x:", "x:-1", b"5", object], ids=repr)
    async def test_a_wrong_since(self, face: Face, shop: AsyncStore, since: Any) -> None:
        with pytest.raises(ConfigurationError, match="cursor"):
            await face.watched(shop, since=since)

    async def test_a_wrong_domain(self, face: Face, shop: AsyncStore) -> None:
        with pytest.raises(ConfigurationError):
            await face.watched(shop, domain=5)

    async def test_more_than_a_page(
        self, face: Face, shop: AsyncStore, rival: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ptb_kvpersistence.store.watching.PAGE", 3)
        rival.set_many({f"k{n}": n for n in range(10)})
        assert brief(await face.watched(shop, since=0)) == [(f"k{n}", n) for n in range(10)]

    async def test_from_a_cursor_in_another_connection(
        self, face: Face, shop: AsyncStore, connect: Connect, rival: Store
    ) -> None:
        rival.set_many({"a": 1, "b": 2})
        first, _ = await face.watched(shop, since=0)
        rival["c"] = 3
        other = face.store(connect())
        events = await face.watched(other, since=first.cursor)
        assert brief(events) == [("b", 2), ("c", 3)]
        assert await face.watched(other, since=events[-1].cursor) == []

    async def test_what_changes_while_watching(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        """Without since: what changes from now on, and at once."""
        rival["old"] = 1
        seen: list[Event] = []

        async def follow() -> None:
            async with aclosing(shop.watch()) as watch:
                async for event in watch:
                    seen.append(event)
                    if event.key == "end":
                        break

        watching = face.start(follow)
        while not seen:  # until it has begun
            assert not watching.done()
            rival["begin"] = 1
            await asyncio.sleep(0.05)
        started = time.monotonic()
        for key in ("a", "b", "end"):
            rival[key] = key
            await asyncio.sleep(0.05)
        await asyncio.wait_for(watching, 10)
        assert time.monotonic() - started < 3
        assert "old" not in dict(brief(seen))
        assert brief([event for event in seen if event.key != "begin"]) == [("a", "a"), ("b", "b"), ("end", "end")]

    async def test_everybody_sees_everything(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        stores = [face.store(connect()) for _ in range(3)]
        followers = [face.start(lambda store=store: take(store, 20, since=0)) for store in stores]  # type: ignore[misc]
        for n in range(20):
            await shop.set(f"k{n:02}", n)
            await asyncio.sleep(0.002)
        for follower in followers:
            assert brief(await asyncio.wait_for(follower, 10)) == [(f"k{n:02}", n) for n in range(20)]

    async def test_a_watcher_sees_expiry_as_it_happens(
        self, face: Face, shop: AsyncStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
        await shop.set("k", 1, ttl=0.3)
        watching = face.start(lambda: take(shop, 2, since=0, timeout=10))
        assert brief(await watching) == [("k", 1), ("k", "deleted")]

    async def test_a_watcher_sees_what_was_written_before_expire(
        self, face: Face, shop: AsyncStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One by one and several at once, in one domain and others, from now on."""
        monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
        monkeypatch.setattr("ptb_kvpersistence.store.watching.PAGE", 3)
        await shop.set("for ever", 1)
        await shop.set("much later", 1, ttl=3600)
        at = time.time() + 2
        for number in range(6):
            ends = datetime.fromtimestamp(at + number * 0.2, timezone.utc)
            await shop.domain("d" if number % 2 else "").set(f"k{number}", 1, expires_at=ends)
        await shop.set_many({f"n{number}": 1 for number in range(7)}, expires_at=ends)
        watching = face.start(lambda: take(shop, 10, timeout=10))
        events = await watching
        assert all(event.is_deleted for event in events)
        assert [event.key for event in events[:3]] == ["k0", "k2", "k4"]
        assert {event.key for event in events[3:]} == {f"n{number}" for number in range(7)}

    async def test_the_feed_tells_when_the_next_entry_expires(
        self, store: int, shop: AsyncStore, backend: Subject, place: Place
    ) -> None:
        async def expires_in() -> int | None:
            return (await backend.perform(Changes(store, 2**62, ("none",), 1))).expires_in

        assert await expires_in() is None
        await shop.set("k", 1)
        assert await expires_in() is None
        await shop.set("l", 1, ttl=2000)
        await shop.domain("d").set("k", 1, ttl=1000)
        found = await expires_in()
        assert found is not None
        assert 900_000 < found <= 1_000_000
        place.pass_time(1500)
        overdue = await expires_in()
        assert overdue is not None
        assert -600_000 < overdue <= -500_000
        assert await backend.perform(Sweep()) == 1
        found = await expires_in()
        assert found is not None
        assert 400_000 < found <= 500_000
        await shop.set("l", 1)
        place.pass_time(1000)
        assert await expires_in() is None

    async def test_a_cursor_of_an_earlier_incarnation(
        self, face: Face, shop: AsyncStore, rival: Store, backend: Subject
    ) -> None:
        rival["a"] = 1
        (event,) = await face.watched(shop, since=0)
        following = face.start(lambda: take(shop, 1, since=event.version))
        await asyncio.sleep(0.1)
        rival.backend.perform(DeleteStore("shop", force=True))
        with pytest.raises(WatchGapError, match="deleted"):
            await asyncio.wait_for(following, 10)
        again = face.store(backend)
        await again.set("a", 1)
        with pytest.raises(WatchGapError, match="anew"):
            await take(again, 1, since=event.cursor)

    @pytest.mark.parametrize("last", ["a value", "a deletion", "nothing"])
    async def test_a_version_of_an_earlier_incarnation(
        self, face: Face, shop: AsyncStore, rival: Store, backend: Subject, last: str
    ) -> None:
        versions = [] if last == "nothing" else [rival.set(f"k{n}", n) for n in range(3)]
        if last == "a deletion":
            rival.clear()
            versions += [event.version for event in await face.watched(shop, since=versions[-1])]
        rival.backend.perform(DeleteStore("shop", force=True))
        again = face.store(backend)
        for written in (0, 20):
            await again.set_many({f"k{n}": "new" for n in range(written)})
            for version in versions:
                with pytest.raises(WatchGapError, match="from the start"):
                    await take(again, 1, since=version)
            assert len(await face.watched(again, since=0)) == written
        entry = await again.entry("k19")
        assert entry is not None
        assert await face.watched(again, since=entry.version) == []

    async def test_another_stores_end_is_no_gap(
        self, face: Face, shop: AsyncStore, rival: Store, backend: Subject
    ) -> None:
        other = face.store(backend, "other")
        version = await shop.set("a", 1)
        await other.set_many({f"k{n}": n for n in range(5)})
        rival.backend.perform(DeleteStore("other", force=True))
        assert await face.watched(shop, since=version) == []
        await shop.set("b", 2)
        assert brief(await face.watched(shop, since=version)) == [("b", 2)]

    @on_sync_face
    async def test_the_sync_watch_ends_after_its_timeout(self, rival: Store) -> None:
        rival["k"] = 1
        started = time.monotonic()
        assert len(list(rival.watch(since=0, timeout=0.2))) == 1
        assert 0.2 <= time.monotonic() - started < 5

    async def test_an_ended_watcher_leaves_nothing_behind(self, face: Face, shop: AsyncStore, rival: Store) -> None:
        rival["k"] = 1
        await face.watched(shop, since=0)
        await face.sleep(0.3)  # what a backend starts for all watchers is there then
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        for _ in range(5):
            assert len(await face.watched(shop, since=0)) == 1
        gc.collect()
        # What a backend has of its own may be making its connections anew just then.
        deadline = time.monotonic() + 5
        while len(asyncio.all_tasks()) > tasks or threading.active_count() > threads:
            assert time.monotonic() < deadline, (asyncio.all_tasks(), threading.enumerate())
            await asyncio.sleep(0.01)
        async with shop.transaction(lock=True, timeout=2):
            await shop.set("k", 2)
