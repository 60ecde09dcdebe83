"""Each operation by itself: all of it or nothing, among threads and tasks; and both faces have the same ones."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import ConflictError, KeyExistsError, KeyNotFoundError
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.database import AsyncDatabase, Database
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import SyncStore, finish

WORKERS = 4
ROUNDS = 25


async def work(store, worker):
    """Do everything at once; gives what was won."""
    won = []

    async def again(act):
        while True:
            with suppress(ConflictError):
                return await act()

    async def compare_and_set():
        entry = await store.entry("compared")
        await store.set("compared", entry.value + 1, if_version=entry.version)

    async def edit():
        async with store.edit("edited") as edited:
            edited["n"] += 1

    for n in range(ROUNDS):
        await store.append("list", [worker, n])
        await store.increment("sum", worker)
        with suppress(KeyExistsError):
            await store.add(f"added {n}", worker)
            won.append(("added", n))
        assert await store.setdefault(f"default {n}", worker) == await store.get(f"default {n}")
        with suppress(KeyNotFoundError):
            won.append(("popped", await store.pop(f"pop {n}")))
        if await store.discard(f"discard {n}"):
            won.append(("discarded", n))
        await again(compare_and_set)
        await again(edit)
        assert await store.replace("replaced", (worker, n))
        assert not await store.replace("absent", n)
    return won


def in_tasks(location):
    async def run():
        async with connect_async(location, timeout=60) as first, connect_async(location, timeout=60) as second:
            stores = [await database.store("shop") for database in (first, second)]
            return await asyncio.gather(*(work(stores[worker % 2], worker) for worker in range(WORKERS)))

    return asyncio.run(run())


def in_threads(location):
    with connect(location, timeout=60) as first, connect(location, timeout=60) as second:
        stores = [SyncStore(database.store("shop")) for database in (first, second)]
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(lambda worker: finish(work(stores[worker % 2], worker)), range(WORKERS)))


async def take(store):
    taken = []
    with suppress(KeyNotFoundError):
        while True:
            taken.append((await store.popitem())[0])
    return taken


@pytest.mark.parametrize("run", [in_threads, in_tasks])
def test_every_operation_is_atomic(location, run):
    with connect(location) as database:
        store = database.create("shop")
        store.set_many({f"pop {n}": n for n in range(ROUNDS)})
        store.set_many({f"discard {n}": n for n in range(ROUNDS)})
        store.set_many({"compared": 0, "edited": {"n": 0}, "replaced": None})
        won = [result for results in run(location) for result in results]
        assert sorted(store["list"]) == [[worker, n] for worker in range(WORKERS) for n in range(ROUNDS)]
        for worker in range(WORKERS):
            own = [n for owner, n in store["list"] if owner == worker]
            assert own == sorted(own), "each one's own order"
        assert store["sum"] == ROUNDS * sum(range(WORKERS))
        for kind in ("added", "popped", "discarded"):
            assert sorted(n for name, n in won if name == kind) == list(range(ROUNDS)), f"{kind} once each"
        assert len(list(store.keys("default"))) == ROUNDS
        assert "absent" not in store
        assert store["compared"] == store["edited"]["n"] == WORKERS * ROUNDS
        assert store["replaced"] in {(worker, ROUNDS - 1) for worker in range(WORKERS)}


def test_each_item_is_popped_once(location):
    keys = [f"{n:03}" for n in range(WORKERS * ROUNDS)]
    with connect(location) as database:
        store = database.create("shop")
        store.update((key, None) for key in keys)
        with ThreadPoolExecutor(WORKERS) as pool:
            taken = list(pool.map(lambda _: finish(take(SyncStore(store))), range(WORKERS)))
    assert all(part == sorted(part) for part in taken)
    assert sorted(key for part in taken for key in part) == keys


def test_get_many_and_a_listing_show_one_state(location):
    with connect(location, timeout=60) as database, connect(location, timeout=60) as elsewhere:
        store, rival = database.create("shop"), elsewhere.store("shop")
        keys = [f"k{n}" for n in range(10)]
        rival.set_many(dict.fromkeys(keys, 0))
        is_over = threading.Event()

        def write():
            n = 0
            while not is_over.is_set():
                n += 1
                rival.set_many(dict.fromkeys(keys, n))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            seen = []
            # A thread that is starved of a lock, or of a processor, may have written nothing yet.
            deadline = time.monotonic() + 60
            while len(seen) < 300 or (len(set(seen)) == 1 and time.monotonic() < deadline):
                found = store.get_many(keys)
                assert len(found) == 10
                assert len(set(found.values())) == 1
                seen.append(found["k0"])
                assert len(set(store.values())) == 1, "a page is one state"
        finally:
            is_over.set()
            writer.join()
        assert seen == sorted(seen)
        assert len(set(seen)) > 1


# --- the faces ---

ONLY_SYNC = {"pages"}
"""How it goes through pages."""
ONLY_ASYNC = {"contains", "info"}
"""In the place of ``in``, and what the other face knows without waiting."""


def methods(kind):
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def test_both_faces_have_the_same_methods():
    assert methods(Store) - methods(AsyncStore) == ONLY_SYNC
    assert methods(AsyncStore) - methods(Store) == ONLY_ASYNC
    assert methods(Database) == methods(AsyncDatabase)


@pytest.mark.parametrize("faces", [(Store, AsyncStore), (Database, AsyncDatabase)], ids=["store", "database"])
def test_their_arguments_are_the_same(faces):
    for name in set.intersection(*map(methods, faces)):
        here, there = (inspect.signature(getattr(face, name)).parameters for face in faces)
        different = set(here) ^ set(there)
        assert different <= ({"timeout"} if name == "watch" else set()), f"{name}: {different}"
        for parameter in set(here) & set(there):
            assert here[parameter].default == there[parameter].default, (name, parameter)
