"""Stores with everything in them, and what a database holds, read past the package; no tests here."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ptb_kvpersistence.backends.memory.engine import named_engine
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.model import Commit, Delete, OpenStore, Put, SetDomain

DAY = 86_400_000

VALUES = {
    "null": b"null",
    "nested": b'{"a":[1,2.5,true,{"b":null}]}',
    "unicode": '{"ключ":"\U0001f600"}'.encode(),
    "spaced": b'{ "a" : [ 1 , 2 ] }',
    "escaped": b'"\\u0000\\u00e9"',
    "surrogate": b'"\\ud800"',
    "big": b"123456789012345678901234567890",
    "exponent": b"1E5",
    "twice": b'{"a":1,"a":2}',
    "deep": b"[" * 400 + b"]" * 400,
    "almost too deep": b"[" * 254 + b"]" * 254,
    "no json": b"not json at all",
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "line": b'"a"\n',
}
JSON = {name: value for name, value in VALUES.items() if name not in {"no json", "empty", "no text"}}
"""What a column of PostgreSQL's type json takes."""
KEYS = ["k", "a b", "\U0001f600", "é", "\uffff", '"\\', "\n", "x" * 1024]


def fill(location, *, size=50, values=VALUES):
    """Put everything there that a store can have: two stores with entries, and an empty one."""
    now = time.time_ns() // 1_000_000
    with closing(open_backend(location)) as backend:
        shop, bots, _ = (backend.perform(OpenStore(name, "create")).id for name in ("shop", "бот", "empty"))

        def commit(*mutations, store=shop):
            backend.perform(Commit(store, mutations, durable=False))

        commit(*(Put("", key, b'"%d"' % number) for number, key in enumerate(KEYS)))
        commit(*(Put("values", key, value) for key, value in values.items()))
        commit(Put("kept", "before", b"1"), Put("часто\U0001f600", "k", b"1"))
        backend.perform(SetDomain(shop, "kept", 30 * DAY))
        backend.perform(SetDomain(shop, "only a setting", DAY))
        backend.perform(SetDomain(shop, "unset", DAY))
        backend.perform(SetDomain(shop, "unset", None))
        commit(Put("kept", "after", b"2"), Put("kept", "own", b"3", DAY))
        commit(
            Put("lives", "ttl", b"1", DAY),
            Put("lives", "until", b"2", None, now + DAY),
            Put("lives", "both", b"3", 5 * DAY, now + DAY),
            Put("lives", "expired", b"4", None, now - 1),
            Put("lives", "deleted", b"5"),
        )
        commit(Delete("lives", "deleted"), Delete("lives", "never there"))
        for first in range(0, size, 100):
            commit(*(Put("many", f"{number:05}", b"%d" % number) for number in range(first, min(first + 100, size))))
        commit(*(Put("", f"{number}", b"{}") for number in range(7)), store=bots)
    return location


def held(location):
    """What a database holds: by store its living entries with their lifetimes, and its settings."""
    now = time.time_ns() // 1_000_000
    location = str(location)
    if location.startswith("memory:"):
        stores = named_engine(location.partition(":")[2])._stores.values()
        rows = [(data.info.name, *change[:3], *change[5:]) for data in stores for change in data.changes.values()]
        found = {data.info.name: ({}, dict(data.keep)) for data in stores}
    else:
        with closing(sqlite3.connect(location)) as connection:
            rows = connection.execute(
                "SELECT name, domain, key, CAST(value AS BLOB), ttl, expires_at FROM entries JOIN stores ON id = store"
            ).fetchall()
            found = {name: ({}, {}) for (name,) in connection.execute("SELECT name FROM stores")}
            settings = "SELECT name, domain, keep FROM domains JOIN stores ON id = store WHERE keep NOT NULL"
            for name, domain, keep in connection.execute(settings):
                found[name][1][domain] = keep
    for name, domain, key, value, ttl, expires_at in rows:
        if value is not None and (expires_at is None or expires_at > now):
            found[name][0][domain, key] = (value, ttl, expires_at)
    return found


def file_of(path):
    """All rows of an SQLite file, whatever their meaning."""
    assert Path(path).exists()
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        tables = [
            name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in sorted(tables)}
