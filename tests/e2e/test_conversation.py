"""``examples/conversation.py``: killed at every point of the conversation, it goes on."""

from __future__ import annotations

import json
import random
import sys
import time

import pytest

TOKEN = "4711:conversation"

# What Alice says, what she is told, and which states are then stored, of the outer and the inner conversation.
STEPS = [
    ("/start", "Hello! What is your name?", "name", None),
    ("Ada", "Nice to meet you, Ada. /pet, /show or /done?", "menu", None),
    ("/pet", "What kind of animal is it?", "menu", "kind"),
    ("cat", "What is the cat called?", "menu", "called"),
    ("Tom", "Tom the cat, noted. /pet, /show or /done?", "menu", None),
    ("/show", "You are Ada, with Tom the cat.", "menu", None),
    ("/pet", "What kind of animal is it?", "menu", "kind"),
    ("dog", "What is the dog called?", "menu", "called"),
    ("Rex", "Rex the dog, noted. /pet, /show or /done?", "menu", None),
    ("/done", "You are Ada, with Tom the cat, Rex the dog. Goodbye! /start begins again.", None, None),
    ("/start", "Welcome back, Ada. /pet, /show or /done?", "menu", None),
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


def talk(alice, bot, rows, step, *, until_saved=True):
    text, answer, outer, inner = step
    assert alice.ask(text, 20).text == answer
    if until_saved:
        rows.wait(f"ptb:conversations:{bot.id}", lambda _: states(rows, bot, alice) == (outer, inner))


@pytest.mark.slow
@pytest.mark.parametrize("kills", [{0, 3, 6}, {1, 4, 7}, {2, 5, 8}, {9}], ids=str)
def test_killed_after_these_steps_it_goes_on(start, alice, bot, rows, kills):
    process = start()
    for number, step in enumerate(STEPS):
        talk(alice, bot, rows, step)
        if number in kills:
            process.restart()
    bot.wait_until_idle()


@pytest.mark.slow
def test_what_is_sent_while_the_bot_is_dead_is_answered_afterwards(start, alice, bot, rows):
    process = start()
    for step in STEPS[:3]:
        talk(alice, bot, rows, step)
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
    for round_ in range(6):
        for text in ("/start", "Ada", "/pet", f"kind{round_}", f"name{round_}", "/pet", f"next{round_}"):
            alice.send(text)
            time.sleep(chosen.choice([0, 0.05, 0.3]))
        bot.wait_until_idle(20)
        time.sleep(chosen.uniform(0, 1.2))
        process.kill()
        outer, inner = states(rows, bot, alice)
        data = rows.read(f"ptb:user_data:{bot.id}").get(str(alice.id), {})
        seen.add((outer, inner))
        assert (outer == "menu") <= ("name" in data)
        assert (inner == "called") == ("new_pet" in data)
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
    assert rows.read(f"ptb:user_data:{bot.id}") == {str(alice.id): {"name": "Ada", "new_pet": {"kind": "cat"}}}
    process.start()
    talk(alice, bot, rows, STEPS[4])


def test_without_its_database_it_knows_nothing(start, alice, bot, rows):
    """The control: what comes back in the other tests does come from the file."""
    process = start()
    for step in STEPS[:3]:
        talk(alice, bot, rows, step)
    process.kill()
    for path in process.database.parent.glob("bot.db*"):
        path.unlink()
    process.start()
    alice.send("cat")
    assert alice.ask("/start", 20).text == "Hello! What is your name?"
