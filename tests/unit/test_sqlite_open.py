"""Opening and creating the SQLite file: races, files of others, file systems that cannot do what we would like."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.sqlite import engine, schema
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.errors import (
    BusyError,
    CorruptDatabaseError,
    DatabaseError,
    FormatVersionError,
    KVPersistenceError,
    PickleFoundError,
)
from ptb_kvpersistence.model import Changes, Commit, GetMany, ListStores, OpenStore, Put


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "bot.db")


def write_something(path, name="shop", timeout=5.0):
    with closing(SQLiteBackend(path, timeout=timeout)) as backend:
        store = backend.perform(OpenStore(name, "ensure")).id
        backend.perform(Commit(store, (Put("d", "k", b'"v"'),)))


def schema_of(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return sorted(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


# --- creation ---


def test_a_new_file_says_whose_it_is_and_in_which_format(path):
    write_something(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (0x4B565042,)
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.FORMAT,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert Path(path).read_bytes()[68:72] == b"KVPB"


def test_nothing_is_made_before_the_first_request(path):
    SQLiteBackend(path).close()
    AsyncSQLiteBackend(path)
    assert not Path(path).exists()


def test_an_empty_file_is_taken_for_a_new_one(path):
    Path(path).touch()
    write_something(path)
    assert schema_of(path)


@pytest.mark.parametrize("step", range(14))
def test_somebody_else_creates_the_file_between_any_two_statements(path, step):
    class Slow(sqlite3.Connection):
        statements = 0

        def execute(self, *arguments):
            Slow.statements += 1
            if Slow.statements == step + 1:
                with contextlib.suppress(BusyError):  # we were first, the other has to wait
                    write_something(path, timeout=0)
            return super().execute(*arguments)

    with closing(sqlite3.connect(path, timeout=0, isolation_level=None, factory=Slow)) as connection:
        try:
            schema.prepare(connection, path)
        except sqlite3.OperationalError as error:
            assert "locked" in str(error)  # noqa: PT017 - only this one may come, and it need not
            schema.prepare(connection, path)
    assert Slow.statements > step
    write_something(path)
    assert len(schema_of(path)) == len(schema.TABLES) + 1  # and sqlite_sequence


def test_many_threads_create_one_file(path):
    failures, barrier = [], threading.Barrier(8)

    def create(number):
        try:
            barrier.wait()
            with closing(SQLiteBackend(path)) as backend:
                store = backend.perform(OpenStore("shop", "ensure")).id
                backend.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with connect(path) as database:
        assert database.names() == ["shop"]
        assert len(database.store("shop").domain("d")) == 8


def _create_when_told(path, number, ready, go, results):
    ready.release()
    go.wait()
    try:
        with closing(SQLiteBackend(path)) as backend:
            store = backend.perform(OpenStore("shop", "ensure")).id
            backend.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
    except Exception as error:
        results.put(repr(error))
    else:
        results.put(None)


def test_many_processes_create_one_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Semaphore(0), context.Queue()
    go, path = context.Event(), str(tmp_path / "bot.db")
    children = [
        context.Process(target=_create_when_told, args=(path, number, ready, go, results)) for number in range(8)
    ]
    for child in children:
        child.start()
    for _ in children:
        assert ready.acquire(timeout=30)
    go.set()
    assert [results.get(timeout=30) for _ in children] == [None] * 8
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    with connect(path) as database:
        assert database.names() == ["shop"]
        assert len(database.store("shop").domain("d")) == 8


# --- files that are not ours ---


def refusal(path):
    """The error of each way to open the file; all say the same, and none touches it."""
    before = Path(path).read_bytes() if Path(path).is_file() else None
    with closing(SQLiteBackend(path)) as backend, pytest.raises(DatabaseError) as found:
        backend.perform(ListStores())
    with connect(path) as database, pytest.raises(type(found.value)) as again:
        database.store(create=True)
    assert str(again.value) == str(found.value)
    assert path in str(found.value)
    if before is not None:
        assert Path(path).read_bytes() == before
        assert sorted(Path(path).parent.iterdir()) == [Path(path)]
    return found.value


def test_an_sqlite_file_of_another_program(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks(url)")
        connection.commit()
    error = refusal(path)
    assert type(error) is CorruptDatabaseError
    assert "another program" in str(error)
    assert "another path" in str(error)


@pytest.mark.parametrize("pragma", ["application_id = 77", "user_version = 1"])
def test_an_empty_sqlite_file_that_somebody_has_marked(path, pragma):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {pragma}")
    assert "another program" in str(refusal(path))


def test_a_newer_format(path):
    write_something(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.FORMAT + 1}")
        connection.execute("PRAGMA journal_mode = DELETE")
    error = refusal(path)
    assert type(error) is FormatVersionError
    assert "update the package" in str(error)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"user_data": {1: {"a": "secret"}}}, protocol) for protocol in (2, 4, 5)]
)
def test_a_pickle(path, content):
    Path(path).write_bytes(content * 50)
    error = refusal(path)
    assert type(error) is PickleFoundError
    assert f"ptb-kv import-pickle {path} {path}.db" in str(error)
    assert "secret" not in str(error)


def test_a_pickle_smaller_than_a_header(path):
    Path(path).write_bytes(pickle.dumps({}))
    assert type(refusal(path)) is PickleFoundError


@pytest.mark.parametrize("suffix", ["_user_data", "_bot_data", "_chat_data", "_callback_data", "_conversations"])
def test_the_five_files_of_a_split_pickle(path, suffix):
    Path(path + suffix).write_bytes(pickle.dumps({}))
    error = refusal(path)
    assert type(error) is PickleFoundError
    assert not Path(path).exists()


def test_split_pickles_beside_a_database_are_no_matter(path):
    write_something(path)
    Path(path + "_user_data").write_bytes(pickle.dumps({}))
    write_something(path)


@pytest.mark.parametrize("content", [b"hello" * 1000, b"SQLite format 4\0" + b"\0" * 5000, b"\0" * 4096])
def test_a_file_that_is_no_database(path, content):
    Path(path).write_bytes(content)
    error = refusal(path)
    assert type(error) is CorruptDatabaseError
    assert "another path" in str(error)


def test_a_file_cut_short(path):
    write_something(path)
    size = Path(path).stat().st_size
    os.truncate(path, size // 2)

    def use(backend):
        store = backend.perform(OpenStore("shop", "open")).id
        backend.perform(Changes(store, 0))
        backend.perform(Commit(store, (Put("d", "k", b"1"),)))

    with closing(SQLiteBackend(path)) as backend, pytest.raises(CorruptDatabaseError, match="restore a backup"):
        use(backend)


def test_a_page_full_of_garbage(path):
    write_something(path)
    content = bytearray(Path(path).read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    Path(path).write_bytes(content)
    with closing(SQLiteBackend(path)) as backend, pytest.raises(CorruptDatabaseError, match="damaged"):
        backend.perform(OpenStore("shop", "open"))


def test_a_folder_at_the_path(path):
    Path(path).mkdir()
    assert "cannot be opened" in str(refusal(path))


def test_a_folder_that_does_not_exist(tmp_path):
    error = refusal(str(tmp_path / "no" / "bot.db"))
    assert "check that the folder exists" in str(error)
    assert isinstance(error, OSError)


@pytest.fixture
def garbage(path):
    Path(path).write_bytes(b"hello" * 1000)
    return Path(path)


async def test_the_async_face_says_the_same_and_recovers(path, garbage):
    backend = AsyncSQLiteBackend(path)
    for _ in range(3):
        with pytest.raises(CorruptDatabaseError):
            await backend.perform(ListStores())
    assert backend.peek() is None
    garbage.unlink()
    assert await backend.perform(ListStores()) == ()
    await backend.close()


# --- file systems and libraries ---


class NoWAL(engine.EngineConnection):
    """SQLite on a network file system: the switch to WAL is answered with the mode that stays."""

    def execute(self, sql, parameters=(), /):
        if isinstance(sql, str) and sql.startswith("PRAGMA journal_mode = WAL"):
            sql = "PRAGMA journal_mode"
        return super().execute(sql, parameters)


async def test_without_wal_everything_works_but_says_so(path, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engine, "EngineConnection", NoWAL)
    backend = AsyncSQLiteBackend(path)
    with caplog.at_level(logging.WARNING):
        store = (await backend.perform(OpenStore("shop", "create"))).id
    assert "no write-ahead log" in caplog.text
    for number in range(20):
        await backend.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
        assert backend.peek() is None  # in this mode a look could have to wait
    with closing(SQLiteBackend(path)) as other:
        other.perform(Commit(store, (Put("d", "other", b"1"),)))
    assert len((await backend.perform(Changes(store, 0))).changes) == 21
    assert list(tmp_path.glob("*-wal")) == []
    await backend.close()


async def test_without_wal_two_writers_wait_for_each_other(path, monkeypatch):
    monkeypatch.setattr(engine, "EngineConnection", NoWAL)
    first, second = AsyncSQLiteBackend(path), AsyncSQLiteBackend(path)
    store = (await first.perform(OpenStore("shop", "create"))).id

    def write(backend, name):
        return threading.Thread(
            target=lambda: [backend.perform(Commit(store, (Put("d", f"{name}{n}", b"1"),))) for n in range(25)]
        )

    blocking = [first.blocking(), second.blocking()]
    threads = [write(backend, name) for backend, name in zip(blocking, "ab", strict=True)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await first.perform(GetMany(store, ()))
        await second.perform(Changes(store, 0))
    assert len((await second.perform(Changes(store, 0))).changes) == 50
    for backend in blocking:
        backend.close()
    await first.close()
    await second.close()


def test_a_file_whose_mode_somebody_changed_works_on(path):
    write_something(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    write_something(path, "second")
    with connect(path) as database:
        assert database.names() == ["second", "shop"]


@pytest.mark.parametrize("version", [(3, 30, 1), (3, 7, 17)])
def test_an_old_sqlite_library_is_refused_with_its_number(path, monkeypatch, version):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite3, "sqlite_version", ".".join(map(str, version)))
    with closing(SQLiteBackend(path)) as backend, pytest.raises(DatabaseError, match=r"3\.30\.1|3\.7\.17") as found:
        backend.perform(ListStores())
    assert "3.31.0 or newer is needed" in str(found.value)


def test_every_refusal_is_an_error_of_the_package(path):
    Path(path).write_bytes(b"hello" * 1000)
    with connect(path) as database, pytest.raises(KVPersistenceError):
        database.names()
