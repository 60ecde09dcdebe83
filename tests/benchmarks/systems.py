"""Our sync store and its peers behind the same few methods, all in WAL mode; how their files are made.

Each is used as its manual says, at our own default durability: synchronous=NORMAL, what diskcache has too. sqlitedict
always has synchronous=OFF. A peer lacks the methods for what it cannot do.
"""

from __future__ import annotations

import importlib
import itertools
import sqlite3
from contextlib import closing, contextmanager

import orjson

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.sqlite.schema import CACHE_KIB
from tests.benchmarks.data import BATCH, make_user

DURABILITY = "all WAL and synchronous=NORMAL, as by connect(durable=False); sqlitedict OFF"
PATIENCE = 60.0
SETTINGS = ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE_KIB}")
GET = "SELECT value FROM entries WHERE key = ?"
UPSERT = "INSERT INTO entries VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"


class Ours:
    """Our store; a transfer is one transaction, optimistic as by default."""

    def __init__(self, path):
        self.database = connect(path, timeout=PATIENCE)
        self.store = self.database.store(create=True)
        self.get, self.set, self.set_many = self.store.get, self.store.set, self.store.set_many
        self.scan, self.increment = self.store.items, self.store.increment

    def close(self):
        self.database.close()

    def transfer(self, one, other):
        with self.store.transaction():
            move(self.store, one, other)

    def locked_transfer(self, one, other):
        with self.store.transaction(lock=True):
            move(self.store, one, other)

    def locked_increment(self, key):
        with self.store.transaction(lock=True, timeout=PATIENCE):
            self.store[key] = self.store[key] + 1


class Bare:
    """sqlite3 and orjson with the plainest table."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
        self.execute = self.connection.execute
        for setting in SETTINGS:
            self.execute(f"PRAGMA {setting}")
        self.execute("CREATE TABLE IF NOT EXISTS entries(key TEXT PRIMARY KEY, value TEXT)")

    def close(self):
        self.connection.close()

    def __getitem__(self, key):
        return orjson.loads(self.execute(GET, (key,)).fetchone()[0])

    def __setitem__(self, key, value):
        self.execute(UPSERT, (key, orjson.dumps(value).decode()))

    get, set = __getitem__, __setitem__

    def set_many(self, values):
        with self.transaction():
            self.connection.executemany(UPSERT, [(key, orjson.dumps(value).decode()) for key, value in values.items()])

    def scan(self):
        return ((key, orjson.loads(text)) for key, text in self.execute("SELECT key, value FROM entries ORDER BY key"))

    @contextmanager
    def transaction(self):
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def transfer(self, one, other):
        with self.transaction():
            move(self, one, other)

    locked_transfer = transfer

    def locked_increment(self, key):
        with self.transaction():
            self[key] += 1

    def increment(self, key):
        self.execute("UPDATE entries SET value = CAST(value AS INTEGER) + 1 WHERE key = ? RETURNING value", (key,))


class DiskCache:
    """A diskcache.Cache that throws nothing away."""

    def __init__(self, path):
        diskcache = importlib.import_module("diskcache")
        self.cache = diskcache.Cache(str(path), timeout=PATIENCE, eviction_policy="none", size_limit=2**40)
        self.get, self.set = self.cache.get, self.cache.__setitem__

    def close(self):
        self.cache.close()

    def set_many(self, values):
        with self.cache.transact(retry=True):
            for key, value in values.items():
                self.cache[key] = value

    def scan(self):
        return ((key, self.cache[key]) for key in self.cache.iterkeys())

    def transfer(self, one, other):
        with self.cache.transact(retry=True):
            move(self.cache, one, other)

    locked_transfer = transfer

    def locked_increment(self, key):
        with self.cache.transact(retry=True):
            self.cache[key] = self.cache[key] + 1

    def increment(self, key):
        self.cache.incr(key, retry=True)


class SqliteDict:
    """A sqlitedict.SqliteDict, committed after each write; it knows no transaction that reads."""

    def __init__(self, path):
        self.entries = importlib.import_module("sqlitedict").SqliteDict(str(path), journal_mode="WAL")
        self.get, self.scan = self.entries.__getitem__, self.entries.items

    def close(self):
        self.entries.close()

    def set(self, key, value):
        self.entries[key] = value
        self.entries.commit()

    def set_many(self, values):
        self.entries.update(values)
        self.entries.commit()


SYSTEMS = {"ours": Ours, "bare": Bare, "diskcache": DiskCache, "sqlitedict": SqliteDict}


def move(entries, one, other):
    """Read two entries and write both, as a transfer does."""
    first, second = entries[one], entries[other]
    first["visits"] -= 1
    second["visits"] += 1
    entries[one], entries[other] = first, second


def build(system, path, count):
    """Write users by the system's own means, in batches."""
    with closing(SYSTEMS[system](path)) as opened:
        numbers = iter(range(count))
        while batch := {str(number): make_user(number) for number in itertools.islice(numbers, BATCH)}:
            opened.set_many(batch)
