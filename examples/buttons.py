"""Inline buttons that carry objects, and still do after a restart.

With ``arbitrary_callback_data`` a button carries any object, not only 64 bytes of text: here a dataclass with a Decimal
in it, and tuples. The objects stay with the bot and are saved with everything else, so a button that was sent before
the bot crashed still means the same afterwards.

    python examples/buttons.py                     # a chat on the terminal, no token needed
    BOT_TOKEN=123:ABC python examples/buttons.py   # the same on Telegram
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update
from telegram.ext import (
    ApplicationBuilder,
    CallbackQueryHandler,
    CommandHandler,
    ContextTypes,
    InvalidCallbackData,
)

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.server.console import Example

Context = ContextTypes.DEFAULT_TYPE


@dataclass(frozen=True)
class Product:
    """Something to buy; dataclasses are found and stored without being registered."""

    name: str
    price: Decimal


PRODUCTS = [Product("Tea", Decimal("2.80")), Product("Coffee", Decimal("3.20")), Product("Cake", Decimal("4.10"))]


def keyboard(cart: list[Product]) -> InlineKeyboardMarkup:
    """One button per product, and one to pay once there is something to pay for."""
    rows = [[InlineKeyboardButton(f"{product.name} {product.price}", callback_data=product)] for product in PRODUCTS]
    if cart:
        rows.append([InlineKeyboardButton("Pay", callback_data=("pay", tuple(cart)))])
    return InlineKeyboardMarkup(rows)


def total(cart: list[Product]) -> Decimal:
    """Add the prices up."""
    return sum((product.price for product in cart), start=Decimal())


async def menu(update: Update, context: Context) -> None:
    """Show what there is."""
    cart = context.user_data.setdefault("cart", [])
    await update.message.reply_text("What would you like?", reply_markup=keyboard(cart))


async def add(update: Update, context: Context) -> None:
    """Put the product that the button carries into the cart."""
    query = update.callback_query
    product = query.data
    cart = context.user_data.setdefault("cart", [])
    cart.append(product)
    await query.answer(f"{product.name} added")
    names = ", ".join(product.name for product in cart)
    await query.edit_message_text(f"Your cart: {names}. Total: {total(cart)}", reply_markup=keyboard(cart))


async def pay(update: Update, context: Context) -> None:
    """Pay what the button says, and empty the cart."""
    query = update.callback_query
    _, cart = query.data
    context.user_data["cart"] = []
    context.drop_callback_data(query)
    await query.answer("Thank you!")
    await query.edit_message_text(f"Paid {total(cart)} for {len(cart)} items.")


async def too_old(update: Update, _: Context) -> None:
    """Tell that the bot has forgotten what a button meant; it keeps the latest 1024 keyboards."""
    await update.callback_query.answer("This button is too old, please send /menu again.", show_alert=True)


def main() -> None:
    """Run the bot."""
    example = Example("buttons.db", description=__doc__)
    persistence = KVPersistence(example.database, update_interval=1)
    builder = example.connect(ApplicationBuilder()).persistence(persistence).arbitrary_callback_data(True)
    application = builder.build()
    application.add_handler(CommandHandler(["start", "menu"], menu))
    application.add_handler(CallbackQueryHandler(too_old, pattern=InvalidCallbackData))
    application.add_handler(CallbackQueryHandler(add, pattern=Product))
    application.add_handler(CallbackQueryHandler(pay, pattern=tuple))
    example.run(application)


if __name__ == "__main__":
    main()
