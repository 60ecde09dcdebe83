"""One cycle of PTB is one commit; drops and what comes after them; a failed commit is kept, retried and told once."""

from __future__ import annotations

import asyncio
import sys

import pytest
from telegram.ext import MessageHandler, filters

from ptb_kvpersistence import DatabaseError, KVPersistence
from ptb_kvpersistence.errors import BusyError, DatabaseFullError
from ptb_kvpersistence.persistence.cycle import Ticket
from tests.ptb.offline import FaultyCommits

pytestmark = pytest.mark.everywhere

USERS, CHATS, BOT = "ptb:user_data:1001", "ptb:chat_data:1001", "ptb:bot_data:1001"


def put(**values):
    """An action that keeps values in all three sections."""

    def action(_, context):
        for data in (context.user_data, context.chat_data, context.bot_data):
            data.update(values)

    return action


async def busy_cycle(bot, count=10):
    for number in range(count):
        await bot.say("x", put(number=number), user=number + 1, chat=number + 1)


# --- one commit ---


async def test_one_cycle_is_one_commit(start_bot, witness):
    bot = await start_bot()
    await busy_cycle(bot)
    assert witness.commits() == 0
    await bot.save()
    assert witness.commits() == 1
    assert len(witness.values(USERS)) == len(witness.values(CHATS)) == 10
    await busy_cycle(bot, 5)
    await bot.save()
    assert witness.commits() == 2
    await bot.stop()
    assert witness.commits() == 2, "nothing was left to save"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_one_commit_under_an_eager_task_factory_too(start_bot, witness):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    bot = await start_bot()
    await busy_cycle(bot)
    await bot.save()
    assert witness.commits() == 1
    assert len(witness.values(USERS)) == 10


async def test_a_cycle_without_changes_makes_no_commit(start_bot, witness):
    bot = await start_bot()
    await busy_cycle(bot)
    await bot.save()
    head = witness.head()
    await busy_cycle(bot)
    for _ in range(3):
        await bot.save()
    assert (witness.commits(), witness.head()) == (1, head)
    assert bot.persistence.pending == 0


async def test_unchanged_bot_data_is_not_written_again(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.bot_data.update(a=1))
    await bot.save()
    version = witness.versions()[BOT, "data"]
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    assert witness.versions()[BOT, "data"] == version
    await bot.say("x", lambda _, context: context.bot_data.update(a=2))
    await bot.save()
    assert witness.versions()[BOT, "data"] > version


async def test_only_what_changed_is_written(start_bot, witness):
    bot = await start_bot()
    await busy_cycle(bot, 20)
    await bot.save()
    before = witness.versions()
    await bot.say("x", lambda _, context: context.user_data.update(new=1), user=3, chat=3)
    await bot.save()
    changed = {place for place, version in witness.versions().items() if before.get(place) != version}
    assert changed == {(USERS, "3")}


async def test_an_emptied_dict_stays_as_an_empty_entry_and_an_untouched_one_too(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    await bot.say("x", lambda _, context: context.user_data.clear())
    await bot.save()
    assert witness.values(USERS) == {"42": {}}
    assert witness.values(CHATS) == {"7": {}}


async def test_an_edit_during_the_commit_is_saved_by_the_next(start_bot, witness):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)

    async def edit(_request):
        faulty.before = None
        await bot.say("x", lambda _, context: context.user_data.update(b=2))

    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    faulty.before = edit
    await bot.save()
    assert witness.values(USERS) == {"42": {"a": 1}}
    await bot.save()
    assert witness.values(USERS) == {"42": {"a": 1, "b": 2}}


async def test_cycles_that_overlap_lose_nothing(start_bot, witness):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    gate = asyncio.Event()

    async def wait(_request):
        await gate.wait()

    faulty.before = wait
    persistence = bot.persistence
    cycles = []
    for value in (1, 2):
        cycles.append(persistence.update_user_data(1, {"a": value}))
        cycles.append(persistence.update_bot_data({"n": 1}))
        await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*cycles)
    assert witness.values(USERS) == {"1": {"a": 2}}
    assert witness.values(BOT) == {"data": {"n": 1}}
    assert persistence.pending == 0


async def test_a_change_and_its_undoing_during_a_commit_end_as_memory_has_it(start_bot, witness):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    persistence = bot.persistence
    await persistence.update_user_data(1, {"a": 0})

    async def undo(_request):
        faulty.before = None
        undoing.append(asyncio.ensure_future(persistence.update_user_data(1, {"a": 0})))

    undoing = []
    faulty.before = undo
    await persistence.update_user_data(1, {"a": 1})
    await asyncio.gather(*undoing)
    assert witness.values(USERS) == {"1": {"a": 0}}


async def test_cancelling_an_update_does_not_stop_the_commit(start_bot, witness):
    bot = await start_bot()
    task = asyncio.ensure_future(bot.persistence.update_user_data(1, {"a": 1}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bot.persistence.update_user_data(2, {"a": 1})
    assert set(witness.values(USERS)) == {"1", "2"}


# --- one task waits for many ---


async def test_a_round_of_many_entities_waits_in_two_tasks(start_bot, witness):
    bot = await start_bot()
    await busy_cycle(bot)
    waiting = []

    def make_task(loop, coroutine, **options):
        if isinstance(coroutine, Ticket):
            waiting.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make_task)
    await bot.save()
    asyncio.get_running_loop().set_task_factory(None)
    assert len(waiting) == 2
    assert len(witness.values(USERS)) == len(witness.values(CHATS)) == 10


async def test_equal_are_those_that_wait_for_the_same_commit_and_have_no_error_of_their_own(start_bot):
    persistence = (await start_bot()).persistence
    first, second, third = (persistence.update_user_data(user, {"a": 1}) for user in (1, 2, 3))
    wrong, worse = (persistence.update_user_data(user, {"a": object()}) for user in (4, 5))
    assert second == third
    assert len({first, second, third}) == 2
    assert len({first, second, wrong, worse}) == 4
    outcomes = await asyncio.gather(*{first, second, third, wrong, worse}, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "EncodeError",
        "EncodeError",
        "NoneType",
        "NoneType",
    ]
    earlier = (first, second, third)
    later = [persistence.update_user_data(user, {"a": 2}) for user in (1, 2, 3)]
    assert not set(later) & set(earlier)
    await asyncio.gather(*later)


async def test_equal_ones_are_awaited_apart_all_the_same(start_bot, witness):
    persistence = (await start_bot()).persistence
    updates = [persistence.update_user_data(user, {"a": 1}) for user in range(1, 5)]
    tasks = [asyncio.create_task(update) for update in updates]
    tasks[2].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "NoneType", "CancelledError", "NoneType"]
    assert len(witness.values(USERS)) == 4


async def test_a_failed_round_is_one_error_whether_it_is_gathered_as_set_or_as_list(start_bot):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    for collect in (list, set):
        faulty.failures = [DatabaseFullError("on purpose")]
        updates = collect(bot.persistence.update_user_data(user, {"as": str(collect)}) for user in range(1, 9))
        outcomes = await asyncio.gather(*updates, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [DatabaseFullError]


# --- drops ---


async def test_dropped_data_is_gone(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", put(a=1))
    await bot.save()
    bot.app.drop_user_data(42)
    bot.app.drop_chat_data(7)
    await bot.save()
    assert witness.values(USERS) == witness.values(CHATS) == {}
    await bot.stop()
    bot = await start_bot()
    assert dict(bot.app.user_data) == dict(bot.app.chat_data) == {}


async def test_dropping_what_was_never_there_is_no_error_and_no_write(start_bot, witness):
    bot = await start_bot()
    await bot.save()
    head = witness.head()
    bot.app.drop_user_data(999)
    await bot.save()
    assert (witness.head(), bot.errors) == (head, [])


@pytest.mark.parametrize("was_saved", [True, False])
async def test_new_data_after_a_drop_in_the_same_cycle_is_kept(start_bot, witness, was_saved):
    """PTB then reports the drop alone."""
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(old=1))
    if was_saved:
        await bot.save()
    bot.app.drop_user_data(42)
    await bot.say("x", lambda _, context: context.user_data.update(new=1))
    await bot.save()
    assert witness.values(USERS) == {"42": {"new": 1}}
    await bot.stop()
    bot = await start_bot()
    assert dict(bot.app.user_data) == {42: {"new": 1}}


async def test_new_data_after_a_drop_in_the_same_handler_is_kept(start_bot, witness):
    async def reset(update, context):
        context.application.drop_user_data(42)
        context.user_data["new"] = 1

    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(old=1))
    await bot.save()
    await bot.say("reset", reset)
    await bot.stop()
    assert witness.values(USERS) == {"42": {"new": 1}}


async def test_new_data_after_a_drop_is_kept_without_an_application_too(location, witness):
    """A persistence that somebody else drives sees it by the new object that refresh hands over."""
    persistence = KVPersistence(location, bot=1001)
    old, new = {"old": 1}, {}
    await persistence.refresh_user_data(1, old)
    await persistence.update_user_data(1, old)
    await persistence.refresh_user_data(1, new)
    new["new"] = 1
    await persistence.drop_user_data(1)
    assert witness.values(USERS) == {"1": {"new": 1}}
    await persistence.drop_user_data(1)
    assert witness.values(USERS) == {}
    await persistence.flush()
    assert witness.values(USERS) == {}


async def test_dropped_data_does_not_return_by_a_later_touch(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(secret=1))
    await bot.save()
    bot.app.drop_user_data(42)
    await bot.save()
    await bot.say("x")
    await bot.say("x", lambda _, context: context.user_data.update(new=1))
    await bot.stop()
    assert witness.values(USERS) == {"42": {"new": 1}}


async def test_two_drops_with_data_between(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.user_data.update(first=1))
    bot.app.drop_user_data(42)
    await bot.say("x", lambda _, context: context.user_data.update(second=1))
    bot.app.drop_user_data(42)
    await bot.save()
    await bot.stop()
    assert witness.values(USERS) == {}


async def test_a_migrated_chat_takes_its_data_along(start_bot, witness):
    bot = await start_bot()
    await bot.say("x", lambda _, context: context.chat_data.update(a=1))
    await bot.save()
    bot.app.migrate_chat_data(old_chat_id=7, new_chat_id=-100)
    await bot.save()
    assert witness.values(CHATS) == {"-100": {"a": 1}}
    await bot.say("x", lambda _, context: context.chat_data.update(b=2), chat=-100)
    await bot.stop()
    bot = await start_bot()
    assert dict(bot.app.chat_data) == {-100: {"a": 1, "b": 2}}


async def test_a_chat_migrates_in_its_own_handler(start_bot, witness):
    async def migrate(update, context):
        context.chat_data["seen"] = True
        context.application.migrate_chat_data(message=update.message)

    bot = await start_bot(handlers=[MessageHandler(filters.StatusUpdate.MIGRATE, migrate)])
    await bot.say("x", lambda _, context: context.chat_data.update(a=1), chat=-7)
    await bot.save()
    message = {**bot.message("x", user=42, chat=-7), "migrate_to_chat_id": -100}
    del message["text"]
    await bot.process(message=message)
    assert dict(bot.app.chat_data[-100]) == {"a": 1, "seen": True}
    await bot.stop()
    assert not bot.errors
    found = witness.values(CHATS)
    assert found.pop("-100") == {"a": 1, "seen": True}
    assert found in ({}, {"-7": {}})


# --- a commit that fails ---


@pytest.mark.parametrize("kind", [DatabaseError, BusyError, DatabaseFullError, RuntimeError])
async def test_a_failed_commit_is_told_once_and_made_up_for_by_the_next_cycle(start_bot, witness, kind):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    await busy_cycle(bot)
    error = kind("no luck")
    faulty.failures = [error]
    await bot.save()
    assert bot.errors == [error], "one commit failed, so one error, however many entities it had"
    assert bot.persistence.pending == 21
    assert witness.values(USERS) == {}
    await bot.save()
    assert bot.errors == [error]
    assert bot.persistence.pending == 0
    assert witness.values(USERS) == {str(number + 1): {"number": number} for number in range(10)}


async def test_each_failed_cycle_is_told_once(start_bot, witness):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    await busy_cycle(bot, 3)
    faulty.failures = errors = [BusyError(f"{number}") for number in range(3)]
    expected = list(errors)
    for _ in expected:
        await bot.say("x", put(a=1))
        await bot.save()
    assert bot.errors == expected
    await bot.stop()
    assert len(witness.values(USERS)) == 4


async def test_a_failed_commit_is_tried_again_without_ptb(start_bot, witness, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.persistence.keeper.FIRST_RETRY", 0.01)
    bot = await start_bot()
    bot.persistence._keeper._retry_pause = 0.01
    FaultyCommits(bot.persistence).failures = [BusyError("1"), BusyError("2")]
    await bot.say("x", put(a=1))
    await bot.save()
    assert bot.persistence.pending == 3
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if not bot.persistence.pending:
            break
    assert witness.values(USERS) == {"42": {"a": 1}}
    assert [str(error) for error in bot.errors] == ["1"]


async def test_a_commit_whose_outcome_is_unknown_is_not_applied_twice(start_bot, witness):
    """The connection broke after the commit: it counts once, and what came later is kept."""
    bot = await start_bot(options={"merge": {"user_data.*.visits": "sum"}})
    faulty = FaultyCommits(bot.persistence)
    await bot.say("x", lambda _, context: context.user_data.update(visits=1, log=["a"]))

    async def cut(_request):
        faulty.after = None
        message = "cut"
        raise DatabaseError(message)

    faulty.after = cut
    await bot.save()
    assert [str(error) for error in bot.errors] == ["cut"]
    assert witness.values(USERS) == {"42": {"visits": 1, "log": ["a"]}}
    await bot.say("x", lambda _, context: context.user_data.update(visits=2, log=["a", "b"]))
    await bot.save()
    assert witness.values(USERS) == {"42": {"visits": 2, "log": ["a", "b"]}}
    assert bot.persistence.pending == 0


async def test_what_failed_at_the_end_is_told_and_saved_when_possible(start_bot, witness):
    bot = await start_bot()
    faulty = FaultyCommits(bot.persistence)
    await bot.say("x", put(a=1))
    faulty.failures = [BusyError("update"), BusyError("flush")]
    with pytest.raises(BusyError, match="flush"):
        await bot.app.shutdown()
    assert bot.persistence.pending == 3
    await bot.persistence.flush()
    assert witness.values(USERS) == {"42": {"a": 1}}


async def test_the_failure_says_how_much_is_pending_and_never_a_value(start_bot, caplog):
    bot = await start_bot()
    FaultyCommits(bot.persistence).failures = [BusyError("locked")]
    await bot.say("x", put(password="hunter2"))
    await bot.save()
    (record,) = [record for record in caplog.records if record.name.startswith("ptb_kvpersistence")]
    assert record.getMessage() == "saving failed, 3 entities stay pending and are tried again: locked"
    assert "hunter2" not in caplog.text
