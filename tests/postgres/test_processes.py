"""Several processes, forks and event loops on one database; and the end of a process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.postgres.aio import AsyncPostgresBackend
from ptb_kvpersistence.backends.postgres.sync import PostgresBackend
from ptb_kvpersistence.model import Commit, OpenStore, Put

ROOT = Path(__file__).parents[2]
started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _end_of_processes():
    yield
    while started:
        process = started.pop()
        process.kill()
        process.communicate()


def start(job, url, *arguments):
    command = [sys.executable, "-W", "error", "-X", "dev", "-m", "tests.postgres.working", job, url]
    pipe = subprocess.PIPE
    started.append(
        subprocess.Popen([*command, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
    )
    return started[-1]


def finish(process, seconds=60):
    """Give what a process printed; it must have printed no complaint."""
    out, err = process.communicate(timeout=seconds)
    if err or process.returncode:
        pytest.fail(f"{process.returncode}: {err}")
    return out


def test_eight_processes_make_the_tables_at_once(schema):
    processes = [start("create", schema.url) for _ in range(8)]
    assert [finish(process) for process in processes] == ["made\n"] * 8
    assert schema.rows("SELECT count(*) FROM kv_format") == [(1,)]
    assert schema.rows("SELECT name FROM kv_stores") == [("shop",)]


def test_eight_connections_make_the_tables_at_the_same_moment(schema):
    failures, together = [], threading.Barrier(8)

    def make():
        backend = PostgresBackend(schema.url)
        together.wait()
        try:
            backend.perform(OpenStore("shop", "ensure"))
        except Exception as error:
            failures.append(error)
        backend.close()

    for _ in range(3):
        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        schema.drop()
    assert failures == []


@pytest.mark.parametrize("how", ["plain", "locked", "optimistic"])
def test_no_increment_is_lost(schema, how):
    with connect(schema.url) as database:
        store = database.create("shop")
        store["n"] = 0
        processes = [start("increments", schema.url, 25, how) for _ in range(4)]
        for process in processes:
            assert finish(process) == "counted\n"
        assert store["n"] == 100


def test_the_lock_of_a_killed_process_is_free_at_once(schema):
    with connect(schema.url) as database:
        store = database.create("shop")
        process = start("hold", schema.url)
        assert process.stdout.readline() == "holding\n"
        process.kill()
        process.communicate()
        started = time.monotonic()
        with store.transaction(lock=True, timeout=5):
            store["k"] = 1
        assert time.monotonic() - started < 2
        assert dict(store) == {"k": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("job", ["fork", "fork_async"])
def test_a_fork_starts_with_connections_of_its_own(schema, job):
    assert finish(start(job, schema.url)) == "forked\n"
    with connect(schema.url) as database:
        stored = dict(database.store("shop"))
    assert stored.pop("parent after") in (5, 3)
    assert (stored["parent"], stored["child"]) == (1, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_does_not_keep_the_lock_of_its_killed_parent(schema):
    with connect(schema.url) as database:
        store = database.create("shop")
        process = start("hold_and_fork", schema.url)
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            with store.transaction(lock=True, timeout=2):
                store["k"] = 1
        finally:
            os.kill(child, signal.SIGKILL)
        process.communicate()
        assert dict(store) == {"k": 1}


@pytest.mark.parametrize("how", ["sync", "run", "loop", "middle"])
def test_a_process_ends_in_silence_without_close(schema, how):
    started = time.monotonic()
    assert finish(start("left_open", schema.url, how), 20) == "end\n"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("how", ["sync", "run", "loop"])
def test_a_process_ends_though_the_server_is_frozen(own_server, how):
    process = start("left_open", own_server.url, how)
    time.sleep(0.01)
    assert process.stdout.readline() == "end\n"
    own_server.freeze()
    try:
        assert finish(process, 10) == ""
    finally:
        own_server.thaw()


def test_several_loops_in_turn_use_one_backend(schema):
    backend = AsyncPostgresBackend(schema.url)

    async def use(number):
        store = await backend.perform(OpenStore("shop", "ensure"))
        await asyncio.gather(*(backend.perform(Commit(store.id, (Put("d", f"{number}-{n}", b"1"),))) for n in range(5)))
        backend.peek(1.0)
        await asyncio.sleep(0.05)
        return store.id

    for number in range(3):
        asyncio.run(use(number))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(3))
    loop.close()
    assert schema.rows("SELECT count(*) FROM kv_entries") == [(20,)]
    asyncio.run(backend.close())
    nobody_is_connected(schema)


def nobody_is_connected(schema):
    deadline = time.monotonic() + 5
    used = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ptb_kvpersistence'"
    while schema.rows(used) != [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Older versions of psycopg wait in a task of their own, of which asyncio says that nobody waits for it.
@pytest.mark.filterwarnings("ignore:.*Event.wait:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("turns", [*range(1, 12), 15, 20, 30])
def test_a_loop_that_is_closed_in_mid_request_leaves_no_connection_behind(schema, turns):
    backend = AsyncPostgresBackend(schema.url)
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(backend.perform(OpenStore("shop", "create")))

    async def begin():
        await backend.release()  # so that one is made anew
        begun = [asyncio.ensure_future(backend.perform(Commit(store.id, (Put("d", "k", b"1"),))))]
        begun.append(asyncio.ensure_future(backend.exclusive(store.id, 5)))
        for task in begun:
            task._log_destroy_pending = False  # the test's own; who closes a loop by hand is told of them
        backend.peek(1.0)
        for _ in range(turns):
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    loop.close()
    asyncio.run(backend.close())
    nobody_is_connected(schema)


async def test_threads_and_tasks_count_together(schema):
    async with connect_async(schema.url) as database:
        store = await database.create("shop")

        def in_thread():
            with connect(schema.url) as other:
                for _ in range(20):
                    other.store("shop").increment("n")

        async def in_task():
            for _ in range(20):
                await store.increment("n")

        await asyncio.gather(asyncio.to_thread(in_thread), asyncio.to_thread(in_thread), in_task(), in_task())
        assert await store.get("n") == 80
