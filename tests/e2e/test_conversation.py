"""``examples/conversation.py``: killed at every point of the conversation, it goes on."""

from __future__ import annotations

import json
import random
import sys
import time

import pytest

TOKEN = "4711:conversation"

ADA, TOM, REX = {"name": "Ada"}, {"kind": "cat", "name": "Tom"}, {"kind": "dog", "name": "Rex"}

# What Alice says, what she is told, and what is stored then: the states of the two conversations, and her data.
STEPS = [
    ("/start", "Hello! What is your name?", "name", None, {}),
    ("Ada", "Nice to meet you, Ada. /pet, /show or /done?", "menu", None, ADA),
    ("/pet", "What kind of animal is it?", "menu", "kind", ADA),
    ("cat", "What is the cat called?", "menu", "called", {**ADA, "new_pet": {"kind": "cat"}}),
    ("Tom", "Tom the cat, noted. /pet, /show or /done?", "menu", None, {**ADA, "pets": [TOM]}),
    ("/show", "You are Ada, with Tom the cat.", "menu", None, {**ADA, "pets": [TOM]}),
    ("/pet", "What kind of animal is it?", "menu", "kind", {**ADA, "pets": [TOM]}),
    ("dog", "What is the dog called?", "menu", "called", {**ADA, "pets": [TOM], "new_pet": {"kind": "dog"}}),
    ("Rex", "Rex the dog, noted. /pet, /show or /done?", "menu", None, {**ADA, "pets": [TOM, REX]}),
    (
        "/done",
        "You are Ada, with Tom the cat, Rex the dog. Goodbye! /start begins again.",
        None,
        None,
        {**ADA, "pets": [TOM, REX]},
    ),
    ("/start", "Welcome back, Ada. /pet, /show or /done?", "menu", None, {**ADA, "pets": [TOM, REX]}),
]


@pytest.fixture
def bot(server):
    return server.add_bot(TOKEN, first_name="Profile")


@pytest.fixture
def start(run, bot):
    return lambda: run("conversation.py", {"BOT_TOKEN": TOKEN})


def states(rows, bot, alice):
    """The stored states of the outer and the inner conversation."""
    stored = rows.read(f"ptb:conversations:{bot.id}")
    return tuple(
        stored.get(json.dumps([name, [alice.id, alice.id]], separators=(",", ":"))) for name in ("profile", "pets")
    )


def data(rows, bot, alice):
    """The stored user_data of Alice."""
    return rows.read(f"ptb:user_data:{bot.id}").get(str(alice.id), {})


def talk(alice, bot, rows, step, *, until_saved):
    text, answer, *states_, wanted = step
    assert alice.ask(text, 20).text == answer
    if until_saved:
        rows.wait(
            f"ptb:conversations:{bot.id}",
            lambda _: states(rows, bot, alice) == tuple(states_) and data(rows, bot, alice) == wanted,
        )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [{0, 3, 6}, {1, 4, 7}, {2, 5, 8}, {9}], ids=str)
def test_killed_after_these_steps_it_goes_on(start, alice, bot, rows, kills):
    process = start()
    for number, step in enumerate(STEPS):
        talk(alice, bot, rows, step, until_saved=number in kills)
        if number in kills:
            process.restart()


@pytest.mark.slow
def test_what_is_sent_while_the_bot_is_dead_is_answered_afterwards(start, alice, bot, rows):
    process = start()
    for step in STEPS[:3]:
        talk(alice, bot, rows, step, until_saved=step is STEPS[2])
    process.kill()
    alice.send("cat")
    alice.send("Tom")
    process.start()
    assert [alice.receive(20).text for _ in range(2)] == [STEPS[3][1], STEPS[4][1]]
    assert alice.ask("/show").text == "You are Ada, with Tom the cat."


@pytest.mark.slow
def test_killed_at_any_moment_state_and_data_fit_together(start, alice, bot, rows):
    """Nothing is awaited here: what is on disk may be old, but never half."""
    process = start()
    chosen = random.Random(20)
    seen = set()
    for round_ in range(5):
        for text in ("/start", "Ada", "/pet", f"kind{round_}", f"name{round_}", "/pet", f"next{round_}"):
            alice.send(text)
            time.sleep(chosen.choice([0, 0.05, 0.3]))
        bot.wait_until_idle(20)
        if round_ < 4:
            time.sleep(chosen.uniform(0, 1.2))
        else:  # once, what is looked for below is really there
            rows.wait(f"ptb:conversations:{bot.id}", lambda _: states(rows, bot, alice) == ("menu", "called"))
        process.kill()
        outer, inner = states(rows, bot, alice)
        known = data(rows, bot, alice)
        seen.add((outer, inner))
        assert (outer == "menu") <= ("name" in known)
        assert (inner == "called") == ("new_pet" in known)
        process.start()
        bot.wait_until_idle(20)
    assert ("menu", "called") in seen


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM that a process could answer")
def test_asked_to_stop_it_saves_everything_and_ends(start, alice, bot, rows):
    process = start()
    for step in STEPS[:4]:
        talk(alice, bot, rows, step, until_saved=False)
    assert process.stop() == 0
    assert states(rows, bot, alice) == ("menu", "called")
    assert data(rows, bot, alice) == {"name": "Ada", "new_pet": {"kind": "cat"}}
    process.start()
    talk(alice, bot, rows, STEPS[4], until_saved=True)


def test_without_its_database_it_knows_nothing(start, database, alice, bot, rows):
    """The control: what comes back in the other tests does come from the database."""
    process = start()
    for step in STEPS[:3]:
        talk(alice, bot, rows, step, until_saved=step is STEPS[2])
    process.kill()
    database.wipe()
    process.start()
    alice.send("cat")
    assert alice.ask("/start", 20).text == "Hello! What is your name?"
