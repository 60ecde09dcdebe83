"""What is measured in a process of its own: ``python -m tests.benchmarks.children WHAT PATH COUNT`` prints JSON."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

import orjson
from telegram.ext import PicklePersistence

from ptb_kvpersistence import KVPersistence
from tests.benchmarks.data import BOT, make_user, open_bare


def resident():
    """Give the bytes of memory that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return importlib.import_module("psutil").Process().memory_info().rss


def load_bare(path, _count):
    connection = open_bare(path)
    return {int(key): orjson.loads(text) for key, text in connection.execute("SELECT key, value FROM entries")}


def load_bare_without_collector(path, count):
    gc.disable()
    try:
        return load_bare(path, count)
    finally:
        gc.enable()


def load_store(path, _count, settle=False):
    async def load():
        start = time.perf_counter()
        persistence = KVPersistence(path, bot=BOT)
        kept.append(persistence)
        data = await persistence.get_user_data()
        seconds = time.perf_counter() - start
        if settle:
            # What is loaded is packed in the background, 50 entities each 10 ms.
            await asyncio.sleep(len(data) / 50 * 0.012 + 2)
        return data, seconds

    return asyncio.run(load())


def load_pickle(path, _count):
    return asyncio.run(PicklePersistence(path).get_user_data())


def make_dicts(_path, count):
    return {number: orjson.loads(orjson.dumps(make_user(number))) for number in range(count)}


kept: list[KVPersistence] = []
LOADS = {
    "store": load_store,
    "store, settled": lambda path, count: load_store(path, count, settle=True),
    "bare": load_bare,
    "bare, collector off": load_bare_without_collector,
    "pickle": load_pickle,
    "dicts": make_dicts,
}


def main(what, path, count):
    gc.collect()
    before = resident()
    start = time.perf_counter()
    data = LOADS[what](path, int(count))
    seconds = time.perf_counter() - start
    if isinstance(data, tuple):
        data, seconds = data
    assert len(data) == int(count)
    gc.collect()
    print(json.dumps({"seconds": seconds, "bytes": resident() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
