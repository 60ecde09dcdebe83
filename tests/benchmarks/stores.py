"""The figures of the store: reading, writing, transactions and scans, beside those of the peers.

All in one process, in turns; the median of the turns. Values are Python dicts on both sides, so that each pays for its
encoding: orjson with bare sqlite3 and aiosqlite, pickle with diskcache and sqlitedict.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import aiosqlite
import orjson

from ptb_kvpersistence import connect_async
from tests.benchmarks.data import make_user
from tests.benchmarks.report import Row
from tests.benchmarks.systems import DURABILITY, GET, SETTINGS, SYSTEMS, UPSERT, build

TURNS = 15
CALLS = 1000
TRANSACTIONS = 300
BATCHES = 10
SMALLEST = 1000
AIMS = {"get": {"bare": 1.7, "diskcache": 1.0}, "set": {"bare": 3.0, "diskcache": 1.0}}


def measure_sync(files, counts):
    """Measure get and set at each number of entries, and what else there is at the smallest."""
    rows, smallest = [], {}
    for count in counts:
        with opened(files, count) as systems:
            names = ["get", "set"] if count > SMALLEST else list(WORK)
            for name in names:
                seconds = in_turns(systems, name, count)
                rows.append(make_row(name, count, seconds, smallest.setdefault(name, seconds)))
    return rows


@contextmanager
def opened(files, count):
    """Open a copy of the files of each system."""
    with tempfile.TemporaryDirectory(dir=files.folder) as folder, ExitStack() as stack:
        copies = {name: copied(files, name, count, folder) for name in SYSTEMS}
        yield {name: stack.enter_context(closing(SYSTEMS[name](path))) for name, path in copies.items()}


def copied(files, system, count, folder):
    source = files.get(f"store-{system}", count, partial(build, system))
    target = Path(folder) / system
    return shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def make_row(name, count, seconds, smallest):
    note = DURABILITY
    if count > SMALLEST:
        grown = {system: f"{value / smallest[system]:.2g} x" for system, value in seconds.items()}
        others = ", ".join(f"{system} {growth}" for system, growth in grown.items() if system != "ours")
        note = f"{grown['ours']} that of {SMALLEST:,} entries ({others})"
    peers = {system: value for system, value in seconds.items() if system != "ours"}
    return Row(f"{name}, {count:,} entries", "s", seconds["ours"], peers, AIMS.get(name), note)


# --- what is done in one turn; each gives the seconds of one call ---


def read(system, turn, count):
    return timed(system.get, [(key,) for key in choose(turn, count, CALLS)])


def write(system, turn, count):
    return timed(system.set, list(changed(turn, count, CALLS).items()))


def write_many(system, turn, count):
    return timed(system.set_many, [(changed(turn * BATCHES + number, count, 100),) for number in range(BATCHES)])


def transfer(system, turn, count, *, method="transfer"):
    function = getattr(system, method, None)
    keys = choose(turn, count, 2 * TRANSACTIONS)
    return None if function is None else timed(function, list(zip(keys[::2], keys[1::2], strict=True)))


WORK = {
    "get": read,
    "set": write,
    "set_many of 100": write_many,
    "transaction over two keys": transfer,
    "transaction(lock=True) over two keys": partial(transfer, method="locked_transfer"),
}


def timed(function, calls):
    start = time.perf_counter()
    for arguments in calls:
        function(*arguments)
    return (time.perf_counter() - start) / len(calls)


def choose(turn, count, calls):
    return [str(number) for number in random.Random(turn).sample(range(count), min(calls, count))]


def changed(turn, count, calls):
    return {key: {**make_user(int(key)), "visits": turn} for key in choose(turn, count, calls)}


def in_turns(systems, name, count):
    """Let the systems take turns; give the median of each."""
    seconds = {system: [] for system in systems}
    for turn in range(-1, TURNS):
        for system, each in systems.items():
            took = WORK[name](each, turn, count)
            if took is not None and turn >= 0:
                seconds[system].append(took)
    return {system: median(values) for system, values in seconds.items() if values}


# --- a scan ---


def measure_scan(files, count):
    with opened(files, count) as systems:
        seconds = {name: [] for name in systems}
        for _ in range(3):
            for name, system in systems.items():
                start = time.perf_counter()
                deque(system.scan(), maxlen=0)
                seconds[name].append(time.perf_counter() - start)
    peers = {name: median(values) for name, values in seconds.items()}
    ours = peers.pop("ours")
    return Row(f"scan of {count:,} entries", "s", ours, peers, note="items(); diskcache: iterkeys() and a get of each")


# --- the async face ---


def measure_async(files):
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        store, plain = (copied(files, system, SMALLEST, folder) for system in ("ours", "bare"))
        seconds = asyncio.run(_async_turns(store, plain))
    note = "all WAL and synchronous=NORMAL"
    return [
        Row(f"async {name}, {SMALLEST:,} entries", "s", ours, {"bare aiosqlite": bare}, {"bare aiosqlite": 1.5}, note)
        for name, (ours, bare) in seconds.items()
    ]


async def _async_turns(path, plain):
    async with connect_async(path) as database, aiosqlite.connect(plain, isolation_level=None) as connection:
        store = await database.store()
        for setting in SETTINGS:
            await connection.execute_fetchall(f"PRAGMA {setting}")

        async def get_bare(key):
            ((text,),) = await connection.execute_fetchall(GET, (key,))
            return orjson.loads(text)

        async def set_bare(key, value):
            await connection.execute_fetchall(UPSERT, (key, orjson.dumps(value).decode()))

        seconds = {}
        for name, ours, bare in (("get", store.get, get_bare), ("set", store.set, set_bare)):
            turns = []
            for turn in range(-1, TURNS):
                if name == "get":
                    calls = [(key,) for key in choose(turn, SMALLEST, CALLS)]
                else:
                    calls = list(changed(turn, SMALLEST, CALLS).items())
                turns.append((await timed_async(ours, calls), await timed_async(bare, calls)))
            seconds[name] = tuple(map(median, zip(*turns[1:], strict=True)))
        return seconds


async def timed_async(function, calls):
    start = time.perf_counter()
    for arguments in calls:
        await function(*arguments)
    return (time.perf_counter() - start) / len(calls)
