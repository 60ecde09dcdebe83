"""A conversation that goes on after a restart, or after a crash.

The bot asks for a name and then for pets. The questions about a pet are a conversation inside the conversation, so the
state has two levels. Kill this process wherever you like: started again, it knows what it was asking and all it was
told.

    python examples/conversation.py                     # a chat on the terminal, no token needed
    BOT_TOKEN=123:ABC python examples/conversation.py   # the same on Telegram
"""

from __future__ import annotations

from typing import Any

from telegram import Update
from telegram.ext import ApplicationBuilder, CommandHandler, ContextTypes, ConversationHandler, MessageHandler, filters

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.server.console import Example

NAME, MENU = "name", "menu"
KIND, CALLED = "kind", "called"

TEXT = filters.TEXT & ~filters.COMMAND
Context = ContextTypes.DEFAULT_TYPE


async def start(update: Update, context: Context) -> str:
    """Greet, and ask for the name of somebody new."""
    if "name" in context.user_data:
        await update.message.reply_text(f"Welcome back, {context.user_data['name']}. /pet, /show or /done?")
        return MENU
    await update.message.reply_text("Hello! What is your name?")
    return NAME


async def name(update: Update, context: Context) -> str:
    """Keep the name."""
    context.user_data["name"] = update.message.text
    await update.message.reply_text(f"Nice to meet you, {update.message.text}. /pet, /show or /done?")
    return MENU


async def pet(update: Update, _: Context) -> str:
    """Begin the inner conversation."""
    await update.message.reply_text("What kind of animal is it?")
    return KIND


async def kind(update: Update, context: Context) -> str:
    """Keep the kind until the name is known."""
    context.user_data["new_pet"] = {"kind": update.message.text}
    await update.message.reply_text(f"What is the {update.message.text} called?")
    return CALLED


async def called(update: Update, context: Context) -> int:
    """Complete the pet and end the inner conversation."""
    new_pet = context.user_data.pop("new_pet")
    new_pet["name"] = update.message.text
    context.user_data.setdefault("pets", []).append(new_pet)
    await update.message.reply_text(f"{new_pet['name']} the {new_pet['kind']}, noted. /pet, /show or /done?")
    return ConversationHandler.END


def summary(user_data: dict[Any, Any]) -> str:
    """Say what is known about somebody."""
    pets = ", ".join(f"{pet['name']} the {pet['kind']}" for pet in user_data.get("pets", []))
    return f"You are {user_data['name']}, with {pets or 'no pets'}."


async def show(update: Update, context: Context) -> None:
    """Say it, and stay in the state."""
    await update.message.reply_text(summary(context.user_data))


async def done(update: Update, context: Context) -> int:
    """Say it and end the conversation."""
    await update.message.reply_text(f"{summary(context.user_data)} Goodbye! /start begins again.")
    return ConversationHandler.END


def main() -> None:
    """Run the bot."""
    example = Example("conversation.db", description=__doc__)
    persistence = KVPersistence(example.database, update_interval=1)
    application = example.connect(ApplicationBuilder()).persistence(persistence).build()
    pets = ConversationHandler(
        entry_points=[CommandHandler("pet", pet)],
        states={KIND: [MessageHandler(TEXT, kind)], CALLED: [MessageHandler(TEXT, called)]},
        fallbacks=[],
        map_to_parent={ConversationHandler.END: MENU},
        name="pets",
        persistent=True,
    )
    application.add_handler(
        ConversationHandler(
            entry_points=[CommandHandler("start", start)],
            states={
                NAME: [MessageHandler(TEXT, name)],
                MENU: [pets, CommandHandler("show", show), CommandHandler("done", done)],
            },
            fallbacks=[],
            name="profile",
            persistent=True,
        )
    )
    example.run(application)


if __name__ == "__main__":
    main()
