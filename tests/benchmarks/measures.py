"""The figures: each of ours beside its peers, in seconds (or bytes), the best of several repeats."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import aiosqlite
import orjson
from telegram.ext import PicklePersistence

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.persistence import state
from tests.benchmarks.data import BOT, open_bare
from tests.benchmarks.report import Row

TOUCHED = 100
REPEATS = 21


# --- an interval ---


def measure_interval(files, count, *, with_pickle=True):
    ours, bare = [], []
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        store = shutil.copy(files.get("store", count), Path(folder) / "store.db")
        plain = shutil.copy(files.get("bare", count), Path(folder) / "bare.db")
        asyncio.run(_intervals(store, plain, count, ours, bare))
    peers = {"bare": median(bare)}
    note = ""
    if with_pickle:
        peers["pickle"], note = _pickle_interval(files.get("pickle", count), count)
    return Row(f"interval, {TOUCHED} of {count:,} users", "s", median(ours), peers, {"bare": 3.0}, note)


async def _intervals(store, plain, count, ours, bare):
    # Packing what was loaded takes some turns of the loop in the first minute; an interval later does without.
    with mock.patch.object(state, "PACK_FROM", count + 1):
        persistence = KVPersistence(store, bot=BOT)
        users = await persistence.get_user_data()
    connection = open_bare(plain)
    step = max(1, count // TOUCHED)
    for turn in range(REPEATS):
        touched = [(turn + position * step) % count for position in range(TOUCHED)]
        for user in touched:
            users[user]["visits"] += 1
        copies = [(user, copy.deepcopy(users[user])) for user in touched]
        start = time.perf_counter()
        await asyncio.gather(*[persistence.update_user_data(user, data) for user, data in copies])
        ours.append(time.perf_counter() - start)
        rows = [(str(user), orjson.dumps(data).decode()) for user, data in copies]
        start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            connection.execute(
                "INSERT INTO entries VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", row
            )
        connection.execute("COMMIT")
        bare.append(time.perf_counter() - start)
    connection.close()
    await persistence.flush()


def _pickle_interval(path, count):
    calls = TOUCHED if count <= 1000 else 3
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        persistence = PicklePersistence(shutil.copy(path, Path(folder) / "bot.pickle"))

        async def interval():
            users = await persistence.get_user_data()
            copies = [(user, copy.deepcopy(users[user])) for user in range(calls)]
            for _, data in copies:
                data["visits"] += 1
            start = time.perf_counter()
            for user, data in copies:
                await persistence.update_user_data(user, data)
            return time.perf_counter() - start

        seconds = asyncio.run(interval())
    note = "" if calls == TOUCHED else f"pickle: {calls} calls, times {TOUCHED / calls:.0f}"
    return seconds * TOUCHED / calls, note


# --- start-up and memory ---


def in_child(what, path, count, repeats=3):
    results = []
    for _ in range(repeats):
        command = [sys.executable, "-m", "tests.benchmarks.children", what, str(path), str(count)]
        results.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return min(result["seconds"] for result in results), median(result["bytes"] for result in results)


def measure_load(files, count):
    store, bare = files.get("store", count), files.get("bare", count)
    ours, _ = in_child("store", store, count)
    peers = {
        "bare": in_child("bare", bare, count)[0],
        "bare, collector off": in_child("bare, collector off", bare, count)[0],
        "pickle": in_child("pickle", files.get("pickle", count), count)[0],
    }
    return Row(f"load {count:,} users", "s", ours, peers, {"bare": 1.0})


def measure_memory(files, count):
    _, ours = in_child("store, settled", files.get("store", count), count, repeats=2)
    _, dicts = in_child("dicts", "-", count)
    _, pickled = in_child("pickle", files.get("pickle", count), count, repeats=1)
    return Row(
        f"memory of {count:,} users", "MB", ours / 1e6, {"dicts": dicts / 1e6, "pickle": pickled / 1e6}, {"dicts": 1.3}
    )


# --- refresh ---


def measure_refresh(files):
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        store = shutil.copy(files.get("store", 1000), Path(folder) / "store.db")
        plain = shutil.copy(files.get("bare", 1000), Path(folder) / "bare.db")
        return asyncio.run(_refreshes(store, plain))


async def _refreshes(store, plain):
    round_trip = await _round_trip(plain)
    rows = []
    for staleness, note in ((0.01, "max_staleness as by default"), (0, "max_staleness=0: each hook looks")):
        persistence = KVPersistence(store, bot=BOT, max_staleness=staleness)
        users, bot_data = await persistence.get_user_data(), await persistence.get_bot_data()
        same = [await three_hooks(persistence, bot_data, users[1]) for _ in range(2000)]
        rows.append(Row("refresh, nothing changed", "s", median(same), {"round trip": round_trip}, note=note))
        if not staleness:
            changed = await _changed(persistence, store, bot_data, users)
            rows.append(Row("refresh, one user changed", "s", changed, {"round trip": round_trip}))
        await persistence.flush()
    return rows


async def three_hooks(persistence, bot_data, user):
    start = time.perf_counter()
    await persistence.refresh_bot_data(bot_data)
    await persistence.refresh_chat_data(1, {})
    await persistence.refresh_user_data(1, user)
    return time.perf_counter() - start


async def _changed(persistence, path, bot_data, users):
    seconds = []
    with connect(path) as database:
        domain = database.store("default").domain("ptb:user_data:" + BOT)
        for number in range(200):
            domain.set("1", {**users[1], "visits": number})
            seconds.append(await three_hooks(persistence, bot_data, users[1]))
            assert users[1]["visits"] == number
    return median(seconds)


async def _round_trip(path):
    seconds = []
    async with aiosqlite.connect(path) as connection:
        for number in range(2000):
            start = time.perf_counter()
            await connection.execute_fetchall("SELECT value FROM entries WHERE key = ?", (str(number % 1000),))
            seconds.append(time.perf_counter() - start)
    return median(seconds)
