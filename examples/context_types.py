"""Custom context types: user_data is a dataclass, chat_data a class of one's own.

A guessing game. Each player has a `Player`, each chat a `Scoreboard`. Both come back after a restart as what they were,
and a game goes on in the middle.

    python examples/context_types.py                     # a chat on the terminal, no token needed
    BOT_TOKEN=123:ABC python examples/context_types.py   # the same on Telegram
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from telegram import Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackContext,
    CommandHandler,
    ContextTypes,
    ExtBot,
    MessageHandler,
    filters,
)

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.server.console import Example

LOWEST, HIGHEST = 1, 100


@dataclass
class Player:
    """What is known about a user; dataclasses are stored without being registered."""

    games: int = 0
    best: int | None = None
    secret: int | None = None
    guesses: list[int] = field(default_factory=list)


class Scoreboard:
    """What is known about a chat. A plain class like this one is registered with ``types=``."""

    def __init__(self) -> None:
        self.wins: dict[str, int] = {}

    def won(self, name: str) -> None:
        """Count a win."""
        self.wins[name] = self.wins.get(name, 0) + 1

    def __str__(self) -> str:
        ranking = sorted(self.wins.items(), key=lambda win: (-win[1], win[0]))
        return ", ".join(f"{name}: {wins}" for name, wins in ranking) or "nobody has won yet"


class Context(CallbackContext[ExtBot[None], Player, Scoreboard, dict[Any, Any]]):
    """A context with shortcuts; handlers get it typed."""

    @property
    def player(self) -> Player:
        """The one who wrote."""
        return self.user_data

    @property
    def scoreboard(self) -> Scoreboard:
        """That of the chat."""
        return self.chat_data


async def play(update: Update, context: Context) -> None:
    """Begin a game, unless one is going on."""
    player = context.player
    if player.secret is not None:
        await update.message.reply_text(f"Your game goes on: {len(player.guesses)} guesses so far.")
        return
    player.secret = random.randint(LOWEST, HIGHEST)  # noqa: S311 - a game
    player.guesses = []
    await update.message.reply_text(f"I think of a number from {LOWEST} to {HIGHEST}. Which one is it?")


async def guess(update: Update, context: Context) -> None:
    """Compare a guess with the secret number."""
    player = context.player
    if player.secret is None:
        await update.message.reply_text("/play begins a game.")
        return
    number = int(update.message.text)
    player.guesses.append(number)
    if number != player.secret:
        await update.message.reply_text("Higher!" if number < player.secret else "Lower!")
        return
    used = len(player.guesses)
    player.games += 1
    player.best = used if player.best is None else min(player.best, used)
    player.secret = None
    context.scoreboard.won(update.effective_user.first_name)
    await update.message.reply_text(f"Yes, with {used} guesses! Your best: {player.best}, in games: {player.games}.")


async def scores(update: Update, context: Context) -> None:
    """Show who has won in this chat."""
    await update.message.reply_text(f"Wins: {context.scoreboard}")


def main() -> None:
    """Run the bot."""
    example = Example("context_types.db", description=__doc__)
    context_types = ContextTypes(context=Context, user_data=Player, chat_data=Scoreboard)
    persistence = KVPersistence(
        example.database, update_interval=1, context_types=context_types, types=[Player, Scoreboard]
    )
    builder = example.connect(ApplicationBuilder()).persistence(persistence).context_types(context_types)
    application: Application[Any, Context, Player, Scoreboard, dict[Any, Any], Any] = builder.build()
    application.add_handler(CommandHandler(["start", "play"], play))
    application.add_handler(CommandHandler("scores", scores))
    application.add_handler(MessageHandler(filters.Regex(r"^\d+$"), guess))
    example.run(application)


if __name__ == "__main__":
    main()
