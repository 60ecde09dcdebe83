"""The async SQLite backend's workers: one loop each, ended from anywhere, never waited for in vain."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.backends.sqlite import sync as sync_module
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.errors import BusyError, StoreClosedError
from ptb_kvpersistence.model import Address, Changes, Commit, GetMany, ListStores, OpenStore, Put
from tests.faults.processes import Holder


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "bot.db")


@pytest.fixture
async def backend(path):
    backend = AsyncSQLiteBackend(path)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend):
    return (await backend.perform(OpenStore("shop", "create"))).id


def _all_workers():
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


_strangers: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _know_strangers():
    # What other tests have left is not counted here.
    _strangers.clear()
    _strangers.update(_all_workers())


def workers():
    return list(_all_workers() - _strangers)


def no_workers():
    """Whether all workers have ended; one that was told needs a moment."""
    deadline = time.monotonic() + 5
    while workers() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not workers()


def has_log(path):
    return Path(f"{path}-wal").exists()


def put(store, key="k", value=b"1"):
    return Commit(store, (Put("d", key, value),))


def keys(path):
    with closing(sqlite3.connect(path)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM entries WHERE value IS NOT NULL")}


# --- workers ---


async def test_one_worker_reads_and_one_writes(backend, store):
    before = len(workers())
    await asyncio.gather(*(backend.perform(put(store, f"{number}")) for number in range(5)))
    await asyncio.gather(*(backend.perform(ListStores()) for _ in range(5)))
    assert len(workers()) == before + 1, "the writer was there already"


async def test_release_ends_them_and_closes_the_file(backend, store, path):
    await backend.perform(ListStores())
    backend.peek()
    await backend.release()
    assert no_workers()
    assert not has_log(path), "the last connection removes the log"


async def test_release_twice_and_before_anything(path, tmp_path):
    backend = AsyncSQLiteBackend(path)
    await backend.release()
    await backend.release()
    assert list(tmp_path.iterdir()) == []


async def test_close_is_for_good(backend, store):
    await backend.close()
    with pytest.raises(StoreClosedError):
        await backend.perform(ListStores())
    assert no_workers()


async def test_closing_inside_an_exclusive_session(backend, store, path):
    session = await backend.exclusive(store, 5.0)
    await backend.close()
    with pytest.raises(StoreClosedError, match=r"was closed"):
        await session.perform(ListStores())
    with pytest.raises(StoreClosedError, match=r"was closed"):
        await session.end(Commit(store, (Put("d", "k", b"1"),)))
    assert keys(path) == set()


async def test_reading_goes_on_while_a_commit_takes_its_time(backend, store, path, monkeypatch):
    await backend.perform(ListStores())
    lane = backend._lane("writes")
    entered, leave = threading.Event(), threading.Event()

    def slow(_request):
        entered.set()
        leave.wait(5)

    class Slow:
        pass

    lane._raw.engine._handlers[Slow] = slow
    slow_task = asyncio.create_task(lane.perform(Slow()))
    await asyncio.to_thread(entered.wait, 5)
    assert len(await asyncio.wait_for(backend.perform(ListStores()), 2)) == 1
    leave.set()
    await slow_task


async def test_two_first_requests_open_one_connection(path, monkeypatch):
    opened = []
    connect = engine.connect
    monkeypatch.setattr(engine, "connect", lambda *arguments, **more: opened.append(1) or connect(*arguments, **more))
    backend = AsyncSQLiteBackend(path)
    await asyncio.gather(*(backend.perform(ListStores()) for _ in range(10)))
    assert len(opened) == 1
    await backend.close()


async def test_a_first_request_that_is_cancelled_leaves_no_worker_behind(path):
    for steps in range(8):
        backend = AsyncSQLiteBackend(path)
        task = asyncio.create_task(backend.perform(OpenStore("shop", "ensure")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert (await backend.perform(OpenStore("shop", "ensure"))).name == "shop"
        await backend.close()
    assert no_workers()


# --- loops ---


def test_each_loop_has_its_own(path):
    backend = AsyncSQLiteBackend(path)
    store = asyncio.run(backend.perform(OpenStore("shop", "create"))).id
    for number in range(3):
        assert asyncio.run(backend.perform(put(store, f"{number}"))).is_committed
        assert len(workers()) == 1, "those of closed loops end"
    asyncio.run(backend.close())
    assert no_workers()
    assert keys(path) == {"0", "1", "2"}


def test_two_loops_at_the_same_time(path):
    backend = AsyncSQLiteBackend(path)
    store = asyncio.run(backend.perform(OpenStore("shop", "create"))).id

    async def write(name):
        for number in range(20):
            await backend.perform(put(store, f"{name}{number}"))
        await backend.release()

    threads = [threading.Thread(target=lambda name=name: asyncio.run(write(name))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(backend.close())
    assert len(keys(path)) == 40
    assert no_workers()


def test_loops_that_come_and_go_in_several_threads(path):
    backend = AsyncSQLiteBackend(path)
    store = asyncio.run(backend.perform(OpenStore("shop", "create"))).id
    failures = []

    async def write(key):
        await backend.perform(put(store, key))
        session = await backend.exclusive(store, 5.0)
        await session.end(None)

    def work(name):
        try:
            for number in range(15):
                asyncio.run(write(f"{name}{number}"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(backend.close())
    assert failures == []
    assert len(keys(path)) == 60
    assert no_workers()


def test_a_loop_that_is_closed_during_a_call(path):
    """Its worker dies of the answer that it cannot give; the next loop gets a new one, and the file is closed."""
    backend = AsyncSQLiteBackend(path)
    store = asyncio.run(backend.perform(OpenStore("shop", "create"))).id
    threading.excepthook, original = lambda _details: None, threading.excepthook
    try:
        for number in range(1, 10):
            loop = asyncio.new_event_loop()
            task = loop.create_task(backend.perform(put(store, f"{number}")))
            for _ in range(number):
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            task._log_destroy_pending = False
        backend._stop_all()
        assert no_workers()
    finally:
        threading.excepthook = original
    assert no_workers()
    assert not has_log(path)
    assert asyncio.run(backend.perform(put(store, "last"))).is_committed
    asyncio.run(backend.close())
    assert "last" in keys(path)


def test_stopping_waits_for_what_is_under_way(path):
    """The end of the process comes while a worker is in the middle of a long call on a loop that stands still."""
    backend = AsyncSQLiteBackend(path)
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(backend.perform(OpenStore("shop", "create"))).id
    lane = next(iter(backend._lanes.values()))
    entered, failures = threading.Event(), []

    def slow(_request):
        entered.set()
        time.sleep(0.6)
        try:
            return lane._raw.engine.perform(put(store, "slow"))
        except BaseException as error:
            failures.append(error)
            raise

    class Slow:
        pass

    lane._raw.engine._handlers[Slow] = slow
    task = loop.create_task(lane.perform(Slow()))
    loop.run_until_complete(asyncio.sleep(0))
    assert entered.wait(5)
    stopper = threading.Thread(target=backend._stop_all)
    stopper.start()
    stopper.join(10)
    assert not stopper.is_alive()
    assert failures == []
    assert keys(path) == {"slow"}
    loop.run_until_complete(asyncio.wait([task], timeout=1))
    loop.close()
    assert no_workers()


# --- busy ---


async def test_a_busy_file_is_waited_for_without_blocking_the_loop(backend, store, path):
    with Holder(path) as holder:
        commit = asyncio.create_task(backend.perform(put(store)))
        ticks, began = 0, time.monotonic()
        while time.monotonic() - began < 0.3:
            await asyncio.sleep(0.005)
            ticks += 1
        assert ticks > 15
        assert not commit.done()
        holder.release()
        assert (await commit).is_committed


async def test_the_wait_ends_at_the_timeout(backend, store, path):
    with Holder(path):
        for timeout in (0, 0.2):
            began = time.monotonic()
            with pytest.raises(BusyError):
                await backend.perform(put(store), timeout)
            assert timeout <= time.monotonic() - began < timeout + 1.5
    assert keys(path) == set()


def test_the_sync_face_waits_too(path):
    with closing(SQLiteBackend(path, timeout=0.2)) as backend:
        store = backend.perform(OpenStore("shop", "create")).id
        with Holder(path) as holder:
            began = time.monotonic()
            with pytest.raises(BusyError):
                backend.perform(put(store))
            assert 0.2 <= time.monotonic() - began < 2
            threading.Timer(0.3, holder.release).start()
            assert backend.perform(put(store), 10).is_committed


async def test_no_snapshot_is_held_open_between_requests(backend, store, path):
    """A reader that stayed in its transaction would keep the log from ever being begun anew."""
    await backend.perform(put(store))
    await backend.perform(GetMany(store, (Address("d", "k"), Address("d", "l"))))
    await backend.perform(Changes(store, 0))
    backend.peek()
    with closing(sqlite3.connect(path)) as connection:
        busy, frames, copied = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, frames, copied) == (0, 0, 0)


# --- forks, as seen from the child ---


async def test_a_child_leaves_the_connections_of_its_parent_alone(backend, store, path, monkeypatch):
    await backend.perform(put(store, "parent"))
    token = backend.peek()
    mine = list(backend._lanes.values())
    monkeypatch.setattr(process, "pid", process.pid + 1)
    assert backend.peek() is None
    backend._stop_all()
    await backend.perform(put(store, "child"))
    assert not set(mine) & set(backend._lanes.values())
    assert all(lane in sync_module.inherited for lane in mine)
    await backend.release()
    monkeypatch.undo()
    assert keys(path) == {"parent", "child"}
    assert token is not None
    for lane in mine:
        sync_module.inherited.remove(lane)
        await lane.close()


def test_the_sync_face_in_a_child(path, monkeypatch):
    backend = SQLiteBackend(path)
    store = backend.perform(OpenStore("shop", "create")).id
    mine = backend._connection
    monkeypatch.setattr(process, "pid", process.pid + 1)
    assert backend.perform(put(store)).is_committed
    assert backend._connection is not mine
    assert any(each is mine for each in sync_module.inherited)
    backend.close()
    monkeypatch.undo()
    mine.execute("SELECT 1")
    sync_module.inherited[:] = [each for each in sync_module.inherited if each is not mine]
    mine.close()


# --- loops that end in the middle of something ---


def slowed_down(monkeypatch):
    """Have every request take its time in its worker; give the event that says that one is under way."""
    begun = threading.Event()
    perform = engine.Engine.perform

    def slow(self, request):
        begun.set()
        time.sleep(0.2)
        return perform(self, request)

    monkeypatch.setattr(engine.Engine, "perform", slow)
    return begun


@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_under_way_at_the_end_of_asyncio_run_is_answered(path, monkeypatch, is_open):
    backend = AsyncSQLiteBackend(path)

    async def main():
        store = (await backend.perform(OpenStore("shop", "ensure"))).id
        if not is_open:
            await backend.release()
        begun = slowed_down(monkeypatch)
        kept.append(asyncio.ensure_future(backend.perform(put(store))))
        kept.append(asyncio.ensure_future(backend.perform(GetMany(store, (Address("d", "k"),)))))
        await asyncio.to_thread(begun.wait, 10)

    kept = []
    for _ in range(2):
        asyncio.run(main())
        monkeypatch.undo()
        assert keys(path) == {"k"} or not is_open
        assert all(task.cancelled() for task in kept)
    assert all(thread.is_alive() for thread in workers()), "a worker died of its answer"
    asyncio.run(backend.close())
    assert no_workers()


@pytest.mark.parametrize("what", ["perform", "exclusive"])
def test_a_connection_that_is_being_made_at_the_end_of_asyncio_run_is_closed(path, monkeypatch, what):
    backend = AsyncSQLiteBackend(path)
    connect, begun = engine.connect, threading.Event()

    def slow(path):
        begun.set()
        time.sleep(0.2)
        made.append(connect(path))
        return made[-1]

    async def main():
        call = backend.perform(ListStores()) if what == "perform" else backend.exclusive(1, 5)
        kept.append(asyncio.ensure_future(call))
        await asyncio.to_thread(begun.wait, 10)

    kept, made = [], []
    monkeypatch.setattr(engine, "connect", slow)
    asyncio.run(main())
    assert no_workers()
    assert len(made) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        _ = made[0].total_changes
    assert asyncio.run(backend.perform(ListStores())) == ()
    asyncio.run(backend.close())


@pytest.mark.parametrize("after", [0.001, 0.1])
def test_who_waits_for_the_lock_at_the_end_of_asyncio_run_never_gets_it(path, after):
    backend = AsyncSQLiteBackend(path)
    rival = SQLiteBackend(path, timeout=5)
    store = rival.perform(OpenStore("shop", "create")).id

    async def main():
        kept.append(asyncio.ensure_future(backend.exclusive(store, 60)))
        await asyncio.sleep(after)

    kept = []
    session = rival.exclusive(store, 5)
    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    assert kept[0].cancelled()
    session.end(None)
    rival.perform(put(store))
    rival.close()
    asyncio.run(backend.close())
    assert no_workers()


def test_a_lock_that_is_got_as_asyncio_run_ends_is_given_back(path, monkeypatch):
    backend = AsyncSQLiteBackend(path)
    rival = SQLiteBackend(path, timeout=5)
    store = rival.perform(OpenStore("shop", "create")).id

    async def main():
        begun = slowed_down(monkeypatch)
        kept.append(asyncio.ensure_future(backend.exclusive(store, 60)))
        await asyncio.to_thread(begun.wait, 10)

    kept = []
    asyncio.run(main())
    monkeypatch.undo()
    assert kept[0].cancelled()
    rival.perform(put(store))
    rival.close()
    asyncio.run(backend.close())
    assert no_workers()
