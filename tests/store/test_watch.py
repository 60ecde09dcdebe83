"""Watching: order, coalescing, going on after a crash, and being told of gaps; on both backends and both faces."""

from __future__ import annotations

import asyncio
import gc
import statistics
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.errors import ConfigurationError, DecodeError, WatchGapError
from ptb_kvpersistence.model import Commit, DeleteStore, Put, Sweep
from tests.store.faces import Sync

WRITER = """
import sys, time
from ptb_kvpersistence import connect
store = connect(sys.argv[1]).store("shop")
sys.stdin.readline()
for number in range(5):
    store[f"k{number}"] = time.time()
    time.sleep(0.05)
"""


async def perform(store, request):
    reply = store.backend.perform(request)
    return reply if isinstance(store, Sync) else await reply


async def watched(store, **options):
    """Give what there is to see already."""
    if isinstance(store, Sync):
        return list(store.target.watch(timeout=0, **options))
    events = []

    async def read():
        async with aclosing(store.watch(**options)) as watch:
            async for event in watch:
                events.append(event)  # noqa: PERF401 - what was seen before the end counts

    task = asyncio.create_task(read())
    seen = -1
    while not task.done() and len(events) > seen:
        seen = len(events)
        await asyncio.sleep(0.06)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return events


def brief(events):
    return [(event.key, "deleted" if event.is_deleted else event.value) for event in events]


# --- what is seen ---


async def test_the_latest_change_of_each_key_in_version_order(store, rival):
    rival["a"] = 1
    rival["b"] = 1
    rival["c"] = 1
    rival["a"] = 2
    del rival["b"]
    rival["null"] = None
    events = await watched(store, since=0)
    assert brief(events) == [("c", 1), ("a", 2), ("b", "deleted"), ("null", None)]
    versions = [event.version for event in events]
    assert versions == sorted(set(versions))
    assert versions[1] == rival.entry("a").version


async def test_only_its_own_domain(store, rival):
    rival["a"] = 1
    rival.domain("d")["b"] = 2
    assert brief(await watched(store, since=0)) == [("a", 1)]
    assert brief(await watched(store, since=0, domain="d")) == [("b", 2)]
    assert brief(await watched(store, since=0, domain="none")) == []


async def test_a_transaction_is_seen_whole(store, rival):
    def change(view):
        view.set_many({"a": 1, "b": 2})
        view.clear()
        view["c"] = 3

    rival["a"] = 0
    version = rival.entry("a").version
    rival.run(change)
    assert brief(await watched(store, since=version)) == [("a", "deleted"), ("c", 3)]


async def test_more_than_a_page(store, rival, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.PAGE", 3)
    rival.set_many({f"k{n}": n for n in range(10)})
    assert brief(await watched(store, since=0)) == [(f"k{n}", n) for n in range(10)]


async def test_a_value_that_cannot_be_read(store, rival):
    rival["a"] = 1
    rival.backend.perform(Commit(rival.handle.info.id, (Put("", "bad", b'{"$future": 1}'),)))
    good, bad = await watched(store, since=0)
    assert good.error is None
    assert isinstance(bad.error, DecodeError)
    assert (bad.key, bad.value, bad.is_deleted) == ("bad", None, False)


# --- going on ---


async def test_from_any_version(store, rival):
    versions = [rival.set(f"k{n}", n) for n in range(4)]
    for n, version in enumerate(versions):
        assert [event.value for event in await watched(store, since=version)] == list(range(n + 1, 4))


async def test_from_a_cursor_after_reopening(file):
    with connect(file) as database:
        store = database.create("shop")
        store.set_many({"a": 1, "b": 2})
        watch = store.watch(since=0, timeout=0)
        cursor = next(watch).cursor
        watch.close()
    with connect(file) as database:
        store = database.store("shop")
        store["c"] = 3
        events = list(store.watch(since=cursor, timeout=0))
        assert brief(events) == [("b", 2), ("c", 3)]
        assert list(store.watch(since=events[-1].cursor, timeout=0)) == []


def test_without_since_what_changes_from_now_on(rival_of):
    store, rival = rival_of
    rival["old"] = 1
    watch = store.watch(timeout=0)
    rival["new"] = 2
    assert brief(watch) == [("new", 2)]


@pytest.fixture
def rival_of(location):
    with connect(location) as database, connect(location) as elsewhere:
        yield database.create("shop"), elsewhere.store("shop")


def test_changes_coalesce_while_the_watcher_is_busy(rival_of):
    store, rival = rival_of
    watch = store.watch(since=0, timeout=5)
    rival["a"] = 1
    assert brief([next(watch)]) == [("a", 1)]
    for n in range(20):
        rival["a"] = n
        rival["b"] = n
    assert brief([next(watch), next(watch)]) == [("a", 19), ("b", 19)]
    watch.close()


async def test_everybody_sees_everything(location):
    async with connect_async(location) as database:
        store = await database.create("shop")

        async def follow():
            found = {}
            async with aclosing(store.watch(since=0)) as watch:
                async for event in watch:
                    found[event.key] = event.value
                    if len(found) == 20:
                        break
            return found

        followers = [asyncio.create_task(follow()) for _ in range(3)]
        await asyncio.gather(*(store.set(f"k{n:02}", n) for n in range(20)))
        for follower in followers:
            assert await asyncio.wait_for(follower, 10) == {f"k{n:02}": n for n in range(20)}


def test_a_change_is_seen_at_once(rival_of, record_property):
    store, rival = rival_of
    watch = store.watch(timeout=10)

    def write():
        for n in range(15):
            time.sleep(0.03)
            rival[f"k{n}"] = time.monotonic()

    thread = threading.Thread(target=write)
    thread.start()
    delays = [time.monotonic() - next(watch).value for _ in range(15)]
    thread.join()
    watch.close()
    record_property("median_ms", statistics.median(delays) * 1000)
    assert statistics.median(delays) < 1


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_changes_of_another_process(file, face):
    async with connect_async(file) as database:
        store = await database.create("shop")
        command = [sys.executable, "-c", WRITER, str(file)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)  # noqa: ASYNC220 - starting is quick
        delays = {}

        def note(event):
            delays[event.key] = time.time() - event.value
            return len(delays) == 5

        def follow():
            with connect(file) as other:
                for event in other.store("shop").watch(since=0, timeout=20):
                    if note(event):
                        return

        async def follow_async():
            async with aclosing(store.watch(since=0)) as watch:
                async for event in watch:
                    if note(event):
                        return

        follower = asyncio.create_task(asyncio.to_thread(follow) if face == "sync" else follow_async())
        await asyncio.sleep(0.1)
        with process.stdin as gate:
            gate.write("go\n")
        try:
            await asyncio.wait_for(follower, 20)
        finally:
            process.kill()
            process.wait()
        assert list(delays) == [f"k{n}" for n in range(5)]
        assert statistics.median(delays.values()) < 1


async def test_expiry_is_seen_as_it_happens(store, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.SWEEP_EVERY", 0.05)
    await store.set("k", 1, ttl=0.3)
    if isinstance(store, Sync):
        seen = brief(store.target.watch(since=0, timeout=1))
    else:
        seen = []
        async with aclosing(store.watch(since=0)) as watch:
            async for event in watch:
                seen += brief([event])
                if event.is_deleted:
                    break
    assert seen == [("k", 1), ("k", "deleted")]


def test_a_watcher_outlives_a_long_transaction_of_another(file, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.SWEEP_EVERY", 0.05)
    with connect(file, timeout=0.1) as database, connect(file) as elsewhere:
        rival = elsewhere.create("shop")
        store = database.store("shop")
        found = []

        def follow():
            found.extend(brief(store.watch(since=0, timeout=1)))

        thread = threading.Thread(target=follow)
        with rival.transaction(lock=True):
            thread.start()
            time.sleep(0.4)
            rival["k"] = 1
        thread.join()
        assert found == [("k", 1)]


# --- gaps ---


async def test_the_horizon_has_passed(store, rival, clock):
    first = rival.set("a", 1)
    rival["b"] = 1
    del rival["b"]
    last = (await watched(store, since=0))[-1]
    clock.advance(TOMBSTONE_LIFETIME / 1000 + 1)
    rival.backend.perform(Sweep())
    with pytest.raises(WatchGapError, match="from the start"):
        await watched(store, since=first)
    assert brief(await watched(store, since=0)) == [("a", 1)]
    assert await watched(store, since=last.version) == []
    assert await watched(store, since=last.cursor) == []


def test_the_horizon_passes_a_watcher_that_sleeps(rival_of, clock):
    store, rival = rival_of
    rival["a"] = 1
    watch = store.watch(since=0, timeout=0)
    next(watch)
    rival["b"] = 1
    del rival["b"]
    clock.advance(TOMBSTONE_LIFETIME / 1000 + 1)
    rival.backend.perform(Sweep())
    with pytest.raises(WatchGapError):
        next(watch)


def test_a_cursor_of_an_earlier_incarnation(location):
    with connect(location) as database:
        old = database.create("shop")
        old["a"] = 1
        (event,) = old.watch(since=0, timeout=0)
        following = old.watch(since=event.version, timeout=5)
        database._backend.perform(DeleteStore("shop", force=True))
        new = database.create("shop")
        new["a"] = 1
        with pytest.raises(WatchGapError, match="anew"):
            new.watch(since=event.cursor, timeout=0)
        with pytest.raises(WatchGapError, match="deleted"):
            next(following)


async def test_a_version_of_the_future(store, rival):
    version = rival.set("a", 1)
    with pytest.raises(WatchGapError):
        await watched(store, since=version + 1)
    assert await watched(store, since=version) == []


def test_another_stores_end_is_no_gap(location):
    """Versions are counted per database; a deleted store takes the highest ones along."""
    with connect(location) as database:
        shop, other = database.create("shop"), database.create("other")
        shop["a"] = 1
        other.set_many({f"k{n}": n for n in range(5)})
        watch = shop.watch(timeout=0.05)
        database._backend.perform(DeleteStore("other", force=True))
        assert brief(watch) == []


@pytest.mark.parametrize("since", [-1, 1.0, True, "", "5", "x:", "x:-1", b"5", object], ids=repr)
async def test_a_wrong_since(store, since):
    with pytest.raises(ConfigurationError, match="cursor"):
        await watched(store, since=since)


async def test_a_wrong_domain(store):
    with pytest.raises(ConfigurationError):
        await watched(store, domain=5)


# --- the end of a watcher ---


@pytest.mark.parametrize("location", ["file", "memory"], indirect=True)  # notifications go on for a while
async def test_a_cancelled_watcher_leaves_nothing_behind(location):
    async with connect_async(location) as database:
        store = await database.create("shop")
        await store.get("warm-up")
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()

        async def follow():
            async for _event in store.watch(since=0):
                pass

        followers = [asyncio.create_task(follow()) for _ in range(5)]
        await asyncio.sleep(0.1)
        for follower in followers:
            follower.cancel()
        await asyncio.wait(followers)
        del followers, follower
        gc.collect()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks
        assert threading.active_count() == threads
        async with store.transaction(lock=True, timeout=2):
            await store.set("k", 1)


async def test_a_closed_sync_watcher_leaves_nothing_behind(rival_of):
    store, rival = rival_of
    threads = threading.active_count()
    rival["k"] = 1
    watch = store.watch(since=0)
    next(watch)
    watch.close()
    with pytest.raises(StopIteration):
        next(watch)
    assert threading.active_count() == threads
    with rival.transaction(lock=True, timeout=1):
        rival["k"] = 2


def test_the_timeout_counts_from_the_last_change(rival_of):
    store, rival = rival_of
    rival["k"] = 1
    started = time.monotonic()
    assert len(list(store.watch(since=0, timeout=0.2))) == 1
    assert 0.2 <= time.monotonic() - started < 5


# --- bots ---


async def test_bot_a_watches_what_bot_b_writes(location):
    from ptb_kvpersistence import KVPersistence

    async with connect_async(location) as database:
        store = await database.store("default", create=True)
        a = KVPersistence(store=store, bot="a", share=["user_data"])
        b = KVPersistence(store=store, bot="b", share=["user_data"], update_interval=0.01)
        await b.get_user_data()
        seen = asyncio.Event()
        found = []

        async def follow():
            async with aclosing(a.store.watch(domain="ptb:user_data", since=0)) as watch:
                async for event in watch:
                    found.append((event.key, event.value))
                    seen.set()
                    if len(found) == 2:
                        return

        follower = asyncio.create_task(follow())
        await b.update_user_data(42, {"coins": 5, "seen": {1, 2}})
        await asyncio.wait_for(seen.wait(), 10)
        await b.update_user_data(43, {"coins": (6,)})
        await asyncio.wait_for(follower, 10)
        assert found == [("42", {"coins": 5, "seen": {1, 2}}), ("43", {"coins": (6,)})]
        await b.flush()
        await a.flush()
