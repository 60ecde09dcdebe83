"""A full disk, a lock that somebody holds, files and folders that cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.errors import BusyError, DatabaseError, DatabaseFullError, ReadOnlyError
from tests.faults import processes
from tests.faults.faulty import append, faulty_bot
from tests.faults.processes import Holder
from tests.faults.raw import check_file, rescue_files, rows, users


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "bot.db"


def expected(items):
    return {"items": list(items), "count": len(items)}


async def seed(path):
    kept = KVPersistence(path, bot="4711")
    await kept.update_user_data(1, {"name": "old"})
    await kept.flush()


# --- a full disk ---


@pytest.fixture
def pages(monkeypatch):
    """Say how many pages a file may have; None: as many as it likes."""
    limits = {"pages": None}

    class Limited(engine.EngineConnection):
        def execute(self, sql, parameters=(), /):
            if sql == "BEGIN IMMEDIATE":
                limit = limits["pages"] or 2**30
                super().execute(f"PRAGMA max_page_count = {limit}").fetchone()
            return super().execute(sql, parameters)

        statement = execute

    monkeypatch.setattr(engine, "EngineConnection", Limited)
    return lambda limit: limits.update(pages=limit)


async def test_a_full_disk_keeps_everything_pending_until_there_is_space(path, pages):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        pages(1)
        for number in range(2, 30):
            await bot.touch(number, lambda live: live.update(load="x" * 5000))
            outcomes = await bot.cycle([number])
        assert isinstance(outcomes[0], DatabaseFullError)
        assert "free some space" in str(outcomes[0])
        await bot.touch(1, append("b"))
        with pytest.raises(DatabaseFullError):
            await bot.persistence.flush()
        stored = users(path)
        assert bot.persistence.pending == 30 - len(stored)
        check_file(path)
        pages(None)
        await bot.persistence.flush()
    assert users(path) == {1: expected("ab"), **{number: {"load": "x" * 5000} for number in range(2, 30)}}


async def test_a_disk_that_is_full_at_the_end(path, pages):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        pages(1)
        await bot.touch(1, lambda live: live.update(load="x" * 500_000))
        await bot.cycle([1])
        bot.keeper.finish()
        assert len(rescue_files(path.parent)) == 1
        pages(None)
    async with faulty_bot(path) as bot:
        assert bot.data[1]["load"] == "x" * 500_000


@contextlib.contextmanager
def small_disk(folder):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounting takes root; max_page_count is above")
async def test_a_real_small_disk(path):
    folder = path.parent / "disk"
    with small_disk(folder) as is_mounted:
        if not is_mounted:
            pytest.skip("this root may not mount")
        async with faulty_bot(folder / "bot.db") as bot:
            await bot.touch(1, append("a"))
            await bot.cycle([1])
            (folder / "ballast").write_bytes(b"x" * 500_000)
            outcomes = []
            for number in range(2, 12):
                await bot.touch(number, lambda live: live.update(load="x" * 50_000))
                outcomes += await bot.cycle([number])
            failures = [outcome for outcome in outcomes if outcome is not None]
            assert failures
            assert all(isinstance(failure, DatabaseError) for failure in failures)
            assert bot.persistence.pending
            check_file(folder / "bot.db")
            (folder / "ballast").unlink()
            await bot.persistence.flush()
            assert bot.persistence.pending == 0
        check_file(folder / "bot.db")
        assert len(users(folder / "bot.db")) == 11
        assert users(folder / "bot.db")[1] == expected("a")


# --- locked by somebody else ---


async def test_a_bot_whose_file_is_locked_goes_on(path):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        with Holder(path):
            await bot.touch(1, append("b"))
            began = time.monotonic()
            cycle = asyncio.ensure_future(bot.cycle([1]))
            for letter in "cdef":
                await bot.touch(1, append(letter))
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 1, "handlers had to wait"
            assert not cycle.done()
        assert await cycle == [None]
        await bot.cycle([1])
    assert users(path) == {1: expected("abcdef")}


async def test_while_it_is_locked_exclusively_memory_has_to_do(path):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.persistence.flush()
        await bot.keeper.store.backend.release()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        with Holder(path, "BEGIN EXCLUSIVE"):
            began = time.monotonic()
            await bot.touch(1, append("b"))
            assert time.monotonic() - began < 2
        await bot.cycle([1])
    assert users(path) == {1: expected("ab")}


async def test_flush_has_a_deadline(path):
    async with faulty_bot(path) as bot:
        bot.backend._backend._timeout = 0.2
        await bot.touch(1, append("a"))
        with Holder(path):
            began = time.monotonic()
            with pytest.raises(BusyError, match="locked"):
                await bot.persistence.flush()
            assert 0.15 < time.monotonic() - began < 3
            assert bot.persistence.pending == 1
        await bot.persistence.flush()
    assert users(path) == {1: expected("a")}


async def test_reading_never_waits_for_a_writer(path):
    await seed(path)
    with Holder(path):
        began = time.monotonic()
        kept = KVPersistence(path, bot="4711")
        assert await kept.get_user_data() == {1: {"name": "old"}}
        await kept.flush()
        with connect(path) as database:
            assert len(database.store().domain("ptb:user_data:4711")) == 1
        assert time.monotonic() - began < 2


class Told:
    """A real bot in a process of its own that is told texts, and answers each."""

    def __init__(self, path):
        self._process = processes.start("bots", "bot", path, folder=path.parent)
        self.output = ""

    def tell(self, *texts):
        for text in texts:
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()
            line = None
            while line != f"{text}\n":
                line = self._process.stdout.readline()
                assert line, f"the bot has ended: {self.output}"
                self.output += line

    def end(self):
        """Wait for its end; gives its exit status."""
        output, _ = self._process.communicate(timeout=processes.TIMEOUT)
        self.output += output
        return self._process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_details):
        processes.end(self._process)


def test_a_real_bot_on_a_locked_file_answers_and_leaves_a_rescue_file(path):
    with Told(path) as bot:
        bot.tell("before")
        with Holder(path):
            bot.tell("locked", "still locked")
            began = time.monotonic()
            bot.tell("stop")
            assert bot.end() == 1, bot.output
            assert time.monotonic() - began < 15, bot.output
    assert "BusyError" in bot.output
    assert len(rescue_files(path.parent)) == 1, bot.output
    assert users(path) in ({}, {1: {"texts": ["before"]}})
    with Told(path) as again:
        again.tell("stop")
        assert again.end() == 0, again.output
    assert users(path) == {1: {"texts": ["before", "locked", "still locked", "stop", "stop"]}}
    assert rescue_files(path.parent) == []


def test_a_lock_that_is_given_back_while_the_process_ends(path):
    asyncio.run(seed(path))
    with Holder(path) as holder:
        script = processes.start("bots", "save_one", path, folder=path.parent)
        try:
            time.sleep(1.5)
            holder.release()
            output, _ = script.communicate(timeout=processes.TIMEOUT)
        finally:
            processes.end(script)
    assert script.returncode == 0, output
    assert users(path) == {1: {"name": "new"}}
    assert rescue_files(path.parent) == []


# --- read-only ---


class QueryOnly(engine.EngineConnection):
    """A file that may be read and not written, for root too, whom no permission stops."""

    def execute(self, sql, parameters=(), /):
        if isinstance(sql, str) and not sql.startswith("PRAGMA query_only"):
            super().execute("PRAGMA query_only = ON")
        return super().execute(sql, parameters)

    statement = execute


async def test_a_file_that_cannot_be_written_can_be_read(path, monkeypatch):
    await seed(path)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "EngineConnection", QueryOnly)
        kept = KVPersistence(path, bot="4711")
        assert await kept.get_user_data() == {1: {"name": "old"}}
        with pytest.raises(ReadOnlyError, match="check the permissions") as found:
            await kept.update_user_data(1, {"name": "new"})
        assert isinstance(found.value, PermissionError)
        assert kept.pending == 1
        with pytest.raises(ReadOnlyError):
            await kept.flush()
        with connect(path) as database:
            assert database.store().domain("ptb:user_data:4711")["1"] == {"name": "old"}
            with pytest.raises(ReadOnlyError):
                database.create("new")
    await kept._keeper.store.backend.release()
    await kept.flush()
    assert users(path) == {1: {"name": "new"}}


async def test_a_bot_without_a_namespace_starts_on_a_file_that_cannot_be_written(path, monkeypatch):
    await seed(path)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "EngineConnection", QueryOnly)
        kept = KVPersistence(path, bot="another")
        assert await kept.get_user_data() == {}
        await kept.flush()
    assert rows(path, "user_data") == {"1": {"name": "old"}}


@pytest.fixture
def foreign_folder():
    """A folder that everybody may enter and nobody may write; pytest's own cannot be entered by others."""
    folder = Path(tempfile.mkdtemp(prefix="kv-read-only-"))
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX")


@posix
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_permissions_that_allow_reading_only(foreign_folder, mode):
    path = foreign_folder / "bot.db"
    asyncio.run(seed(path))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    path.chmod(0o444)
    foreign_folder.chmod(0o555)
    output = processes.run("bots", "save_one_as_nobody", path, folder=path.parent).output
    (message,) = (line for line in output.splitlines() if line.startswith(("ReadOnlyError ", "DatabaseError ")))
    assert "may be written" in message or "check the permissions" in message
    assert "write-ahead log" not in output
    assert users_read_only(path) == {1: {"name": "old"}}


def users_read_only(path):
    copy = path.parent.parent / f"{path.parent.name}.copy"
    try:
        shutil.copy(path, copy)
        return users(copy)
    finally:
        for each in copy.parent.glob(f"{copy.name}*"):
            each.unlink()


@posix
def test_a_new_file_in_a_folder_that_cannot_be_written(foreign_folder):
    foreign_folder.chmod(0o555)
    output = processes.run("bots", "save_one_as_nobody", foreign_folder / "bot.db", folder=foreign_folder).output
    assert "DatabaseError" in output
    assert "may be written" in output


async def test_the_file_is_deleted_under_a_running_bot(path):
    """Nothing can save what is written to a deleted file, but nothing hangs, and a restart makes a new one."""
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        for each in path.parent.glob("bot.db*"):
            each.unlink()
        await bot.touch(1, append("b"))
        await bot.cycle([1])
        with contextlib.suppress(DatabaseError):
            await bot.persistence.flush()
        await bot.touch(1, append("c"))
        await bot.cycle([1])
    check_file(path)
