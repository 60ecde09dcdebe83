"""A running bot is attached to its store: others see it, and nobody deletes the store under it."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence import KVPersistence, connect, connect_async
from ptb_kvpersistence.errors import StoreInUseError
from ptb_kvpersistence.model import AttachBot
from ptb_kvpersistence.persistence import presence
from tests.ptb.offline import OTHER_TOKEN, TOKEN

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(presence, "HEARTBEAT", 0.02)


def attached(location):
    with connect(location) as database:
        return [info.name for info in database.bots("default") if info.is_attached]


def last_seen(location):
    with connect(location) as database:
        (bot,) = database.bots("default")
        return bot.last_seen


@pytest.mark.everywhere(memory=True)
async def test_a_store_is_kept_while_a_bot_runs(start_bot, location):
    bot = await start_bot(persistence=KVPersistence(location))
    await bot.app.start()
    with connect(location) as database:
        for act in (lambda: database.delete("default"), lambda: database.rename("default", "other")):
            with pytest.raises(StoreInUseError, match="'1001'") as caught:
                act()
            assert caught.value.bots == ("1001",)
        await bot.say("x", lambda _, context: context.user_data.update(a=1))
        await bot.save()
        await bot.app.persistence.flush()
        assert attached(location) == ["1001"], "a flush is not the end of a running bot"
        await bot.stop()
        assert attached(location) == []
        (info,) = database.bots("default")
        assert info.last_seen >= info.attached_at
        database.delete("default")
        assert database.names() == []


@pytest.mark.everywhere
async def test_each_bot_counts(start_bot, location):
    first = await start_bot(TOKEN)
    second = await start_bot(OTHER_TOKEN, options={"bot": "support"})
    assert attached(location) == ["1001", "support"]
    await first.stop()
    with connect(location) as database, pytest.raises(StoreInUseError, match="by 'support';"):
        database.delete("default")
    await second.stop()
    with connect(location) as database:
        database.delete("default")


@pytest.mark.everywhere(memory=True)
async def test_two_persistences_of_one_bot(location):
    first, second = KVPersistence(location, bot="shop"), KVPersistence(location, bot="shop")
    await first.get_user_data()
    await second.get_user_data()
    await first.flush()
    assert attached(location) == ["shop"]
    await second.flush()
    assert attached(location) == []


@pytest.mark.everywhere(memory=True)
async def test_it_gives_signs_of_life(location, quick):
    async with connect_async(location) as database:
        store = await database.store("default", create=True)
        persistence = KVPersistence(store=store, bot="shop")
        await persistence.get_user_data()
        with connect(location) as other:
            began = last_seen(location)
            for _ in range(2):
                # Also while somebody has the database to himself.
                with other.store("default").transaction(lock=True):
                    before = last_seen(location)
                    await until(lambda before=before: last_seen(location) > before)
            (info,) = other.bots("default")
            assert info.attached_at <= began
        await persistence.flush()
        ended = last_seen(location)
        await asyncio.sleep(0.1)
        assert last_seen(location) == ended
        assert attached(location) == []
        assert await store.get("still open", "yes") == "yes"


@pytest.mark.everywhere(memory=True)
async def test_who_goes_on_after_a_flush_is_attached_again(location):
    persistence = KVPersistence(location, bot="shop")
    for number in range(2):
        await persistence.update_user_data(number, {})
        await until(lambda: attached(location) == ["shop"])
        await persistence.flush()
        assert attached(location) == []
    await persistence.get_user_data()
    assert attached(location) == ["shop"]
    await persistence.flush()


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    assert condition()


@pytest.mark.everywhere
def test_several_loops_in_turn(location, quick):
    persistence = KVPersistence(location, bot="shop")

    async def use(number):
        await persistence.update_user_data(number, {})
        await until(lambda: attached(location) == ["shop"])
        before = last_seen(location)
        await until(lambda: last_seen(location) > before)

    asyncio.run(use(1))
    asyncio.run(use(2))
    asyncio.run(persistence.flush())
    assert attached(location) == []


@pytest.mark.everywhere
async def test_a_script_without_a_bot_is_not_attached(location):
    script = KVPersistence(location)
    await script.update_user_data(42, {})
    await script.get_user_data()
    with connect(location) as database:
        assert database.bots("default") == []
        database.delete("default")
    await script.flush()


@pytest.mark.everywhere
async def test_nothing_is_asked_of_the_store_for_it_between_the_signs(start_bot, monkeypatch):
    bot = await start_bot()
    asked = []
    perform = bot.persistence.store.backend.perform

    async def noted(request, timeout=None):
        asked.append(type(request))
        return await perform(request, timeout)

    monkeypatch.setattr(bot.persistence.store.backend, "perform", noted)
    for number in range(3):
        await bot.say("x", lambda _, context, number=number: context.user_data.update(a=number))
        await bot.save()
    assert asked
    assert AttachBot not in asked


@pytest.fixture
def no_leases(path):
    """Nobody can make the file."""
    Path(f"{path}-leases").mkdir()


async def test_a_bot_runs_though_nobody_can_be_told(start_bot, path, no_leases, quick, witness, caplog):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await asyncio.sleep(0.1)
    await bot.stop()
    assert witness.values("ptb:user_data:1001") == {"42": {"a": 1}}
    assert bot.errors == []
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.everywhere(memory=True)
async def test_the_signs_end_with_the_store(location, quick, caplog):
    caplog.set_level("DEBUG", "ptb_kvpersistence")
    async with connect_async(location) as database:
        persistence = KVPersistence(store=await database.store("default", create=True), bot="shop")
        await persistence.get_user_data()
        await database.delete("default", force=True)
        await asyncio.sleep(0.1)
        await database.create("default")
        assert await database.bots("default") == []
        assert persistence._keeper._presence._timer is None
        await persistence.flush()
    assert caplog.records == []


@pytest.mark.everywhere(memory=True)
async def test_the_signs_end_when_the_database_is_closed(location, quick):
    database = connect_async(location)
    persistence = KVPersistence(store=await database.store("default", create=True), bot="shop")
    await persistence.get_user_data()
    await database.close()
    await asyncio.sleep(0.1)
    assert persistence._keeper._presence._timer is None


# --- processes ---

CODE = """
import asyncio, os, sys
from ptb_kvpersistence import KVPersistence

persistence = KVPersistence(sys.argv[1], bot="shop")

async def main():
    await persistence.get_user_data()
    {inside}

asyncio.run(main())
{after}
"""


def start(path, *, inside="pass", after=""):
    code = CODE.format(inside=inside, after=after)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(path, **code):
    process = start(path, **code)
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, output) == (0, "")


def marks(path):
    with closing(sqlite3.connect(f"{path}-leases")) as connection:
        return connection.execute("SELECT bot, is_attached FROM bots").fetchall()


@pytest.mark.parametrize("after", ["", "sys.exit()"])
def test_a_process_that_ends_without_a_flush_takes_its_name_back(path, after):
    run(path, after=after)
    assert marks(path) == [("shop", 0)]


def test_a_killed_bot_is_not_attached(path):
    process = start(path, inside="print('here', flush=True); sys.stdin.readline()")
    try:
        assert process.stdout.readline() == "here\n"
        with connect(path) as database:
            with pytest.raises(StoreInUseError):
                database.delete("default")
            process.kill()
            process.wait()
            assert marks(path) == [("shop", 1)]
            database.delete("default")
    finally:
        process.kill()
        process.communicate()


async def test_the_end_of_another_process_of_the_same_bot(path):
    persistence = KVPersistence(path, bot="shop")
    await persistence.get_user_data()
    await asyncio.to_thread(run, path)
    assert attached(path) == ["shop"]
    await persistence.flush()
    assert attached(path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_end_of_a_fork_is_not_the_end_of_its_parent(path):
    fork = """
    pid = os.fork()
    if not pid:
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
    import contextlib, sqlite3
    with contextlib.closing(sqlite3.connect(sys.argv[1] + "-leases")) as leases:
        assert leases.execute("SELECT is_attached FROM bots").fetchall() == [(1,)]
    """
    run(path, after=fork.replace("\n    ", "\n"))
    assert marks(path) == [("shop", 0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_that_goes_on_is_attached_on_its_own(path):
    fork = """
    pid = os.fork()
    if not pid:
        asyncio.run(main())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    run(path, after=fork.replace("\n    ", "\n"))
    assert sorted(marks(path)) == [("shop", 0), ("shop", 1)], "the parent took its name back, the child had no time to"
    assert attached(path) == []
