"""Conversations survive restarts, nested, non-blocking and timed ones too, and stay with the data they go with."""

from __future__ import annotations

import asyncio
import enum
import json

import pytest
from telegram import Update
from telegram.ext import ConversationHandler, MessageHandler, TypeHandler, filters

from ptb_kvpersistence import KVPersistence

pytestmark = pytest.mark.everywhere

END = ConversationHandler.END


class Step(enum.Enum):
    NAME = 1
    AGE = 2


def on(pattern, callback, **settings):
    return MessageHandler(filters.Regex(f"^{pattern}$"), callback, **settings)


def go(state, **data):
    """A callback that keeps data and moves on."""

    async def callback(update, context):
        context.user_data.update(data)
        return state

    return callback


def form(name="form", **settings):
    return ConversationHandler(
        entry_points=[on("start", go(Step.NAME, step="name"))],
        states={
            Step.NAME: [on("next", go(Step.AGE, step="age"))],
            Step.AGE: [on("end", go(END, step="done"))],
        },
        fallbacks=[on("cancel", go(END))],
        name=name,
        persistent=True,
        **settings,
    )


def stored(witness, domain="ptb:conversations:1001"):
    return {tuple(json.loads(key)[1]): value for key, value in witness.values(domain).items()}


async def test_a_conversation_goes_on_after_each_restart(start_bot, witness):
    for text, step in (("start", "name"), ("next", "age"), ("end", "done")):
        handler = form()
        bot = await start_bot(handlers=[handler])
        await bot.say(text)
        assert bot.app.user_data[42]["step"] == step
        await bot.stop()
    assert stored(witness) == {}
    assert witness.values("ptb:user_data:1001") == {"42": {"step": "done"}}


async def test_it_goes_on_after_a_crash_where_it_was_saved(start_bot):
    bot = await start_bot(handlers=[form()])
    await bot.say("start")
    await bot.save()
    await bot.crash()
    bot = await start_bot(handlers=[form()])
    await bot.say("next")
    assert bot.app.user_data[42] == {"step": "age"}


async def test_states_of_every_kind_and_key_come_back(start_bot, location):
    states = {(1, 2): 0, (1,): "text", (7, 42): Step.AGE, (9, 9): ("a", 1), ("inline", 5): None, (3, -100): 2**70}
    persistence = KVPersistence(location, bot=1001)
    for key, state in states.items():
        await persistence.update_conversation("form", key, state)
    await persistence.flush()
    again = KVPersistence(location, bot=1001)
    found = await again.get_conversations("form")
    assert found == {key: state for key, state in states.items() if state is not None}
    assert [type(state) for state in found.values()] == [int, str, Step, tuple, int]
    await again.flush()


async def test_several_handlers_keep_apart(start_bot, witness):
    def handlers():
        return [
            form("one"),
            form('two "quoted" ☃', per_chat=False),
            ConversationHandler(
                entry_points=[on("start", go("by chat"))],
                states={"by chat": [on("nothing", go(END))]},
                fallbacks=[],
                name="three",
                persistent=True,
                per_user=False,
            ),
        ]

    bot = await start_bot(handlers=handlers())
    await bot.say("start")
    await bot.say("next")
    await bot.say("start", user=43)
    await bot.stop()
    persistence = KVPersistence(witness.location, bot=1001)
    assert await persistence.get_conversations("one") == {(7, 42): Step.AGE, (7, 43): Step.NAME}
    assert await persistence.get_conversations('two "quoted" ☃') == {(42,): Step.AGE, (43,): Step.NAME}
    assert await persistence.get_conversations("three") == {(7,): "by chat"}
    assert await persistence.get_conversations("four") == {}
    await persistence.flush()
    bot = await start_bot(handlers=handlers())
    await bot.say("end")
    await bot.stop()
    name = {"$enum": [f"{__name__}:Step", "NAME"]}
    assert stored(witness) == {(7,): "by chat", (7, 43): name, (43,): name}


async def test_nested_conversations_with_map_to_parent(start_bot, witness):
    def nested():
        inner = ConversationHandler(
            entry_points=[on("down", go("inside", where="inside"))],
            states={"inside": [on("deeper", go("deep", where="deep"))], "deep": [on("up", go("leave", where="up"))]},
            fallbacks=[],
            map_to_parent={"leave": "outside again", END: END},
            name="inner",
            persistent=True,
        )
        return ConversationHandler(
            entry_points=[on("start", go("outside"))],
            states={"outside": [inner], "outside again": [on("bye", go(END, where="gone"))]},
            fallbacks=[],
            name="outer",
            persistent=True,
        )

    expected = [
        ("start", {"outer": "outside"}),
        ("down", {"outer": "outside", "inner": "inside"}),
        ("deeper", {"outer": "outside", "inner": "deep"}),
        ("up", {"outer": "outside again", "inner": None}),
        ("bye", {}),
    ]
    for text, states in expected:
        bot = await start_bot(handlers=[nested()])
        await bot.say(text)
        await bot.stop()
        found = {json.loads(key)[0]: value for key, value in witness.values("ptb:conversations:1001").items()}
        assert {name: state for name, state in states.items() if state} == {
            name: state for name, state in found.items() if state != "leave"
        }
    assert bot.app.user_data[42] == {"where": "gone"}


async def test_a_handler_that_still_runs_is_saved_with_its_old_state_and_later_with_the_new(start_bot, witness):
    gate = asyncio.Event()

    async def slow(update, context):
        await gate.wait()
        context.user_data["slow"] = "done"
        return Step.AGE

    handler = ConversationHandler(
        entry_points=[on("start", go(Step.NAME))],
        states={Step.NAME: [on("slow", slow, block=False)], Step.AGE: [on("end", go(END))]},
        fallbacks=[],
        name="form",
        persistent=True,
    )
    bot = await start_bot(handlers=[handler])
    await bot.app.start()
    await bot.say("start")
    await bot.save()
    await bot.say("slow")
    await bot.save()
    name, age = ({"$enum": [f"{__name__}:Step", step]} for step in ("NAME", "AGE"))
    assert stored(witness) == {(7, 42): name}
    gate.set()
    await asyncio.sleep(0.01)
    await bot.save()
    assert stored(witness) == {(7, 42): age}
    assert witness.values("ptb:user_data:1001") == {"42": {"slow": "done"}}
    await bot.stop()
    bot = await start_bot(handlers=[form()])
    await bot.say("end")
    assert bot.app.user_data[42]["step"] == "done"


async def test_a_new_conversation_whose_first_handler_still_runs_is_not_stored(start_bot, witness):
    gate = asyncio.Event()

    async def slow(update, context):
        await gate.wait()
        return END

    handler = ConversationHandler([on("start", slow, block=False)], {}, [], name="form", persistent=True)
    bot = await start_bot(handlers=[handler])
    await bot.app.start()
    await bot.say("start")
    await bot.save()
    assert stored(witness) == {}
    gate.set()
    await bot.stop()  # PTB reports the state END here, not the end
    assert stored(witness) == {}


async def test_a_conversation_that_timed_out_is_gone(start_bot, witness):
    async def on_timeout(update, context):
        context.user_data["timed out"] = True

    def timed():
        handler = form(conversation_timeout=3600)
        handler.states[ConversationHandler.TIMEOUT] = [TypeHandler(Update, on_timeout)]
        return handler

    handler = timed()
    bot = await start_bot(handlers=[handler], job_queue=True)
    await bot.app.start()
    await bot.say("start")
    await bot.save()
    assert len(stored(witness)) == 1
    await handler.timeout_jobs[7, 42].run(bot.app)
    for _ in range(1000):
        if "timed out" in bot.app.user_data[42]:
            break
        await asyncio.sleep(0.01)
    await bot.stop()
    assert stored(witness) == {}
    bot = await start_bot(handlers=[timed()], job_queue=True)
    await bot.say("next")
    assert bot.app.user_data[42] == {"step": "name", "timed out": True}


async def test_state_and_data_are_in_one_commit_though_the_handler_still_runs(start_bot, witness):
    """PTB marks the user only when process_update ends; an interval may fall in between."""
    seen = []

    async def advance(update, context):
        context.user_data["answers"] = ["Ada"]
        context.chat_data["count"] = 1
        return Step.AGE

    async def linger(update, context):
        # The conversation has moved already; PTB's interval comes before this update is done.
        await bot.save()
        seen.append((stored(witness), witness.values("ptb:user_data:1001"), witness.values("ptb:chat_data:1001")))

    handler = ConversationHandler(
        [on("start", go(Step.NAME))],
        {Step.NAME: [on("Ada", advance)], Step.AGE: []},
        [],
        name="form",
        persistent=True,
    )
    bot = await start_bot(handlers=[handler, on("Ada", linger)])
    await bot.say("start")
    await bot.save()
    before = witness.commits()
    await bot.say("Ada")
    ((states, users, chats),) = seen
    assert states == {(7, 42): {"$enum": [f"{__name__}:Step", "AGE"]}}
    assert users == {"42": {"answers": ["Ada"]}}
    assert chats == {"7": {"count": 1}}
    assert witness.commits() == before + 1


async def test_ended_conversations_leave_no_entries(start_bot, witness):
    bot = await start_bot(handlers=[form()])
    for _ in range(3):
        for text in ("start", "next", "end"):
            await bot.say(text)
            await bot.save()
    assert stored(witness) == {}
    await bot.say("start")
    await bot.say("cancel")
    await bot.save()
    assert stored(witness) == {}


async def test_a_state_that_cannot_be_stored_costs_only_itself(start_bot, witness):
    state = object()
    handler = ConversationHandler([on("start", go(state))], {state: []}, [], name="form", persistent=True)
    bot = await start_bot(handlers=[handler])
    await bot.say("start", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    assert [error.place for error in bot.errors] == ["conversations['form'][(7, 42)]"]
    assert witness.values("ptb:user_data:1001") == {"42": {"a": 1}}
    assert stored(witness) == {}


async def test_an_entry_that_is_no_conversation_key_is_left_alone(start_bot, witness):
    bot = await start_bot(handlers=[form()])
    await bot.say("start")
    await bot.stop()
    for key in ("nonsense", "[]", '["form"]', '["form",[1.5]]', "[1,[7,42]]", '["form",{"a":1}]'):
        witness.put("ptb:conversations:1001", key, "x")
    bot = await start_bot(handlers=[form()])
    await bot.say("next")
    await bot.stop()
    assert bot.app.user_data[42]["step"] == "age"
    assert len(witness.values("ptb:conversations:1001")) == 7
    assert not bot.errors


@pytest.mark.parametrize("changed_by", ["update", "deletion"])
async def test_a_conversation_changed_from_outside_is_not_merged_into(start_bot, witness, changed_by):
    """Nobody can tell a running handler; PTB's own state wins."""
    bot = await start_bot(handlers=[form()])
    await bot.say("start")
    await bot.save()
    ((domain, key),) = [place for place in witness.rows() if place[0] == "ptb:conversations:1001"]
    if changed_by == "update":
        witness.update(domain, key, "elsewhere")
    else:
        witness.delete(domain, key)
    await bot.say("next")
    await bot.save()
    assert stored(witness) == {(7, 42): {"$enum": [f"{__name__}:Step", "AGE"]}}
