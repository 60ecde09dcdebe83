"""Watching: order, coalescing, going on after a crash, and being told of gaps; on both backends and both faces."""

from __future__ import annotations

import asyncio
import collections
import gc
import statistics
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from datetime import datetime, timezone

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.errors import BusyError, WatchGapError
from ptb_kvpersistence.model import Changes, Sweep
from ptb_kvpersistence.store.watching import POLL
from ptb_kvpersistence.testing.faces import SyncStore

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
    return reply if isinstance(store, SyncStore) else await reply


async def watched(store, **options):
    """Give what there is to see already."""
    if isinstance(store, SyncStore):
        return list(store.target.watch(timeout=0, **options))
    return [event async for event in store.watch(timeout=0, **options)]


def brief(events):
    return [(event.key, "deleted" if event.is_deleted else event.value) for event in events]


# --- what is seen ---


# --- going on ---


def test_without_since_what_changes_from_now_on(rival_of):
    store, rival = rival_of
    rival["old"] = 1
    watch = store.watch(timeout=0)
    rival["new"] = 2
    assert brief(watch) == [("new", 2)]


async def test_without_since_async_with_begins_on_entering(location):
    async with connect_async(location) as database:
        store = await database.create("shop")
        await store.set("old", 1)
        async with store.watch() as changes:
            await store.set("new", 2)
            event = await asyncio.wait_for(anext(changes), 10)
            assert brief([event]) == [("new", 2)]
            await store.set("newer", 3)
            async for event in changes:
                assert brief([event]) == [("newer", 3)]
                break
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(changes), 5)


async def test_without_since_async_for_begins_at_its_first_step(location):
    async with connect_async(location) as database:
        store = await database.create("shop")
        watch = store.watch()
        await store.set("old", 1)
        step = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.2)
        for _ in range(100):  # the step may not have begun yet
            await store.increment("new")
            await asyncio.wait({step}, timeout=0.1)
            if step.done():
                break
        assert (await step).key == "new"
        await watch.aclose()


def test_with_closes_a_sync_watch(rival_of):
    store, rival = rival_of
    with store.watch(timeout=5) as changes:
        rival["k"] = 1
        assert brief([next(changes)]) == [("k", 1)]
        rival["k"] = 2
    assert list(changes) == []


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
        assert statistics.median(delays.values()) < 0.1


def test_a_watcher_outlives_a_long_transaction_of_another(file, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 0.05)
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


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_it_ends_when_nothing_has_changed_for_so_long(location, face):
    async with connect_async(location) as database:
        store = await database.create("shop")
        await store.set("before", 0)
        began, keys = time.monotonic(), []

        async def write():
            for number in range(4):
                await asyncio.sleep(0.3)
                await store.set(str(number), number)

        def follow():
            with connect(location) as elsewhere:
                keys.extend(event.key for event in elsewhere.store("shop").watch(since=0, timeout=1))

        writing = asyncio.create_task(write())
        if face == "sync":
            await asyncio.to_thread(follow)
        else:
            keys.extend([event.key async for event in store.watch(since=0, timeout=1)])
        assert time.monotonic() - began >= 2.2
        await writing
        assert keys == ["before", "0", "1", "2", "3"]


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_what_was_written_while_watching_shows_its_expiry_at_once(location, face, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
    async with connect_async(location) as database:
        store = await database.create("shop")
        seen = []

        def note(event):
            seen.append((event.key, event.is_deleted, time.monotonic()))

        def follow():
            with connect(location) as elsewhere:
                for event in elsewhere.store("shop").watch(since=0, timeout=2.5):
                    note(event)

        async def follow_async():
            async for event in store.watch(since=0, timeout=2.5):
                note(event)

        following = asyncio.create_task(asyncio.to_thread(follow) if face == "sync" else follow_async())
        await store.set("for ever", 1)
        await store.set("renewed", 1, ttl=1)
        await store.set("later", 1, ttl=1.4)
        await store.set("soon", 1, ttl=1.1)
        set_at = time.monotonic()
        await asyncio.sleep(0.1)
        await store.touch("renewed", ttl=3600)
        await asyncio.wait_for(following, 20)
    gone = {key: at - set_at for key, is_deleted, at in seen if is_deleted}
    assert gone.keys() == {"soon", "later"}
    assert 1 <= gone["soon"] < gone["later"]


class Counting:
    """Counts the requests that a backend is given; for some seconds somebody else has it to himself."""

    def __init__(self, backend, monkeypatch, busy_for):
        self.requests = collections.Counter()
        self._perform = backend.perform
        self._free_at = time.monotonic() + busy_for
        monkeypatch.setattr(backend, "perform", self)

    def __call__(self, request, *arguments):
        self.requests[type(request)] += 1
        if isinstance(request, Sweep) and time.monotonic() < self._free_at:
            raise BusyError("locked")
        return self._perform(request, *arguments)


@pytest.fixture(params=["sync", "async"])
def follow(request, location):
    """Give the events that a watcher of a connection of its own sees, and the requests that it made."""

    def follow_sync(monkeypatch, timeout, busy_for):
        with connect(location) as elsewhere:
            store = elsewhere.store("shop")
            counting = Counting(store.backend, monkeypatch, busy_for)
            return [(event, time.time()) for event in store.watch(timeout=timeout)], counting.requests

    async def follow_async(monkeypatch, timeout, busy_for):
        async with connect_async(location) as elsewhere:
            store = await elsewhere.store("shop")
            counting = Counting(store.backend, monkeypatch, busy_for)
            return [(event, time.time()) async for event in store.watch(timeout=timeout)], counting.requests

    async def run(monkeypatch, timeout, busy_for=0.0):
        if request.param == "sync":
            return await asyncio.to_thread(follow_sync, monkeypatch, timeout, busy_for)
        return await follow_async(monkeypatch, timeout, busy_for)

    return run


async def test_the_expiry_of_what_was_there_before_shows_within_100_ms(location, follow, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
    with connect(location) as database:
        store, other = database.create("shop"), database.create("other")
        at = time.time() + 1
        for number in range(9):
            ends = datetime.fromtimestamp(at + number * 0.1, timezone.utc)
            (store, other, store.domain("d"))[number % 3].set(f"k{number}", 1, expires_at=ends)
        found, _ = await follow(monkeypatch, 2.2)
    late = {event.key: seen_at - at - int(event.key[1:]) * 0.1 for event, seen_at in found if event.is_deleted}
    assert list(late) == ["k0", "k3", "k6"]
    assert statistics.median(late.values()) < 0.1


async def test_an_entry_whose_time_was_put_off_a_little_shows_its_expiry_at_once(location, follow, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
    with connect(location) as database:
        store, at = database.create("shop"), time.time() + 1
        for put_off in (0, 0.4):
            store.set("k", 1, expires_at=datetime.fromtimestamp(at + put_off, timezone.utc))
        found, _ = await follow(monkeypatch, 2.5)
    ((event, seen_at),) = found
    assert event.is_deleted
    assert seen_at - at > 0.4


async def test_a_watcher_sweeps_what_expires_one_by_one_several_at_a_time(location, follow, monkeypatch):
    with connect(location) as database:
        database.create("shop")
        other = database.store("shop").domain("d")
        with other.transaction():
            at = time.time() + 1
            for number in range(500):
                ends = datetime.fromtimestamp(at + number * 0.001, timezone.utc)
                other.set(f"k{number}", 1, expires_at=ends)
        found, requests = await follow(monkeypatch, 2)
    assert not found
    assert 0 < requests[Sweep] < 1.5 * 0.5 / POLL


async def test_what_had_expired_before_shows_at_once(location, follow, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 3600)
    with connect(location) as database:
        store = database.create("shop")
        store.set("k", 1, ttl=0.01)
        store["l"] = 1
        await asyncio.sleep(0.05)
        found, _ = await follow(monkeypatch, 0)
    assert brief([event for event, _ in found]) == [("k", "deleted")]


async def test_a_watcher_of_what_does_not_change_writes_nothing(location, follow, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 0.2)
    with connect(location) as database:
        store = database.create("shop")
        store["for ever"] = 1
        store.set("later", 1, ttl=3600)
        found, requests = await follow(monkeypatch, 0.7)
    assert found == []
    assert requests[Sweep] == 0
    assert 3 <= requests[Changes] <= 6


async def test_expiry_that_cannot_be_swept_yet_is_tried_again(location, follow, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.watching.LOOK_EVERY", 0.4)
    with connect(location) as database:
        store = database.create("shop")
        store.set("k", 1, ttl=0.1)
        found, requests = await follow(monkeypatch, 1.5, busy_for=0.8)
    assert brief([event for event, _ in found]) == [("k", "deleted")]
    assert 2 <= requests[Sweep] <= 4


# --- gaps ---


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


async def test_a_step_that_was_cancelled_loses_nothing(location):
    async with connect_async(location) as database:
        store = await database.create("shop")
        async with store.watch() as changes:
            for n in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(changes), 0.05)
                await store.set("k", n)
                assert (await asyncio.wait_for(anext(changes), 2)).value == n
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


# --- the end of a watcher ---


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
