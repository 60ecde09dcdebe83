"""The bot of the demonstration: a pizza is ordered in a conversation with inline buttons.

It is written as any bot with `KVPersistence` is, and knows nothing of being killed: that is the business of
``demo.py``.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ContextTypes,
    ConversationHandler,
    MessageHandler,
    filters,
)
from telegram.warnings import PTBUserWarning

from ptb_kvpersistence.persistence.kv import KVPersistence

NAME, PIZZA, AMOUNT, CONFIRM = "name", "pizza", "amount", "confirm"

Context = ContextTypes.DEFAULT_TYPE


@dataclass(frozen=True)
class Pizza:
    """What a button of the menu carries."""

    name: str
    price: Decimal


@dataclass(frozen=True)
class Order:
    """What the button "Yes" carries."""

    pizza: Pizza
    amount: int

    def __str__(self) -> str:
        return f"{self.amount} x {self.pizza.name} for {self.amount * self.pizza.price}"


MENU = [Pizza("Margherita", Decimal("8.90")), Pizza("Funghi", Decimal("10.50"))]


def _buttons(*buttons: tuple[str, object]) -> InlineKeyboardMarkup:
    row = [InlineKeyboardButton(text, callback_data=data) for text, data in buttons]
    return InlineKeyboardMarkup([row])


def _data(context: Context) -> dict[Any, Any]:
    assert context.user_data is not None  # noqa: S101 - every update here has a user
    return context.user_data


async def _say(update: Update, text: str, buttons: InlineKeyboardMarkup | None = None) -> None:
    assert update.effective_chat is not None  # noqa: S101 - and a chat
    await update.effective_chat.send_message(text, reply_markup=buttons)


async def order(update: Update, _: Context) -> str:
    """Begin an order."""
    await _say(update, "Welcome! What is your name?")
    return NAME


async def name(update: Update, context: Context) -> str:
    """Keep the name and show the menu."""
    assert update.message is not None  # noqa: S101 - the handler takes messages only
    _data(context)["name"] = update.message.text
    menu = _buttons(*((f"{pizza.name} {pizza.price}", pizza) for pizza in MENU))
    await _say(update, f"Hello {update.message.text}! Which pizza?", menu)
    return PIZZA


async def pizza(update: Update, context: Context) -> str:
    """Keep the pizza that the button carries."""
    query = update.callback_query
    assert query is not None  # noqa: S101 - the handler takes callback queries only
    _data(context)["pizza"] = query.data
    await query.answer()
    await _say(update, "How many?")
    return AMOUNT


async def amount(update: Update, context: Context) -> str:
    """Put the order together; the button carries it."""
    assert update.message is not None  # noqa: S101 - the handler takes messages only
    data = _data(context)
    new = Order(data["pizza"], int(update.message.text or 0))
    await _say(update, f"{new}, for {data['name']}. Shall I order?", _buttons(("Yes", new), ("No", "no")))
    return CONFIRM


async def confirm(update: Update, context: Context) -> int:
    """Order what the button carries."""
    query = update.callback_query
    assert query is not None  # noqa: S101 - the handler takes callback queries only
    await query.answer()
    wanted: object = query.data
    if isinstance(wanted, Order):
        _data(context).setdefault("orders", []).append(wanted)
        await _say(update, f"Ordered: {wanted}.")
    return ConversationHandler.END


async def orders(update: Update, context: Context) -> None:
    """Tell what was ordered so far."""
    data = _data(context)
    listed = "; ".join(str(done) for done in data.get("orders", [])) or "nothing yet"
    await _say(update, f"{data.get('name', 'You')} ordered: {listed}.")


def build(token: str, url: str, database: str, update_interval: float) -> Application[Any, Any, Any, Any, Any, Any]:
    """Build the bot.

    Args:
        token: Its token.
        url: The Bot API server.
        database: Where its data is kept.
        update_interval: Seconds from a change to its commit, at most.

    Returns:
        The application.
    """
    warnings.filterwarnings("ignore", message="If 'per_message=False'", category=PTBUserWarning)
    persistence = KVPersistence(database, update_interval=update_interval)
    builder = ApplicationBuilder().token(token).base_url(f"{url}/bot").base_file_url(f"{url}/file/bot")
    application = builder.persistence(persistence).arbitrary_callback_data(True).build()
    application.add_handler(CommandHandler("orders", orders))
    application.add_handler(
        ConversationHandler(
            entry_points=[CommandHandler("order", order)],
            states={
                NAME: [MessageHandler(filters.TEXT & ~filters.COMMAND, name)],
                PIZZA: [CallbackQueryHandler(pizza, pattern=Pizza)],
                AMOUNT: [MessageHandler(filters.Regex(r"^[1-9]\d?$"), amount)],
                CONFIRM: [CallbackQueryHandler(confirm)],
            },
            fallbacks=[],
            name="order",
            persistent=True,
        )
    )
    return application


def main() -> None:
    """Run the bot with what the environment says."""
    build(
        os.environ["BOT_TOKEN"],
        os.environ["BOT_API_URL"],
        os.environ["BOT_DATABASE"],
        float(os.environ.get("BOT_UPDATE_INTERVAL", "1")),
    ).run_polling()


if __name__ == "__main__":
    main()
