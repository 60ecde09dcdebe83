"""Checkpoints by hand: after an own commit, under a lock file, so that the log stays short and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.sqlite import checkpoint
from ptb_kvpersistence.backends.sqlite import lock_file as lock_file_module
from ptb_kvpersistence.backends.sqlite.checkpoint import Checkpointer
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.model import Commit, OpenStore, Put


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "bot.db")


def write(backend, store, count, size=2000):
    for start in range(0, count, 50):
        puts = tuple(Put("d", f"{start + number}", b'"' + b"x" * size + b'"') for number in range(50))
        backend.perform(Commit(store, puts, (), None, False))


def size_of_log(path):
    return Path(path + "-wal").stat().st_size


def test_the_log_does_not_grow_without_end(path):
    with closing(SQLiteBackend(path)) as backend:
        store = backend.perform(OpenStore("shop", "create")).id
        write(backend, store, 3000)
        once = size_of_log(path)
        for _ in range(6):
            write(backend, store, 3000)
        assert size_of_log(path) < 2 * once


def test_the_log_does_not_grow_with_many_writers(path):
    """In turns: while several write at the very same time, no SQLite can begin its log anew."""
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(closing(SQLiteBackend(path))) for _ in range(4)]
        store = backends[0].perform(OpenStore("shop", "create")).id
        for _ in range(30):
            for backend in backends:
                write(backend, store, 200, size=500)
        assert size_of_log(path) < 24_000 * 500 / 2


WRITER = """
import random, sys, time
from ptb_kvpersistence import connect
with connect(sys.argv[1], timeout=60) as database:
    store = database.store("shop")
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        store[f"k{random.randrange(5000)}"] = "x" * 600
"""


def test_the_log_does_not_grow_while_several_write_without_a_pause(path):
    with connect(path) as database:
        database.create("shop")
    command = [sys.executable, "-c", WRITER, path]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        largest = 0
        while any(writer.poll() is None for writer in writers):
            with contextlib.suppress(FileNotFoundError):
                largest = max(largest, size_of_log(path))
            time.sleep(0.02)
        assert [writer.returncode for writer in writers] == [0] * 4
    finally:
        for writer in writers:
            end(writer)
    assert largest < 4 * checkpoint.LONG_LOG
    with connect(path) as database:
        assert database.store("shop")._backend._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_log_that_became_long_gets_short_again(path):
    with closing(SQLiteBackend(path)) as backend, closing(sqlite3.connect(path)) as reader:
        store = backend.perform(OpenStore("shop", "create")).id
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchall()
        write(backend, store, 12_000)
        assert size_of_log(path) > checkpoint.LONG_LOG, "nobody begins a log anew that somebody reads"
        reader.execute("COMMIT")
        write(backend, store, 2_000)
        assert size_of_log(path) <= checkpoint.LONG_LOG


def pragma(path, name):
    with closing(SQLiteBackend(path)) as backend:
        backend.perform(OpenStore("shop", "ensure"))
        return backend._connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_sqlite_makes_no_checkpoints_of_its_own(path):
    assert pragma(path, "wal_autocheckpoint") == 0


def test_large_values_count_more(path):
    with closing(SQLiteBackend(path)) as backend:
        store = backend.perform(OpenStore("shop", "create")).id
        for number in range(400):
            put = Put("d", f"{number % 10}", b'"' + b"%010d" % number * 20_000 + b'"')
            backend.perform(Commit(store, (put,), (), None, False))
        assert size_of_log(path) < 2 * checkpoint.LONG_LOG, "80 MB in less than CHECKPOINT_EVERY mutations"


class Recorder:
    """Stands in for a connection and notes what is run, and who could have the lock file then."""

    def __init__(self, path):
        self.path = path
        self.seen = []

    def execute(self, statement):
        other = checkpoint._try_lock(f"{self.path}-checkpoint")
        self.seen.append((statement, other is None))
        if other is not None:
            other.close()
        return self

    def fetchone(self):
        return 0, 7, 7


def test_a_checkpoint_is_made_after_an_own_commit_and_under_the_lock(path):
    recorder = Recorder(path)
    checkpointer = Checkpointer(recorder, path)
    recorder.seen.clear()
    checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY - 1)
    checkpointer.after_commit(committed=True)
    assert recorder.seen == []
    checkpointer.before_commit(1)
    checkpointer.after_commit(committed=False)
    assert recorder.seen == [], "nothing of ours is in the log"
    checkpointer.before_commit(1)
    checkpointer.after_commit(committed=True)
    assert recorder.seen == [("PRAGMA wal_checkpoint(PASSIVE)", True)]
    checkpointer.before_commit(1)
    checkpointer.after_commit(committed=True)
    assert len(recorder.seen) == 1, "it starts counting anew"


def test_where_the_log_is_long_the_one_checkpoint_that_is_due_begins_it_anew(path):
    recorder = Recorder(path)
    checkpointer = Checkpointer(recorder, path)
    recorder.seen.clear()
    for size in (checkpoint.LONG_LOG - 1, checkpoint.LONG_LOG, 3 * checkpoint.LONG_LOG):
        with Path(f"{path}-wal").open("wb") as log:
            log.truncate(size)
        checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY)
        checkpointer.after_commit(committed=False)
        checkpointer.before_commit(1)
        checkpointer.after_commit(committed=True)
        checkpointer.before_commit(1)
        checkpointer.after_commit(committed=True)
    begun_anew = ["PRAGMA wal_checkpoint(RESTART)", "PRAGMA busy_timeout = 0"]
    assert recorder.seen == [
        (statement, True)
        for statement in (
            "PRAGMA wal_checkpoint(PASSIVE)",
            "PRAGMA busy_timeout = 50",
            *begun_anew,
            "PRAGMA busy_timeout = 450",
            *begun_anew,
        )
    ]


def test_a_long_log_is_on_the_disk_before_the_others_have_to_wait(path, monkeypatch):
    recorder = Recorder(path)
    checkpointer = Checkpointer(recorder, path)
    recorder.seen.clear()
    with Path(f"{path}-wal").open("wb") as log:
        log.truncate(checkpoint.LONG_LOG)

    def fsync(handle):
        recorder.seen.append(("fsync", os.fstat(handle).st_size == checkpoint.LONG_LOG))

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY)
    checkpointer.after_commit(committed=True)
    assert recorder.seen[0] == ("fsync", True)
    assert ("PRAGMA wal_checkpoint(RESTART)", True) in recorder.seen


def test_one_that_was_kept_from_beginning_it_anew_is_tried_again_soon(path):
    class Kept(Recorder):
        def fetchone(self):
            return 1, 7, 7

    recorder = Kept(path)
    checkpointer = Checkpointer(recorder, path)
    with Path(f"{path}-wal").open("wb") as log:
        log.truncate(checkpoint.LONG_LOG)
    checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY)
    checkpointer.after_commit(committed=True)
    recorder.seen.clear()
    for mutations in (checkpoint.AGAIN_AFTER - 1, 1):
        assert recorder.seen == []
        checkpointer.before_commit(mutations)
        checkpointer.after_commit(committed=True)
    assert ("PRAGMA wal_checkpoint(RESTART)", True) in recorder.seen


def test_a_checkpoint_that_fails_gives_the_lock_back_and_the_commit_stands(path):
    class Failing(Recorder):
        def execute(self, statement):
            if "checkpoint(" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement)

    checkpointer = Checkpointer(Failing(path), path)
    checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY)
    checkpointer.after_commit(committed=True)
    lock_file = checkpoint._try_lock(f"{path}-checkpoint")
    assert lock_file is not None
    lock_file.close()


LOCKER = """
import sys
from ptb_kvpersistence.backends.sqlite import checkpoint
lock_file = checkpoint._try_lock(sys.argv[1])
print("none" if lock_file is None else "held", flush=True)
sys.stdin.readline()
"""


def locker(path):
    return subprocess.Popen(
        [sys.executable, "-c", LOCKER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(checkpoint.__file__).parents[3],
    )


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_only_one_process_has_the_lock_and_its_death_gives_it_back(path):
    lock = f"{path}-checkpoint"
    first, second = locker(lock), None
    try:
        assert first.stdout.readline() == "held\n"
        second = locker(lock)
        assert second.stdout.readline() == "none\n"
        assert checkpoint._try_lock(lock) is None
        first.kill()
        first.wait()
        lock_file = checkpoint._try_lock(lock)
        assert lock_file is not None
        lock_file.close()
    finally:
        for process in filter(None, (first, second)):
            end(process)


def test_while_another_process_checkpoints_commits_go_on(path):
    with closing(SQLiteBackend(path)) as backend:
        store = backend.perform(OpenStore("shop", "create")).id
        other = locker(f"{path}-checkpoint")
        try:
            assert other.stdout.readline() == "held\n"
            write(backend, store, 3000, size=100)
            grown = size_of_log(path)
        finally:
            end(other)
        write(backend, store, 3000, size=100)
        assert size_of_log(path) <= grown * 1.5


def test_a_folder_in_which_no_lock_can_be_made(tmp_path):
    assert checkpoint._try_lock(str(tmp_path / "no" / "lock")) is None


def test_on_windows_the_lock_is_one_of_msvcrt(tmp_path, monkeypatch):
    calls = []

    class Msvcrt:
        LK_NBLCK, LK_UNLCK = 2, 0

        @staticmethod
        def locking(handle, mode, size):
            calls.append((mode, size))
            if len(calls) == 2:
                raise OSError("on purpose")

    monkeypatch.setattr(lock_file_module, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(lock_file_module, "msvcrt", Msvcrt, raising=False)
    lock_file = checkpoint._try_lock(str(tmp_path / "lock"))
    assert lock_file is not None
    assert checkpoint._try_lock(str(tmp_path / "lock")) is None
    lock_file.close()
    assert calls == [(2, 1), (2, 1), (0, 1), (0, 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
@pytest.mark.parametrize("ending", ["given back", "its process killed"])
def test_a_fork_in_the_middle_of_a_checkpoint_does_not_keep_the_lock(tmp_path, ending):
    code = """
import os, sys, time
from ptb_kvpersistence.backends.sqlite import checkpoint
lock_file = checkpoint._try_lock(sys.argv[1])
child = os.fork()
if not child:
    print("forked", flush=True)
    sys.stdin.readline()
    os._exit(0)
if sys.argv[2] == "given back":
    lock_file.close()
    time.sleep(60)
os.kill(os.getpid(), 9)
"""
    lock = str(tmp_path / "lock")
    command = [sys.executable, "-c", code, lock, ending]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "forked\n"
        if ending != "given back":
            assert process.wait(30) == -9
        deadline = time.monotonic() + 10
        while (mine := checkpoint._try_lock(lock)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mine.close()
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
