"""The examples without a token: a chat on the terminal, here with a pipe instead of a person."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.processes import EXAMPLES, environment


@pytest.fixture
def chat(tmp_path):
    def talk(example, *lines, arguments=()):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / example), *arguments],
            input="\n".join(lines) + "\n",
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            cwd=tmp_path,
            env=environment(BOT_DATABASE=str(tmp_path / "bot.db")),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return [line for line in done.stdout.splitlines()[1:] if not line.startswith("You:")]

    return talk


def test_a_conversation_over_two_starts(chat):
    assert chat("conversation.py", "/start", "Ada", "/pet", "cat") == [
        "Bot: Hello! What is your name?",
        "Bot: Nice to meet you, Ada. /pet, /show or /done?",
        "Bot: What kind of animal is it?",
        "Bot: What is the cat called?",
    ]
    assert chat("conversation.py", "Tom", "/show") == [
        "Bot: Tom the cat, noted. /pet, /show or /done?",
        "Bot: You are Ada, with Tom the cat.",
    ]


def test_buttons_are_pressed_by_their_number(chat):
    answers = chat("buttons.py", "/menu", "#3", "#4", "#9")
    assert "    #3 [Cake 4.10]" in answers
    assert "  (Cake added)" in answers
    assert "Bot (changed): Paid 4.10 for 1 items." in answers
    assert answers[-1] == "There is no button #9"


def test_custom_context_types(chat):
    answers = chat("context_types.py", "/play", "50", "/scores")
    assert answers[1] in {"Bot: Higher!", "Bot: Lower!", "Bot: Yes, with 1 guesses! Your best: 1, in games: 1."}


def test_two_bots_are_addressed_by_name(chat):
    assert chat("shared_bots.py", "@desk /note a", "@shop /note", "@nobody hello", "/note b") == [
        "Desk: Only I know: a",
        "Shop: Only I know: nothing",
        "There is no bot @nobody, but @shop_bot, @desk_bot",
        "Shop: Only I know: b",
    ]
    assert chat("shared_bots.py", "/note", arguments=["desk"]) == ["Desk: Only I know: a"]


def test_an_unknown_bot_on_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "shared_bots.py"), "nobody"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert "there is no bot 'nobody', but shop, desk" in done.stderr
