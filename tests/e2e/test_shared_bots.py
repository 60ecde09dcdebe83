"""``examples/shared_bots.py``: two bots, in two processes or in one, know the same about their users."""

from __future__ import annotations

import pytest

TOKENS = {"BOT_TOKEN_SHOP": "4714:shop", "BOT_TOKEN_DESK": "4715:desk"}


@pytest.fixture
def shop(server):
    return server.add_bot(TOKENS["BOT_TOKEN_SHOP"], first_name="Shop", username="shop_bot")


@pytest.fixture
def desk(server):
    return server.add_bot(TOKENS["BOT_TOKEN_DESK"], first_name="Desk", username="desk_bot")


@pytest.fixture(params=["two processes", "one process"])
def processes(request, run, shop, desk):
    if request.param == "one process":
        return [run("shared_bots.py", TOKENS)]
    return [run("shared_bots.py", TOKENS, name) for name in ("shop", "desk")]


def points_are_saved(rows, alice, points):
    def look(stored):
        return stored.get(str(alice.id), {}).get("points") == points

    rows.wait("ptb:user_data", look)


@pytest.mark.slow
def test_what_one_bot_learns_the_other_one_knows(processes, shop, desk, alice, rows):
    assert alice.ask("/buy tea", 20, to=shop).text == "You bought tea. Points: 10"
    points_are_saved(rows, alice, 10)
    assert alice.ask("/points", 20, to=desk).text == "Points: 10. You bought: tea (Shop)."
    assert alice.ask("/buy cake", to=desk).text == "You bought cake. Points: 20"
    points_are_saved(rows, alice, 20)
    assert alice.ask("/points", to=shop).text == "Points: 20. You bought: tea (Shop), cake (Desk)."

    # chat_data is not shared.
    assert alice.ask("/note secret", to=shop).text == "Only I know: secret"
    rows.wait("ptb:chat_data:shop", lambda stored: str(alice.id) in stored)
    assert alice.ask("/note", to=desk).text == "Only I know: nothing"


@pytest.mark.slow
def test_both_at_once_lose_nothing_and_kills_change_nothing(processes, shop, desk, alice, rows):
    for bot in (shop, desk):
        bot.wait_until_idle(20)
    for number in range(5):
        for bot in (shop, desk):
            alice.send(f"/buy item{number}", to=bot)
    points_are_saved(rows, alice, 100)
    for process in processes:
        process.restart()
    bought = {f"item{number} ({name})" for number in range(5) for name in ("Shop", "Desk")}
    for bot in (shop, desk):
        answer = alice.ask("/points", 20, to=bot).text
        assert answer.startswith("Points: 100. You bought: ")
        assert set(answer.removeprefix("Points: 100. You bought: ").removesuffix(".").split(", ")) == bought
