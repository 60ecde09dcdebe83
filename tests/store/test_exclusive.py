"""Exclusive transactions: who waits, who is refused, and that the lock is always given back."""

# A transaction is a block; where in it the error comes is part of what is tested.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
from ptb_kvpersistence.errors import DatabaseError, ReentryError
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.testing.faces import SyncStore

HOLDER = """
import sys, time
from ptb_kvpersistence import connect
store = connect(sys.argv[1]).store("shop", create=True)
with store.transaction(lock=True):
    store["left"] = "half-way"
    print("locked", flush=True)
    time.sleep(60)
"""

FORKS = 40


@pytest.fixture
def database(location):
    with connect(location) as database:
        yield database


@pytest.fixture
def shop(database):
    return database.create("shop")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
async def async_shop(location):
    async with connect_async(location) as database:
        yield await database.store("shop", create=True)


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


# --- others wait ---


# --- waiters that go away ---


async def test_a_task_that_gave_up_waiting_may_write(async_shop):
    release = asyncio.Event()
    locked = asyncio.Event()

    async def hold():
        async with async_shop.transaction(lock=True):
            locked.set()
            await release.wait()

    holder = asyncio.create_task(hold())
    await locked.wait()
    transaction = async_shop.transaction(lock=True)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(transaction.__aenter__(), 0.05)

    async def give_up():
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await async_shop.transaction(lock=True).__aenter__()
        asyncio.get_running_loop().call_later(0.1, release.set)
        await async_shop.set("k", 1)

    await asyncio.create_task(give_up())
    await holder
    assert await async_shop.get("k") == 1


ends_by_itself = pytest.mark.skipif(sys.platform == "win32", reason="there waiting is one loop for all of the time")


@pytest.mark.parametrize("place", ["first in line", "new in line", pytest.param("long in line", marks=ends_by_itself)])
def test_an_interrupted_waiter_leaves_nothing_locked(file, monkeypatch, place):
    with connect(file) as database:
        store = database.create("shop")
        first = WriterQueue(file)

        def rival():
            with pytest.raises(KeyboardInterrupt), store.transaction(lock=True):
                pytest.fail("it was interrupted before its turn")

        owner, name = (threading.Event, "wait") if place == "long in line" else (time, "sleep")
        original = getattr(owner, name)

        def interrupted(*arguments):
            if threading.current_thread().name.startswith("rival") and isinstance(arguments[-1], float):
                original(*arguments[:-1], 0.05)
                raise KeyboardInterrupt
            return original(*arguments)

        with store.transaction(lock=True), ThreadPoolExecutor(1, "rival") as pool:
            assert place == "first in line" or first.enter(0)
            monkeypatch.setattr(owner, name, interrupted)
            try:
                pool.submit(rival).result(10)
            finally:
                monkeypatch.undo()
                first.leave()
        time.sleep(0.1)  # what was left waiting gets its turn now
        handles = Path("/proc/self/fd")
        assert not handles.exists() or not [one for one in handles.iterdir() if str(one.resolve()).endswith("-queue")]
        assert first.enter(0)
        first.leave()
        with store.transaction(lock=True, timeout=2):
            store["n"] = 1
        assert store["n"] == 1


# --- cancellation at every await ---


@types.coroutine
def cancelled_at(coroutine, step):
    """Run a coroutine whose task is cancelled while it waits for the ``step``-th time."""
    reply, send = None, coroutine.send
    for number in itertools.count():
        try:
            waits_for = send(reply)
        except StopIteration as stop:
            return stop.value
        if number == step:
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            reply, send = (yield waits_for), coroutine.send
        except BaseException as error:
            reply, send = error, coroutine.throw


async def awaited(awaitable):
    """A coroutine, which is what a task takes."""
    return await awaitable


# --- whose transaction it is ---


async def test_a_thread_with_the_same_context_is_not_inside(shop):
    def thread():
        assert "a" not in shop
        shop["thread"] = 1

    with pytest.raises(ValueError, match="roll back"), shop.transaction():
        shop["a"] = 1
        await asyncio.to_thread(thread)  # takes the context along
        raise ValueError("roll back")
    assert dict(shop) == {"thread": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
def test_a_forked_child_is_not_inside(file, lock):
    with connect(file) as database:
        store = database.create("shop")
        with pytest.raises(ValueError, match="roll back"), store.transaction(lock=lock):
            store["a"] = 1
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    if lock:
                        os._exit(0 if store.get("a") is None else 2)
                    store["child"] = "a" in store
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert store["a"] == 1
            raise ValueError("roll back")
        assert dict(store) == ({} if lock else {"child": False})
        with store.transaction(lock=True, timeout=5):
            store["free"] = 1


FORKING_HOLDER = """
import os, sys, time
from ptb_kvpersistence import connect
store = connect(sys.argv[1]).store("shop", create=True)
with store.transaction(lock=True):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_does_not_keep_the_lock_of_its_killed_parent(file):
    holder = subprocess.Popen([sys.executable, "-c", FORKING_HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    with holder.stdout as output:
        child = int(output.readline())
    try:
        holder.kill()
        holder.wait()
        with connect(file) as database, database.store("shop").transaction(lock=True, timeout=2) as store:
            store["taken"] = 1
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_end_its_parents_transaction(file):
    with connect(file) as database:
        store = database.create("shop")
        pid = 0
        for lock in (False, True):
            try:
                with store.transaction(lock=lock):
                    store["a"] = store.get("a", 0) + 1
                    pid = os.fork()
                    if pid:
                        assert os.waitpid(pid, 0)[1] == 0
            finally:
                if not pid:
                    os._exit(0)
        assert dict(store) == {"a": 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_in_thread", [False, True])
def test_a_child_of_a_fork_inside_of_a_locked_transaction_is_told_at_once(file, is_in_thread):
    def write(store):
        store["child"] = 1

    def write_locked(store):
        with store.transaction(lock=True):
            store["child"] = 1

    def write_in_a_loop(store):
        async def main():
            async with connect_async(file) as database:
                await (await database.store("shop")).set("child", 1)

        asyncio.run(main())

    def child(store):
        began = time.monotonic()
        assert store.get("before") == 1
        for attempt in (write, write_locked, write_in_a_loop, write_in_a_grandchild):
            try:
                attempt(store)
            except DatabaseError as error:
                assert "forked" in str(error)  # noqa: PT017 - in a fork
            else:
                return 2
        with connect(file) as database:
            assert dict(database.store("shop")) == {"before": 1}
        return 0 if time.monotonic() - began < 5 else 3

    def write_in_a_grandchild(store):
        code = fork(lambda: write(store), DatabaseError)
        raise DatabaseError("forked" if code == 0 else "")

    with connect(file) as database:
        store = database.create("shop")
        store["before"] = 1
        holding = threading.Event()

        def hold():
            with store.transaction(lock=True):
                holding.set()
                time.sleep(1)

        if is_in_thread:
            thread = threading.Thread(target=hold)
            thread.start()
            holding.wait()
            assert fork(lambda: child(store)) == 0
            thread.join()
        else:
            with store.transaction(lock=True):
                store["parent"] = 1
                assert fork(lambda: child(store)) == 0
            assert dict(store) == {"before": 1, "parent": 1}
        with store.transaction(lock=True, timeout=5):
            store["free"] = 1
        assert fork(lambda: write(store) or 0) == 0
        assert store["child"] == 1


def fork(child, expected=()):
    """Run something in a fork; give its exit status, 0 where it raised what was expected."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = child()
        except expected:
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_the_work_of_other_threads_can_work(file):
    def child(number):
        signal.alarm(20)
        store[f"child {number}"] = len(store)
        with store.transaction(lock=True, timeout=15):
            store["n"] += 1
        with store.lock("one at a time"):
            return 0

    def count():
        while not is_over.is_set():
            store.increment("n")
            counted.append(1)

    def read():
        while not is_over.is_set():
            assert store.get("n") is not None
            assert list(store.keys(prefix="child"))[:1] in ([], ["child 0"])

    def lease():
        while not is_over.is_set():
            with store.lock("quick"):
                pass

    is_over, counted = threading.Event(), []
    with connect(file) as database:
        store = database.create("shop")
        store["n"] = 0
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(work) for work in (count, count, read, lease)]
            try:
                assert [fork(lambda number=number: child(number)) for number in range(FORKS)] == [0] * FORKS
            finally:
                is_over.set()
            for call in calls:
                call.result(20)
        assert store["n"] == len(counted) + FORKS
        assert len(store) == 1 + FORKS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_has_a_memory_database_of_its_own():
    with connect("memory:") as database:
        store = database.create("shop")
        with store.transaction(lock=True):
            store["a"] = 1
            assert fork(lambda: 0 if store.set("b", 1) and dict(store) == {"b": 1} else 1) == 0
        assert dict(store) == {"a": 1}


async def test_transactions_of_two_stores_at_once(location, store):
    other = SyncStore(connect(location).store("other", create=True))
    with pytest.raises(ValueError, match="roll back"):
        async with store.transaction():
            await store.set("a", 1)
            async with other.transaction():
                await other.set("b", 1)
                await store.set("c", 1)
            assert await other.get("b") == 1
            raise ValueError("roll back")
    assert await store.count() == 0
    assert await other.count() == 1
    other.backend.close()


# --- who would wait for himself ---


async def test_a_second_lock_of_the_same_caller(store, location):
    second = await sibling(store)
    async with store.transaction(lock=True):
        for attempt in range(2):
            with pytest.raises(ReentryError):
                async with second.transaction(lock=True):
                    pytest.fail(f"it was let in, {attempt}")
        async with store.transaction(lock=True) as view:  # a nested one is no second
            await view.set("k", 1)
    async with second.transaction(lock=True, timeout=1):
        await second.set("k", 2)
    assert (await store.get("k"), await second.get("k")) == (1, 2)


async def sibling(store):
    """Another store of the same database, through the same connection."""
    from ptb_kvpersistence.store.operations import Handle
    from ptb_kvpersistence.store.sync import Store

    handle = store.scope.handle if isinstance(store, SyncStore) else store.handle
    handle = Handle("sibling", "ensure", handle.codec, handle.backend)
    found = (
        SyncStore(Store(store.backend, handle)) if isinstance(store, SyncStore) else AsyncStore(store.backend, handle)
    )
    await found.count()  # opens it
    return found


async def test_a_plain_write_to_another_store_inside(store):
    second = await sibling(store)
    await second.set("k", 0)
    started = time.monotonic()
    with pytest.raises(ReentryError, match="wait for itself"):
        async with store.transaction(lock=True):
            assert await second.get("k") == 0
            await second.set("k", 1)
    assert time.monotonic() - started < 2
    await second.set("k", 2)
    async with store.transaction():
        await second.set("k", 3)
    assert await second.get("k") == 3


async def test_a_sync_store_does_not_wait_inside_a_running_loop(shop, async_shop):
    shop["works"] = "as long as there is nothing to wait for"
    with shop.transaction(lock=True):
        shop["too"] = 1
    async with async_shop.transaction(lock=True):
        assert shop["too"] == 1
        with pytest.raises(ReentryError, match="AsyncStore"):
            shop["k"] = 1
        with pytest.raises(ReentryError, match="AsyncStore"), shop.transaction(lock=True):
            pytest.fail("it was let in")
    shop["k"] = 2
    assert await async_shop.get("k") == 2


def test_a_thread_that_would_wait_for_itself_is_told_though_others_wait(file, pool):
    with connect(file) as database:
        shop, other = database.create("shop"), database.create("other")
        with shop.transaction(lock=True):
            waiting = pool.submit(other.set, "waits", 1)
            time.sleep(0.05)
            started = time.monotonic()
            with pytest.raises(ReentryError):
                other["k"] = 1
            assert other.get("waits") is None
            assert time.monotonic() - started < 2
        waiting.result(10)
        assert dict(other) == {"waits": 1}


# --- left open ---


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_one_left_open_is_reported(store, lock, caplog, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.ambient.OPEN_TOO_LONG", 0.01)
    async with store.transaction(lock=lock):
        await store.set("secret", "value")
        await asyncio.to_thread(wait_until, lambda: caplog.records)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "'shop'" in record.getMessage()
    assert "open for" in record.getMessage()
    assert "secret" not in record.getMessage()


# --- what a persistence writes ---


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_a_flush_during_a_transaction_that_is_rolled_back_survives(location, lock):
    from ptb_kvpersistence import KVPersistence

    async with connect_async(location) as database:
        store = await database.store("default", create=True)
        persistence = KVPersistence(store=store, bot="shop")
        flush = None
        with pytest.raises(ValueError, match="roll back"):
            async with persistence.store.transaction(lock=lock) as view:
                await view.set("order", "tea")
                update = persistence.update_user_data(42, {"coins": 5})
                if lock:
                    flush = asyncio.create_task(update)
                    await asyncio.sleep(0.05)
                else:
                    await update
                    await persistence.flush()
                raise ValueError("roll back")
        if flush is not None:
            await flush
        await persistence.flush()
        assert await store.count() == 0
        assert await store.domain("ptb:user_data:shop").get("42") == {"coins": 5}
        assert persistence.pending == 0
