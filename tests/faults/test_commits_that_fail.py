"""Commits that fail: nothing is lost, nothing is applied twice, and somebody is told, once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3

import pytest

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.sqlite import engine
from ptb_kvpersistence.errors import DatabaseError, KVPersistenceError
from ptb_kvpersistence.persistence import keeper as keeper_module
from tests.faults.faulty import FAULTS, Bot, append, faulty_bot, forget
from tests.faults.raw import check_file, rescue_files, users


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bot.db"


@pytest.fixture
async def bot(path):
    async with faulty_bot(path) as bot:
        yield bot


@pytest.fixture
async def seeded(path):
    """Users with an empty list and a counter: lists can be merged only from a common base."""
    async with faulty_bot(path) as bot:
        bot.data = {user: {"items": [], "count": 0} for user in (1, 2)}
        assert await bot.cycle([1, 2]) == [None, None]
    return path


def expected(items):
    return {"items": list(items), "count": len(items)}


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(keeper_module, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(keeper_module, "LAST_RETRY", 0.02)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_next_cycle_makes_up_for_one_that_failed(bot, path, fault):
    await bot.touch(1, append("a"))
    bot.backend.plan = [fault]
    (error,) = await bot.cycle([1])
    assert isinstance(error, DatabaseError)
    assert bot.persistence.pending == 1
    assert users(path) == ({1: expected("a")} if fault == "lost after" else {})
    await bot.touch(2, append("b"))
    assert await bot.cycle([2]) == [None]
    assert users(path) == {1: expected("a"), 2: expected("b")}
    assert bot.persistence.pending == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_flush_makes_up_for_it(bot, path, fault):
    await bot.touch(1, append("a"))
    bot.backend.plan = [fault]
    await bot.cycle([1])
    await bot.persistence.flush()
    assert users(path) == {1: expected("a")}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_timer_makes_up_for_it(path, fault, quick_retries):
    async with faulty_bot(path) as bot:
        bot.keeper._retry_pause = 0.01
        await bot.touch(1, append("a"))
        bot.backend.plan = [fault, fault, fault]
        await bot.cycle([1])
        for _ in range(1000):
            if not bot.persistence.pending:
                break
            await asyncio.sleep(0.005)
        assert users(path) == {1: expected("a")}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_same_entity_changes_while_its_commit_is_pending(bot, path, fault):
    for letter in "abcd":
        await bot.touch(1, append(letter))
        bot.backend.plan = [fault]
        await bot.cycle([1])
    await bot.touch(1, append("e"))
    assert await bot.cycle([1]) == [None]
    assert users(path) == {1: expected("abcde")}
    assert bot.data[1] == expected("abcde")


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_entity_that_changes_while_its_commit_is_under_way(bot, path, fault):
    bot.backend.pause = 0.02
    bot.backend.plan = [fault]
    await bot.touch(1, append("a"))
    first = asyncio.gather(*bot.updates([1]), return_exceptions=True)
    await asyncio.sleep(0.01)
    await bot.touch(1, append("b"))
    second = asyncio.gather(*bot.updates([1]), return_exceptions=True)
    assert isinstance((await first)[0], DatabaseError)
    assert await second == [None]
    assert users(path) == {1: expected("ab")}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_drop_that_fails(bot, path, fault):
    await bot.touch(1, append("a"))
    await bot.cycle([1])
    bot.backend.plan = [fault]
    with pytest.raises(DatabaseError):
        await bot.persistence.drop_user_data(1)
    await bot.persistence.flush()
    assert users(path) == {}


@pytest.mark.parametrize("fault", FAULTS)
async def test_dropped_and_made_anew_while_the_drop_is_pending(bot, path, fault):
    await bot.touch(1, append("a"))
    await bot.cycle([1])
    bot.backend.plan = [fault]
    with pytest.raises(DatabaseError):
        await bot.persistence.drop_user_data(1)
    del bot.data[1]
    await bot.touch(1, append("z"))
    await bot.cycle([1])
    await bot.persistence.flush()
    assert users(path) == {1: expected("z")}


async def test_one_failure_is_one_error(bot, caplog):
    for user in range(20):
        await bot.touch(user, append("a"))
    bot.backend.plan = ["full"]
    with caplog.at_level(logging.ERROR):
        outcomes = await bot.cycle(range(20))
    assert [type(outcome).__name__ for outcome in outcomes if outcome is not None] == ["DatabaseFullError"]
    assert len([record for record in caplog.records if "saving failed" in record.getMessage()]) == 1
    assert "20 entities stay pending" in caplog.text


async def test_one_cycle_is_one_commit_also_when_it_is_made_up_for(bot):
    for user in range(20):
        await bot.touch(user, append("a"))
    bot.backend.plan = ["full", "busy"]
    before = len(bot.backend.commits)
    await bot.cycle(range(20))
    await bot.cycle([0])
    await bot.cycle([0])
    assert [len(commit.mutations) for commit in bot.backend.commits[before:]] == [20, 20, 20]


async def test_nobody_has_to_wait_for_the_error(bot, path):
    """PTB gathers; a cycle whose coroutines nobody awaits is committed and reported all the same."""
    await bot.touch(1, append("a"))
    bot.backend.plan = ["busy"]
    for coroutine in bot.updates([1]):
        coroutine.close()
    await asyncio.sleep(0.05)
    assert bot.persistence.pending == 1
    await bot.persistence.flush()
    assert users(path) == {1: expected("a")}


async def test_a_flush_that_fails_says_so_and_can_be_repeated(bot, path):
    await bot.touch(1, append("a"))
    bot.backend.default = "full"
    for _ in range(3):
        with pytest.raises(DatabaseError):
            await bot.persistence.flush()
        assert bot.persistence.pending == 1
    bot.backend.default = None
    await bot.persistence.flush()
    assert bot.persistence.pending == 0
    assert users(path) == {1: expected("a")}


async def test_while_nothing_can_be_written_refresh_shows_what_others_wrote(seeded):
    async with faulty_bot(seeded) as bot, faulty_bot(seeded, bot="4712") as other:
        bot.backend.default = "busy"
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        for letter in "xyz":
            await other.touch(1, append(letter))
            assert await other.cycle([1]) == [None]
            await bot.touch(1, lambda _live: None)
        assert bot.data[1] == expected("xyza")
        bot.backend.default = None
        await bot.persistence.flush()
        assert users(seeded)[1] == expected("xyza")


@pytest.mark.parametrize("fault", FAULTS)
async def test_others_write_the_same_entity_while_the_outcome_is_unknown(seeded, fault):
    async with faulty_bot(seeded) as bot, faulty_bot(seeded, bot="4712") as other:
        bot.backend.plan = [fault]
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        await other.touch(1, append("x"))
        assert await other.cycle([1]) == [None]
        await bot.touch(1, append("b"))
        await bot.persistence.flush()
    found = users(seeded)[1]
    assert sorted(found["items"]) == ["a", "b", "x"]
    assert found["count"] == 3


@pytest.mark.parametrize("fault", FAULTS)
async def test_both_made_the_same_change_and_one_is_unsure_about_it(bot, path, fault):
    """0 -> 1 twice is 2, also when the first 1 was written by the commit that was cut off."""
    async with faulty_bot(path, bot="4712") as other:
        bot.backend.plan = [fault]
        await bot.touch(1, lambda live: live.update(count=1))
        await other.touch(1, lambda live: live.update(count=1))
        await bot.cycle([1])
        await other.cycle([1])
        await bot.persistence.flush()
    assert users(path) == {1: {"count": 2}}


@pytest.mark.parametrize("seed", range(15))
async def test_random_faults_lose_nothing_and_repeat_nothing(seeded, seed):
    chance, number = random.Random(seed), 0
    async with faulty_bot(seeded) as first, faulty_bot(seeded, bot="4712") as second:
        made = {1: [], 2: []}
        for _ in range(40):
            bot = chance.choice([first, second])
            bot.backend.plan = [chance.choice([None, None, *FAULTS]) for _ in range(chance.randrange(3))]
            touched = chance.sample([1, 2], chance.randint(1, 2))
            for user in touched:
                number += 1
                await bot.touch(user, append(number))
                made[user].append(number)
            if chance.random() < 0.8:
                await bot.cycle(touched)
            if chance.random() < 0.2:
                with contextlib.suppress(DatabaseError):
                    await bot.persistence.flush()
        for bot in (first, second, first):
            bot.backend.plan = []
            await bot.persistence.flush()
    found = users(seeded)
    for user, items in made.items():
        assert sorted(found[user]["items"]) == items
        assert found[user]["count"] == len(items)


# --- cancelled ---


@pytest.mark.parametrize("ptb_waits", [True, False])
async def test_cancelled_at_every_await(path, ptb_waits):
    letters = []
    async with faulty_bot(path) as bot:
        for steps in range(30):
            letters.append(steps)
            await bot.touch(1, append(steps))
            task = (
                asyncio.ensure_future(bot.cycle([1])) if ptb_waits else asyncio.ensure_future(bot.persistence.flush())
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await bot.persistence.flush()
    assert users(path) == {1: expected(letters)}


async def test_refresh_cancelled_at_every_await(seeded):
    async with faulty_bot(seeded) as bot, faulty_bot(seeded, bot="4712") as other:
        for steps in range(30):
            await other.touch(1, append(steps))
            assert await other.cycle([1]) == [None]
            task = asyncio.ensure_future(bot.touch(1, lambda _live: None))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await bot.touch(1, append("end"))
        await bot.persistence.flush()
    assert users(seeded)[1] == expected([*range(30), "end"])


async def test_start_cancelled_at_every_await(path):
    for steps in range(25):
        backend_bot = faulty_bot(path, bot=f"{steps}", share=())
        task = asyncio.ensure_future(backend_bot.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await backend_bot.__aexit__(None, None, None)
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        assert await bot.cycle([1]) == [None]
    check_file(path)


# --- half-way ---


class Broken(engine.EngineConnection):
    """Fails at the statement of a commit that it is told; ``after``: when the statement has been carried out."""

    at = None
    after = False
    seen = 0
    what = "disk I/O error"

    def execute(self, sql, parameters=(), /):
        if not isinstance(sql, str) or Broken.at is None or sql.startswith("PRAGMA synchronous"):
            return super().execute(sql, parameters)
        return self._counted(lambda: super(Broken, self).execute(sql, parameters), sql)

    statement = execute

    def executemany(self, sql, rows, /):
        if Broken.at is None:
            return super().executemany(sql, rows)
        rows = list(rows)

        def half():
            super(Broken, self).executemany(sql, rows[: len(rows) // 2])
            raise sqlite3.OperationalError(Broken.what)

        return (
            half()
            if Broken.seen == Broken.at - 1 and not Broken.after
            else self._counted(lambda: super(Broken, self).executemany(sql, rows), sql)
        )

    def _counted(self, run, sql):
        Broken.seen += 1
        is_now = Broken.seen == Broken.at
        if is_now and not Broken.after:
            raise sqlite3.OperationalError(Broken.what)
        result = run()
        if is_now and Broken.after:
            raise sqlite3.OperationalError(Broken.what)
        return result


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(engine, "EngineConnection", Broken)
    monkeypatch.setattr(Broken, "at", None)
    monkeypatch.setattr(Broken, "after", False)
    monkeypatch.setattr(Broken, "seen", 0)
    return monkeypatch


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("disk I/O error", False),
        ("disk I/O error", True),
        ("database or disk is full", False),
        ("database is locked", False),
    ],
)
async def test_a_commit_that_breaks_at_each_of_its_statements(path, broken, what, after):
    broken.setattr(Broken, "what", what)
    broken.setattr(Broken, "after", after)
    letters, failed = [], 0
    async with faulty_bot(path) as bot:
        for statement in range(1, 30):
            letters.append(statement)
            for user in (1, 2, 3):
                await bot.touch(user, append(statement))
            if statement % 3 == 0:
                bot.persistence.drop_user_data(9).close()
            elif statement % 3 == 1:
                bot.data[9] = {"number": statement}
                bot.persistence.update_user_data(9, bot.data[9]).close()
            broken.setattr(Broken, "seen", 0)
            broken.setattr(Broken, "at", statement)
            outcomes = await bot.cycle([1, 2, 3])
            broken.setattr(Broken, "at", None)
            found = users(path)
            present = {len(found.get(user, {}).get("items", ())) for user in (1, 2, 3)}
            assert len(present) == 1, "a commit is there whole or not at all"
            failed += any(outcomes)
        # What is busy is tried again at once.
        assert failed == 0 if what == "database is locked" else failed > 5
        await bot.persistence.flush()
    check_file(path)
    assert {user: data for user, data in users(path).items() if user < 9} == dict.fromkeys((1, 2, 3), expected(letters))


async def test_a_rollback_that_fails_too(path, broken):
    class NoRollback(Broken):
        def execute(self, sql, parameters=(), /):
            if sql == "ROLLBACK" and Broken.at is not None:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, parameters)

        statement = execute

    broken.setattr(engine, "EngineConnection", NoRollback)
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        broken.setattr(Broken, "at", 5)
        assert any(await bot.cycle([1]))
        broken.setattr(Broken, "at", None)
        await bot.touch(1, append("b"))
        await bot.cycle([1])
        await bot.persistence.flush()
    assert users(path) == {1: expected("ab")}


# --- the end of the process ---


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fault_at_end", [None, *FAULTS])
async def test_what_is_pending_at_the_end_is_saved_or_rescued(path, fault, fault_at_end):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        bot.backend.plan = [fault]
        await bot.touch(1, append("b"))
        await bot.cycle([1])
        await bot.touch(1, append("c"))
        bot.backend.plan, bot.backend.default = [], fault_at_end
        bot.keeper.finish()
        assert bool(rescue_files(path.parent)) is (fault_at_end is not None)
    async with faulty_bot(path) as again:
        assert again.data == {1: expected("abc")}
    assert users(path) == {1: expected("abc")}
    assert rescue_files(path.parent) == []


async def test_the_end_saves_what_it_can_though_ptb_cannot_be_asked(path):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))

        def refuse():
            raise RuntimeError("on purpose")

        bot.keeper.host.collect = refuse
        bot.keeper.finish()
    assert users(path) == {1: expected("a")}


async def test_a_child_never_saves_what_is_its_parents(path, monkeypatch):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        with monkeypatch.context() as patched:
            patched.setattr(process, "pid", process.pid + 1)
            bot.keeper.finish()
        assert users(path) == {}
        bot.keeper.finish()
    assert users(path) == {1: expected("a")}


async def test_whatever_goes_wrong_at_the_end_there_is_a_rescue_file(path, monkeypatch):
    async with faulty_bot(path) as bot:
        await bot.touch(1, append("a"))
        await bot.cycle([1])
        await bot.touch(1, append("b"))

        def refuse(*_arguments):
            raise RuntimeError("on purpose")

        monkeypatch.setattr(bot.backend._backend.blocking().__class__, "perform", refuse)
        bot.keeper.finish()
        monkeypatch.undo()
    assert len(rescue_files(path.parent)) == 1
    async with faulty_bot(path) as bot:
        assert bot.data == {1: expected("ab")}


async def test_a_database_that_stays_busy_is_waited_for_once(path):
    """PTB asks three times while it stops, and the process three more; nobody waits that long."""
    waits = []
    async with faulty_bot(path) as bot:
        perform = bot.backend.perform

        async def watched(request, timeout=None):
            waits.append(timeout)
            return await perform(request, timeout)

        bot.backend.perform = watched
        bot.backend.plan = ["busy", "busy", None]
        for letter in "abcd":
            await bot.touch(1, append(letter))
            waits.clear()
            await bot.cycle([1])
            assert waits[0] == {"a": None, "b": 0.5, "c": 0.5, "d": None}[letter]


async def test_a_commit_that_is_under_way_when_the_process_ends(path):
    for pause in (0.0, 0.005, 0.02):
        async with faulty_bot(path) as bot:
            bot.backend.pause = pause
            before = bot.data.get(1, {}).get("count", 0)
            await bot.touch(1, append(pause))
            cycle = asyncio.ensure_future(bot.cycle([1]))
            await asyncio.sleep(0.005)
            bot.keeper.finish()
            await cycle
            assert users(path)[1]["count"] == before + 1


def test_the_helpers_leave_nothing_behind(path):
    async def leave_pending():
        async with faulty_bot(path) as bot:
            await bot.touch(1, append("a"))
            return bot

    bot = asyncio.run(leave_pending())
    assert isinstance(bot, Bot)
    forget(bot.persistence)
    bot.keeper.finish()
    assert users(path) == {}


def test_every_fault_is_an_error_of_the_package():
    assert issubclass(DatabaseError, KVPersistenceError)
