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
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import BusyError, ConflictError, LockTimeoutError, ReentryError
from ptb_kvpersistence.store.aio import AsyncStore
from tests.store.faces import Sync

HOLDER = """
import sys, time
from ptb_kvpersistence import connect
store = connect(sys.argv[1]).store("shop", create=True)
with store.transaction(lock=True):
    store["left"] = "half-way"
    print("locked", flush=True)
    time.sleep(60)
"""


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


def test_plain_writers_wait(shop, database, location, pool):
    order = []

    def write(store, key):
        store[key] = 1
        order.append(key)

    with connect(location) as elsewhere:
        other, again = elsewhere.store("shop"), database.store("shop")
        with shop.transaction(lock=True):
            shop["run"] = 1
            waiting = [
                pool.submit(write, shop, "same connection"),
                pool.submit(write, other, "other connection"),
                pool.submit(write, again.domain("d"), "domain"),
            ]
            time.sleep(0.15)
            assert not order
            assert shop["run"] == 1
            assert list(shop) == ["run"]
            order.append("end")
        for future in waiting:
            future.result(10)
    assert order[0] == "end"
    assert set(shop) == {"run", "same connection", "other connection"}


def test_others_read_meanwhile(shop, location, pool):
    shop["k"] = "before"
    with connect(location) as elsewhere:
        other = elsewhere.store("shop")
        with shop.transaction(lock=True):
            shop["k"] = "after"
            writer = pool.submit(shop.set, "waits", 1)
            time.sleep(0.05)
            started = time.monotonic()
            assert pool.submit(other.get, "k").result(10) == "before"
            assert pool.submit(shop.get, "k").result(10) == "before"
            assert time.monotonic() - started < 2, "a reader waited for the lock"
        writer.result(10)
    assert shop["k"] == "after"


async def test_other_tasks_wait(async_shop):
    done = []

    async def write(key):
        await async_shop.set(key, 1)
        done.append(key)

    async with async_shop.transaction(lock=True) as view:
        tasks = [asyncio.create_task(write(key)) for key in "ab"]
        await view.set("run", 1)
        await asyncio.sleep(0.1)
        assert not done
        assert await async_shop.count() == 1
    await asyncio.gather(*tasks)
    assert await async_shop.count() == 3


async def test_reads_inside_conflict_with_nobody(store, location):
    async with store.transaction(lock=True):
        before = await store.get("n", 0)
        assert await store.count() == 0
        await store.set("n", before + 1)
    assert await store.get("n") == 1


def test_the_wait_has_an_end(shop, location):
    with connect(location, timeout=0.1) as elsewhere:
        other = elsewhere.store("shop")

        def rival():
            for timeout in (0, 0.1):
                started = time.monotonic()
                with pytest.raises(LockTimeoutError, match="try again"), other.transaction(lock=True, timeout=timeout):
                    pytest.fail("there is somebody inside")
                assert timeout <= time.monotonic() - started < 5
            with pytest.raises(BusyError):
                other["k"] = 1

        with shop.transaction(lock=True), ThreadPoolExecutor(1) as pool:
            pool.submit(rival).result(20)
        with other.transaction(lock=True, timeout=2):  # those that gave up may still be handing their turn on
            other["k"] = 2
    assert dict(shop) == {"k": 2}


async def test_the_wait_of_a_task_has_an_end(async_shop):
    async def rival(timeout):
        async with async_shop.transaction(lock=True, timeout=timeout):
            pytest.fail("there is somebody inside")

    async with async_shop.transaction(lock=True):
        for timeout in (0, 0.05):
            with pytest.raises(LockTimeoutError):
                await asyncio.create_task(rival(timeout))
    async with async_shop.transaction(lock=True, timeout=2):
        await async_shop.set("k", 1)
    assert await async_shop.get("k") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_lock_is_free_at_once_when_its_holder_is_killed(file, pool):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        with holder.stdout as output:
            assert output.readline() == "locked\n"

        def take():
            with connect(file) as database:
                store = database.store("shop")
                with store.transaction(lock=True, timeout=20):
                    store["taken"] = 1
                    return time.monotonic(), dict(store)

        waiting = pool.submit(take)
        time.sleep(0.1)
        assert not waiting.done()
        killed = time.monotonic()
        holder.send_signal(signal.SIGKILL)
        taken, found = waiting.result(20)
    finally:
        holder.kill()
        holder.wait()
    assert taken - killed < 1
    assert found == {"taken": 1}


# --- waiters that go away ---


async def test_a_cancelled_waiter_leaves_nothing_locked(async_shop):
    async def wait():
        async with async_shop.transaction(lock=True):
            pytest.fail("it was cancelled before its turn")

    async with async_shop.transaction(lock=True):
        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.05)
        for waiter in waiters:
            waiter.cancel()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
    async with async_shop.transaction(lock=True, timeout=5):
        await async_shop.set("k", 1)
    assert await async_shop.get("k") == 1


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


@pytest.mark.skipif(sys.platform == "win32", reason="there waiting is a loop that any exception ends")
def test_an_interrupted_waiter_leaves_nothing_locked(file, monkeypatch):
    with connect(file) as database:
        store = database.create("shop")

        def rival():
            with pytest.raises(KeyboardInterrupt), store.transaction(lock=True):
                pytest.fail("it was interrupted before its turn")

        original = threading.Event.wait

        def interrupted(event, timeout=None):
            if threading.current_thread().name.startswith("rival") and timeout:
                original(event, 0.05)
                raise KeyboardInterrupt
            return original(event, timeout)

        with store.transaction(lock=True), ThreadPoolExecutor(1, "rival") as pool:
            monkeypatch.setattr(threading.Event, "wait", interrupted)
            try:
                pool.submit(rival).result(10)
            finally:
                monkeypatch.undo()
        time.sleep(0.1)  # what was left waiting gets its turn now
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


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_cancelled_at_every_await(location, lock):
    async with connect_async(location) as database, connect_async(location) as elsewhere:
        store = await database.create("shop")
        witness = await elsewhere.store("shop")
        for step in itertools.count():
            progress = []

            async def transact(progress=progress, step=step):
                async with store.transaction(lock=lock) as view:
                    progress.append("inside")
                    await view.get("a")
                    await view.set("a", step)
                    await view.append("b", step)
                    await asyncio.sleep(0)
                    progress.append("end")

            before = await witness.get_many(["a", "b"])
            task = asyncio.create_task(awaited(cancelled_at(transact(), step)))
            await asyncio.wait([task])
            await witness.increment("free")  # whether the lock is
            after = await witness.get_many(["a", "b"])
            if "end" in progress:
                while after == before:  # the commit goes on without its task
                    await asyncio.sleep(0.002)
                    after = await witness.get_many(["a", "b"])
                assert after["a"] == after["b"][-1] == step
            else:
                assert after == before
            assert await store.increment("outside") == step + 1
            if not task.cancelled():
                task.result()
                break
        assert step > 0


# --- whose transaction it is ---


async def test_a_child_task_is_not_inside(store, rival):
    async def child():
        assert await store.count() == 0
        await store.set("child", 1)
        with pytest.raises(ConflictError):
            await store.set("a", 2, if_version=-1)

    with pytest.raises(ValueError, match="roll back"):
        async with store.transaction():
            await store.set("a", 1)
            await asyncio.gather(child())
            assert dict(rival) == {"child": 1}
            raise ValueError("roll back")
    assert dict(rival) == {"child": 1}


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


async def test_transactions_of_two_stores_at_once(location, store):
    other = Sync(connect(location).store("other", create=True))
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


@pytest.mark.parametrize("location", ["file", "memory"], indirect=True)  # servers lock one store only
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

    handle = store.scope.handle if isinstance(store, Sync) else store.handle
    handle = Handle("sibling", "ensure", handle.codec, handle.backend)
    found = Sync(Store(store.backend, handle)) if isinstance(store, Sync) else AsyncStore(store.backend, handle)
    await found.count()  # opens it
    return found


@pytest.mark.parametrize("location", ["file", "memory"], indirect=True)  # servers lock one store only
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


async def test_the_lock_cannot_be_taken_half_way(store, rival):
    async with store.transaction():
        await store.set("a", 1)
        with pytest.raises(ReentryError, match="lock=True"):
            async with store.transaction(lock=True):
                pytest.fail("it was let in")
        await store.set("b", 1)
    assert dict(rival) == {"a": 1, "b": 1}


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
