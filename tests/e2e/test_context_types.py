"""``examples/context_types.py``: a dataclass and a class of one's own come back as what they were."""

from __future__ import annotations

import pytest

TOKEN = "4713:game"


@pytest.fixture
def bot(server):
    return server.add_bot(TOKEN, first_name="Game")


def guesses(stored, alice):
    """The guesses in the stored dataclass, None when there is none yet."""
    value = stored.get(str(alice.id))
    return None if value is None else value["$dataclass"][1]["guesses"]


def wins(stored, alice):
    """What the stored object of a registered class holds, None when there is none yet."""
    value = stored.get(str(alice.id))
    return None if value is None else value["$object"][1]["wins"]


@pytest.mark.slow
def test_a_game_goes_on_after_kills(run, bot, alice, rows):
    process = run("context_types.py", {"BOT_TOKEN": TOKEN})
    assert alice.ask("/play", 20).text == "I think of a number from 1 to 100. Which one is it?"
    low, high, made = 1, 100, []
    while True:
        made.append((low + high) // 2)
        answer = alice.ask(str(made[-1]), 20).text
        if answer.startswith("Yes"):
            break
        low, high = (made[-1] + 1, high) if answer == "Higher!" else (low, made[-1] - 1)
        assert low <= high, "the secret number has changed"
        if len(made) in (1, 3):
            rows.wait(f"ptb:user_data:{bot.id}", lambda stored: guesses(stored, alice) == made)
            process.restart()
            assert alice.ask("/play", 20).text == f"Your game goes on: {len(made)} guesses so far."
    assert answer == f"Yes, with {len(made)} guesses! Your best: {len(made)}, in games: 1."
    rows.wait(f"ptb:chat_data:{bot.id}", lambda stored: wins(stored, alice) == {"Alice": 1})
    process.restart()
    assert alice.ask("/scores", 20).text == "Wins: Alice: 1"
    assert alice.ask("/play").text == "I think of a number from 1 to 100. Which one is it?"
