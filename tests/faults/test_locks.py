"""Named locks between processes that are killed, frozen and forked, and while the database is locked."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.sqlite.checkpoint import _try_lock
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
from ptb_kvpersistence.errors import (
    CorruptDatabaseError,
    FormatVersionError,
    LeaseLostError,
    LockTimeoutError,
    StoreInUseError,
)
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive

ROOT = Path(__file__).parents[2]
needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows freezes no processes")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no processes")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "shop.db")


@pytest.fixture
def shop(path):
    with connect(path) as database:
        yield database.store("shop", create=True)


class Child:
    """A Python process that prints what it does, and waits for a line where it calls ``wait()``."""

    _BEGINNING = """
import asyncio, os, signal, sys, time
from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import *
def say(*words): print(*words, flush=True)
def wait(): return sys.stdin.readline()
path = sys.argv[1]
"""

    def __init__(self, code, path):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", self._BEGINNING + code, path],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # Who listens to a child that says nothing hears the end of it.
        self._limit = threading.Timer(60, self._process.kill)
        self._limit.start()

    def hear(self):
        return self._process.stdout.readline().strip()

    def tell(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait(10)

    def wait(self):
        assert self._process.wait(30) == 0

    def end(self):
        self._limit.cancel()
        if self._process.poll() is None:
            if hasattr(signal, "SIGCONT"):
                self.signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait(10)
        self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def child(code, path):
    process = Child(code, path)
    try:
        yield process
    finally:
        process.end()


SYNC_HOLDER = """
store = connect(path).store("shop")
with store.lock("report", ttl={ttl}) as lease:
    say(lease.token)
    wait()
    try:
        store["written"] = "by the holder"
        say("written")
    except LeaseLostError:
        say("lost")
    say("held" if lease.is_held else "not held")
"""
ASYNC_HOLDER = """
async def main():
    async with connect_async(path) as database:
        store = await database.store("shop")
        async with store.lock("report", ttl={ttl}) as lease:
            say(lease.token)
            await asyncio.to_thread(wait)
            try:
                await store.set("written", "by the holder")
                say("written")
            except LeaseLostError:
                say("lost")
            say("held" if lease.is_held else "not held")
asyncio.run(main())
"""
holders = pytest.mark.parametrize("holder", [SYNC_HOLDER, ASYNC_HOLDER], ids=["sync", "async"])


@holders
def test_a_killed_holder_frees_the_lock_at_once(path, shop, holder):
    with child(holder.format(ttl=3600), path) as process:
        token = int(process.hear())
        with pytest.raises(LockTimeoutError):
            shop.lock("report", timeout=0.3).__enter__()
        process.kill()
        started = time.monotonic()
        with shop.lock("report", timeout=10) as lease:
            assert time.monotonic() - started < 2
            assert lease.token > token


@holders
def test_a_killed_waiter_holds_up_nobody(path, shop, holder):
    with child(holder.format(ttl=3600), path) as process:
        with shop.lock("report"):
            time.sleep(1)  # it waits in line by now
            process.kill()
        started = time.monotonic()
        with shop.lock("report", timeout=10):
            assert time.monotonic() - started < 2


@needs_signals
@holders
@pytest.mark.parametrize("delay", [0, 1], ids=["writes first", "renews first"])
def test_a_frozen_holder_that_lost_its_lease_writes_nothing(path, shop, holder, delay):
    with child(holder.format(ttl=1), path) as process:
        token = int(process.hear())
        process.signal(signal.SIGSTOP)
        with pytest.raises(LockTimeoutError):
            shop.lock("report", timeout=0.2).__enter__()
        with shop.lock("report", timeout=10) as lease:
            assert lease.token > token
            shop["written"] = "by the next one"
            if delay:
                process.signal(signal.SIGCONT)
                time.sleep(delay)
                process.tell()
            else:
                process.tell()
                process.signal(signal.SIGCONT)
            assert process.hear() == "lost"
            assert process.hear() == "not held"
            process.wait()
            assert lease.is_held
            assert shop["written"] == "by the next one"


@needs_signals
def test_a_holder_frozen_between_its_check_and_its_commit_still_excludes_the_next(path, shop):
    code = """
from ptb_kvpersistence.backends.sqlite import engine
store = connect(path).store("shop")
with store.lock("report", ttl=1) as lease:
    apply = engine.Engine._apply
    def freeze(self, *arguments, **options):
        reply = apply(self, *arguments, **options)
        say("freezing")
        os.kill(os.getpid(), signal.SIGSTOP)
        return reply
    engine.Engine._apply = freeze
    store["n"] = store.get("n", 0) + 1
    say("written")
"""
    shop["n"] = 1
    with child(code, path) as process:
        assert process.hear() == "freezing"
        started = time.monotonic()
        with pytest.raises(LockTimeoutError):
            shop.lock("report", timeout=2).__enter__()
        assert time.monotonic() - started < 5
        process.signal(signal.SIGCONT)
        with shop.lock("report", timeout=10):
            shop["n"] += 1
        assert process.hear() == "written"
        assert shop["n"] == 3


@holders
def test_a_lease_is_renewed_while_another_store_is_locked(path, shop, holder):
    with connect(path) as database, child(holder.format(ttl=1), path) as process:
        other = database.store("other", create=True)
        process.hear()
        with other.transaction(lock=True):
            other["a"] = 1
            time.sleep(2.5)
            drive(administration.attach(shop.handle, "bot"), shop.backend.perform)
            with shop.lock("another", timeout=0):
                pass
            with pytest.raises(LockTimeoutError):
                shop.lock("report", timeout=0).__enter__()
        process.tell()
        assert process.hear() == "written"
        assert process.hear() == "held"
        process.wait()
        assert shop["written"] == "by the holder"


def test_processes_count_under_a_lock(path, shop):
    code = """
store, longest = connect(path).store("shop"), 0
wait()
for _ in range(50):
    started = time.monotonic()
    with store.lock("count", timeout=60):
        longest = max(longest, time.monotonic() - started)
        store["n"] = store.get("n", 0) + 1
say(longest)
"""
    with child(code, path) as a, child(code, path) as b, child(code, path) as c:
        for process in (a, b, c):
            process.tell()
        longest = max(float(process.hear()) for process in (a, b, c))
        for process in (a, b, c):
            process.wait()
    assert shop["n"] == 150
    assert longest < 5


def test_an_exclusive_transaction_under_a_lock(path, shop):
    code = """
store = connect(path).store("shop")
for _ in range(30):
    with store.lock("count", timeout=60), store.transaction(lock=True, timeout=60):
        store["n"] = store.get("n", 0) + 1
"""
    with child(code, path) as a, child(code, path) as b:
        a.wait()
        b.wait()
    assert shop["n"] == 60


@needs_fork
def test_a_forked_child_holds_nothing(path, shop):
    code = """
store = connect(path).store("shop")
with store.lock("report", ttl=1) as lease:
    pid = os.fork()
    if not pid:
        say("held" if lease.is_held else "not held")
        try:
            store["child"] = 1
        except LeaseLostError:
            say("lost")
if not pid:
    with store.lock("another", timeout=5):
        store["child"] = "free again"
    os._exit(0)
os.waitpid(pid, 0)
with store.lock("report", timeout=0):
    say("given back by the parent")
"""
    with child(code, path) as process:
        assert [process.hear(), process.hear(), process.hear()] == ["not held", "lost", "given back by the parent"]
        process.wait()
    assert shop["child"] == "free again"


@needs_fork
def test_a_forked_child_has_connections_of_its_own_and_leaves_a_transaction_to_its_parent(path, shop):
    code = """
store = connect(path).store("shop")
with store.transaction():
    store["n"] = 1
    mine = store.backend._connection
    pid = os.fork()
    if pid:
        wait()
if not pid:
    say(str(store.get("n")))
    say("the same" if store.backend._connection is mine else "its own")
    with store.transaction(lock=True, timeout=20):
        store["child"] = 1
    os._exit(0)
os.waitpid(pid, 0)
store["n"] += 1
"""
    with child(code, path) as process:
        assert [process.hear(), process.hear()] == ["None", "its own"]
        process.tell()
        process.wait()
    assert dict(shop) == {"n": 2, "child": 1}


@needs_fork
def test_the_end_of_a_forked_child_does_not_give_the_lock_back(path, shop):
    code = """
store = connect(path).store("shop")
with store.lock("report", ttl=3600) as lease:
    pid = os.fork()
    if not pid:
        os.closerange(3, 100)
        os._exit(0)
    os.waitpid(pid, 0)
    say("child ended")
    wait()
"""
    with child(code, path) as process:
        assert process.hear() == "child ended"
        with pytest.raises(LockTimeoutError):
            shop.lock("report", timeout=0.3).__enter__()


def test_other_connections_of_the_process_do_not_make_a_holder_look_dead(path, shop, tmp_path):
    code = """
store = connect(path).store("shop")
with store.lock("report", ttl=3600) as lease:
    for place in (path, path + "-link"):
        with connect(place) as database:
            other = database.store("shop")
            try:
                other.lock("report", timeout=0).__enter__()
            except ReentryError:
                say("the same lock")
            with other.lock("another"):
                pass
    say("closed")
    wait()
"""
    Path(f"{path}-link").symlink_to(path)
    with child(code, path) as process:
        assert [process.hear(), process.hear(), process.hear()] == ["the same lock", "the same lock", "closed"]
        with pytest.raises(LockTimeoutError):
            shop.lock("report", timeout=0.3).__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes symbolic links for administrators only")
def test_who_comes_by_a_symbolic_link_shares_all_locks(path, shop, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "bot.db"
    link.symlink_to(path)
    code = """
from ptb_kvpersistence.backends.sqlite import checkpoint
from ptb_kvpersistence.backends.sqlite.queue import WriterQueue
store = connect(path).store("shop")
with store.lock("report"), store.transaction(lock=True):
    store["by"] = "link"
    say("inside")
    wait()
queue = WriterQueue(path)
say("first in line" if queue.enter(0) else "there is somebody")
wait()
queue.leave()
engine = store.backend._connection.engine
engine._checkpointer.before_commit(checkpoint.CHECKPOINT_EVERY)
say("checkpointing")
wait()
"""
    with child(code, str(link)) as process:
        assert process.hear() == "inside"
        with pytest.raises(LockTimeoutError), shop.lock("report", timeout=0):
            pass
        process.tell()
        assert process.hear() == "first in line"
        assert not WriterQueue(path).enter(0)
        process.tell()
        assert process.hear() == "checkpointing"
        assert _try_lock(f"{path}-checkpoint") is None
        process.tell()
        process.wait()
    assert shop["by"] == "link"
    assert list(link.parent.iterdir()) == [link]
    queue = WriterQueue(path)
    assert queue.enter(0)
    queue.leave()


def test_a_deleted_file_of_leases_loses_leases_and_nothing_else(path, shop, tmp_path):
    with connect(path) as database, connect(path) as third:
        rival = database.store("shop")
        with shop.lock("report", ttl=30) as lease:
            shop["before"] = 1
            for file in tmp_path.glob("shop.db-leases*"):
                file.unlink()
            with rival.lock("a second one", timeout=5) as later:
                assert later.token > lease.token
                with pytest.raises(LeaseLostError):
                    shop["after"] = 1
        assert dict(rival) == {"before": 1}
        with shop.lock("report", ttl=30) as again:
            assert again.token > lease.token
            assert third.store("shop")["before"] == 1


def test_a_damaged_file_of_leases_is_said_to_hold_no_data(path, shop, tmp_path):
    shop["a"] = 1
    (tmp_path / "shop.db-leases").write_bytes(b"something else, longer than a header" * 100)
    with pytest.raises(CorruptDatabaseError, match="delete it"):
        shop.lock("report").__enter__()
    assert shop["a"] == 1
    (tmp_path / "shop.db-leases").unlink()
    with shop.lock("report"):
        pass


def test_a_file_of_leases_of_a_newer_version(path, shop, tmp_path):
    with shop.lock("report"):
        pass
    with closing(sqlite3.connect(tmp_path / "shop.db-leases")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with connect(path) as database, pytest.raises(FormatVersionError, match="99"):
        database.store("shop").lock("report").__enter__()


def test_a_killed_bot_is_no_longer_attached(path, shop):
    code = """
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive
store = connect(path).store("shop")
drive(administration.attach(store.handle, "bot"), store.backend.perform)
say("attached")
wait()
"""
    with connect(path) as database, child(code, path) as process:
        process.hear()
        with pytest.raises(StoreInUseError):
            database.delete("shop")
        process.kill()
        (bot,) = database.bots("shop")
        assert (bot.name, bot.is_attached) == ("bot", False)
        database.delete("shop")


def test_a_bot_started_again_elsewhere_stays_attached_when_the_old_one_ends(path, shop):
    code = """
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive
store = connect(path).store("shop")
drive(administration.attach(store.handle, "bot"), store.backend.perform)
say("attached")
wait()
drive(administration.detach(store.handle, "bot"), store.backend.perform)
"""
    with connect(path) as database, child(code, path) as old:
        old.hear()
        drive(administration.attach(shop.handle, "bot"), shop.backend.perform)
        old.tell()
        old.wait()
        (bot,) = database.bots("shop")
        assert bot.is_attached
        drive(administration.detach(shop.handle, "bot"), shop.backend.perform)
        (bot,) = database.bots("shop")
        assert not bot.is_attached


def test_the_process_ends_while_a_lock_is_waited_for_and_held(path, shop):
    code = """
import threading
store = connect(path).store("shop")
def hold():
    with store.lock("held"):
        time.sleep(60)
def wait_for_it():
    with store.lock("report", timeout=60):
        pass
for work in (hold, wait_for_it):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
say("ending")
"""
    with shop.lock("report"), child(code, path) as process:
        assert process.hear() == "ending"
        process.wait()
        with shop.lock("held", timeout=2):
            pass
