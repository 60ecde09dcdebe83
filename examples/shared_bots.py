"""Two bots that share what they know about their users.

The shop and the desk keep user_data together: what one bot learns, the other one knows at the next message. Both may
change the same user at the same time, and nothing is lost: points are added up by the policy "sum", and the lists of
purchases are joined by a policy of our own.

    python examples/shared_bots.py             # both in one process, a chat on the terminal: @shop /buy, @desk /points
    python examples/shared_bots.py shop        # or each in a process of its own, on the same database
    BOT_TOKEN_SHOP=123:ABC BOT_TOKEN_DESK=456:DEF python examples/shared_bots.py   # the same on Telegram
"""

from __future__ import annotations

from typing import Any

from telegram import Update
from telegram.ext import Application, ApplicationBuilder, CommandHandler, ContextTypes

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.server.console import Example

Context = ContextTypes.DEFAULT_TYPE


async def buy(update: Update, context: Context) -> None:
    """Buy something for ten points; both bots can do it."""
    item = " ".join(context.args or ()) or "something"
    context.user_data["points"] = context.user_data.get("points", 0) + 10
    context.user_data.setdefault("purchases", []).append(f"{item} ({context.bot.first_name})")
    await update.message.reply_text(f"You bought {item}. Points: {context.user_data['points']}")


async def points(update: Update, context: Context) -> None:
    """Tell what both bots know."""
    purchases = ", ".join(context.user_data.get("purchases", [])) or "nothing"
    await update.message.reply_text(f"Points: {context.user_data.get('points', 0)}. You bought: {purchases}.")


async def note(update: Update, context: Context) -> None:
    """Keep something in chat_data, which is each bot's own."""
    context.chat_data.setdefault("notes", []).extend(context.args or ())
    await update.message.reply_text(f"Only I know: {', '.join(context.chat_data['notes']) or 'nothing'}")


def joined(base: list[str] | None, ours: list[str] | None, theirs: list[str] | None) -> list[str]:
    """Merge two lists that both bots appended to: what the other one has, then what is new here."""
    return (theirs or []) + (ours or [])[len(base or []) :]


def build(example: Example, bot: str) -> Application[Any, Any, Any, Any, Any, Any]:
    """Build one of the two bots."""
    persistence = KVPersistence(
        example.database,
        update_interval=1,
        bot=bot,  # what is not shared is kept under this name
        share=("user_data",),
        merge={"user_data.*.points": "sum", "user_data.*.purchases": joined},
    )
    application = example.connect(ApplicationBuilder(), bot).persistence(persistence).build()
    application.add_handler(CommandHandler("buy", buy))
    application.add_handler(CommandHandler(["start", "points"], points))
    application.add_handler(CommandHandler("note", note))
    return application


def main() -> None:
    """Run the bots that the command line names, by default both."""
    example = Example("shared.db", bots=("shop", "desk"), description=__doc__)
    example.run(*(build(example, bot) for bot in example.bots))


if __name__ == "__main__":
    main()
