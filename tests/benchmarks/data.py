"""What the benchmarks store: users of an ordinary bot, 605 bytes of JSON each, and the files that hold them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import orjson
from telegram.ext import PicklePersistence

from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.model import Commit, OpenStore, Put

SIZE = 605
BOT = "123456"
BATCH = 50_000


def make_user(number):
    """Make the data of one user: settings, a cart, counters, some texts."""
    user = {
        "name": f"User {number}",
        "language": ("en", "de", "fr")[number % 3],
        "visits": number % 1000,
        "balance": round(number * 0.37 % 500, 2),
        "is_premium": number % 7 == 0,
        "referrer": None if number % 5 else number // 5,
        "settings": {"notify": True, "theme": "dark", "timezone": "Europe/Berlin", "page_size": 20},
        "cart": [
            {"sku": f"A-{number % 97:04}", "title": "Green tea, loose, 250 g", "count": 1 + number % 3, "price": 7.95},
            {"sku": f"B-{number % 89:04}", "title": "Cup with a blue rim", "count": 1, "price": 12.5},
        ],
        "last_orders": [number % 10_000 + step for step in range(8)],
        "seen": {"help": True, "terms": 3, "tour": [1, 2, 4]},
        "note": "",
    }
    user["note"] = ("remembers that the parcel goes to the neighbour; " * 9)[: SIZE - len(orjson.dumps(user))]
    return user


def texts(count):
    return ((str(number), orjson.dumps(make_user(number))) for number in range(count))


def build_store(path, count):
    """Write a database as KVPersistence lays it out."""
    backend = SQLiteBackend(str(path))
    store = backend.perform(OpenStore("default", "ensure")).id
    backend.perform(Commit(store, (Put("ptb:bots", f"bot:{BOT}", orjson.dumps({"namespace": BOT})),)))
    puts = []
    for key, text in texts(count):
        puts.append(Put(f"ptb:user_data:{BOT}", key, text))
        if len(puts) == BATCH:
            backend.perform(Commit(store, tuple(puts), durable=False))
            puts = []
    backend.perform(Commit(store, tuple(puts), durable=False))
    backend.close()


def open_bare(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def build_bare(path, count):
    """Write the same rows into the plainest table."""
    connection = open_bare(path)
    connection.execute("CREATE TABLE entries(key TEXT PRIMARY KEY, value TEXT)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO entries VALUES(?, ?)", ((key, text.decode()) for key, text in texts(count)))
    connection.execute("COMMIT")
    connection.close()


def build_pickle(path, count):
    persistence = PicklePersistence(path, on_flush=True)
    persistence.user_data = {number: make_user(number) for number in range(count)}
    asyncio.run(persistence.flush())


BUILDERS = {"store": build_store, "bare": build_bare, "pickle": build_pickle}


class Files:
    """The files of one run, made when they are asked for."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def get(self, kind, count, build=None):
        """Give the path of a file of that kind with ``count`` users; ``build(path, count)`` makes it."""
        path = self.folder / f"{kind}-{count}"
        if not path.exists():
            (build or BUILDERS[kind])(path, count)
        return path
