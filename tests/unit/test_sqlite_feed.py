"""The table of the change feed: what is written there, also by plain SQL clients, and what is dropped from it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence.backends.sqlite import engine, schema, writes
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.model import Changes, Commit, Delete, DeleteStore, ListStores, OpenStore, Put, Sweep

GOLDEN = Path(__file__).parent.parent / "golden" / "format_1.sqlite"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "shop.db")


@pytest.fixture
def backend(path):
    with closing(SQLiteBackend(path)) as backend:
        yield backend


@pytest.fixture
def store(backend):
    return backend.perform(OpenStore("shop", "create")).id


def put(backend, store, *keys):
    return backend.perform(Commit(store, tuple(Put("d", key, b"1") for key in keys))).versions


def sql(path, statement, *parameters):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


def feed(backend, store, since=0):
    return {change.key: change.version for change in backend.perform(Changes(store, since)).changes}


def versions(path):
    return dict(sql(path, "SELECT key, version FROM entries"))


def test_one_statement_of_an_sql_client_changes_many_entries(backend, store, path):
    put(backend, store, "a", "b", "c", "d")
    head = backend.perform(Changes(store, 0)).head
    sql(path, "UPDATE entries SET value = '2' WHERE key IN ('a', 'b')")
    sql(path, "DELETE FROM entries WHERE key IN ('c', 'd')")
    inserted = "INSERT INTO entries(store, domain, key, value)"
    sql(path, f"{inserted} VALUES(?, 'd', 'e', '1'), (?, 'd', 'f', '1')", store, store)
    upsert = "ON CONFLICT(store, domain, key) DO UPDATE SET value = excluded.value"
    sql(path, f"{inserted} VALUES(?, 'd', 'a', '3') {upsert}", store)
    seen = feed(backend, store, head)
    assert sorted(seen) == ["a", "b", "c", "d", "e", "f"]
    assert len(set(seen.values())) == 6
    assert min(seen.values()) > head
    assert seen == versions(path)
    assert seen["a"] == max(seen.values())


@pytest.mark.parametrize("how", ["store deleted", "tombstone dropped"])
def test_the_highest_version_is_not_given_again(backend, store, path, how, monkeypatch):
    other = backend.perform(OpenStore("other", "create")).id
    put(backend, other, "first")
    last = max(put(backend, store, "a", "b"))
    if how == "store deleted":
        backend.perform(DeleteStore("shop"))
        last = max(last, *(row[0] for row in sql(path, "SELECT max(version) FROM feed")))
    else:
        (last,) = backend.perform(Commit(store, (Delete("d", "b"),))).versions
        monkeypatch.setattr(engine, "now_ms", lambda: 10**14)
        assert backend.perform(Sweep()) == 1
        with closing(engine.connect(path)) as connection:
            for _ in range(50):
                connection.engine._writes.sweep_feed(1000)
        assert feed(backend, store).keys() == {"a"}
    (version,) = put(backend, other, "next")
    assert version > last


def test_sweeping_drops_what_is_superseded_and_nothing_else(backend, store, path):
    for _ in range(20):
        put(backend, store, *(f"k{number}" for number in range(100)))
    put(backend, store, *(f"cold{number}" for number in range(300)))
    backend.perform(Commit(store, (Delete("d", "k8"), Delete("d", "k7"))))
    sql(path, "DELETE FROM entries WHERE key = 'k8'")  # as an old tombstone goes
    seen, (before,) = feed(backend, store), sql(path, "SELECT count(*) FROM feed")[0]
    dropped = 0
    with closing(engine.connect(path)) as connection:
        for _ in range(5000):
            dropped += connection.engine._writes.sweep_feed(10_000)
            if dropped == before - 399:
                break
    assert feed(backend, store) == seen == versions(path)
    assert sql(path, "SELECT count(*) FROM feed") == [(399,)]


def test_the_feed_stays_small_by_itself(backend, store, path):
    for _ in range(300):
        put(backend, store, *(f"k{number}" for number in range(50)))
    (left,) = sql(path, "SELECT count(*) FROM feed")[0]
    assert left < engine.SWEEP_FEED_AFTER + 2 * writes._SLICE + 100
    assert feed(backend, store) == versions(path)


def test_format_1_keeps_its_versions_and_never_gives_one_again(path):
    shutil.copy(GOLDEN, path)
    sql(path, "DELETE FROM entries WHERE value IS NULL")
    sql(path, "UPDATE sqlite_sequence SET seq = seq + 100 WHERE name = 'entries'")
    entries = sorted(sql(path, "SELECT store, domain, key, value, version, updated_at FROM entries"))
    (highest,) = sql(path, "SELECT seq FROM sqlite_sequence WHERE name = 'entries'")[0]
    with closing(SQLiteBackend(path)) as backend:
        (store,) = backend.perform(ListStores())
        reply = backend.perform(Changes(store.id, 0))
        assert sorted(sql(path, "SELECT store, domain, key, value, version, updated_at FROM entries")) == entries
        assert [change.version for change in reply.changes] == sorted(entry[4] for entry in entries)
        assert reply.head == highest
        assert put(backend, store.id, "new") == (highest + 1,)
    assert sql(path, "PRAGMA user_version") == [(schema.FORMAT,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    tables = {name for (name,) in sql(path, "SELECT name FROM sqlite_master")}
    fresh = path + "2"
    with closing(SQLiteBackend(fresh)) as backend:
        backend.perform(ListStores())
    assert tables == {name for (name,) in sql(fresh, "SELECT name FROM sqlite_master")}


def test_many_bring_one_file_of_format_1_up_at_the_same_time(path):
    shutil.copy(GOLDEN, path)
    failures, counts, barrier = [], [], threading.Barrier(6)

    def read():
        try:
            barrier.wait()
            with closing(SQLiteBackend(path, timeout=20)) as backend:
                (store,) = backend.perform(ListStores())
                counts.append(len(backend.perform(Changes(store.id, 0)).changes))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(counts) == 6
    assert len(set(counts)) == 1


def test_a_file_of_format_1_stays_as_it_is_when_bringing_it_up_fails(path):
    shutil.copy(GOLDEN, path)
    before = sql(path, "SELECT * FROM entries")

    class Failing(sqlite3.Connection):
        def execute(self, *arguments):
            if arguments[0].startswith("DROP TABLE entries_1"):
                raise sqlite3.OperationalError("on purpose: database or disk is full")
            return super().execute(*arguments)

    with (
        closing(sqlite3.connect(path, isolation_level=None, factory=Failing)) as connection,
        pytest.raises(sqlite3.OperationalError, match="on purpose"),
    ):
        schema.prepare(connection, path)
    assert sql(path, "SELECT * FROM entries") == before
    assert sql(path, "PRAGMA user_version") == [(1,)]
