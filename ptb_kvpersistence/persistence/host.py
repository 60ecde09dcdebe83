"""The program around a persistence: its bot and its Application, where there is one, and what these hold.

PTB never tells a persistence whose it is; a script has neither. Nothing is stored or merged here.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

from telegram.ext import ExtBot

from ptb_kvpersistence.persistence import ptb
from ptb_kvpersistence.persistence.layout import EntityId, check_conversation
from ptb_kvpersistence.persistence.replica import EMPTY
from ptb_kvpersistence.persistence.state import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from telegram import Bot
    from telegram.ext import Application, BasePersistence, ContextTypes

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.persistence.callbacks import CallbackLedger
    from ptb_kvpersistence.persistence.keeper import Keeper


class Host:
    """Answers what the keeper and the persistence ask about the program around them.

    Args:
        persistence: Whose program it is.
        bot_name: The name that the user gave to the bot, if any.
        context_types: Those of the persistence; the Application's word counts more.
        codec: To encode what the context types make.
        ledger: To take callback data apart.
    """

    def __init__(
        self,
        persistence: BasePersistence[Any, Any, Any],
        bot_name: str | None,
        context_types: Callable[[], ContextTypes[Any, Any, Any, Any]],
        codec: Codec,
        ledger: CallbackLedger,
    ) -> None:
        self._persistence = persistence
        self._given_name = bot_name
        self._context_types = context_types
        self._codec = codec
        self._ledger = ledger
        self._application: weakref.ref[Application[Any, Any, Any, Any, Any, Any]] | None = None
        self._has_searched = False

    # --- who is there ---

    def bot_name(self) -> str | None:
        """Give the name of the bot's namespace; None for a script without a bot."""
        if self._given_name is not None:
            return self._given_name
        bot = cast("Bot | None", self._persistence.bot)
        return None if bot is None else numeric_id(bot)

    def changed(self) -> None:
        """Note that a bot was handed over, by its Application or by somebody else."""
        application = ptb.calling_application(self._persistence)
        self._application = None if application is None else weakref.ref(application)
        self._has_searched = False

    def application(self) -> Application[Any, Any, Any, Any, Any, Any] | None:
        """Find the Application; where it did not hand the bot over itself, by one long search."""
        application = None if self._application is None else self._application()
        if application is None or application.persistence is not self._persistence:
            has_bot = cast("Bot | None", self._persistence.bot) is not None
            if not has_bot or (self._application is None and self._has_searched):
                return None  # a script, to which nobody has handed a bot, has none
            application = ptb.find_application(self._persistence)
            self._application = None if application is None else weakref.ref(application)
            self._has_searched = True
        return application

    def is_running(self) -> bool:
        """Tell whether the Application is at work."""
        application = self.application()
        return application is not None and application.running

    # --- what its data are made of ---

    def context_kind(self, section: str) -> type[Any]:
        """Give the class of a section's data."""
        application = self.application()
        types = self._context_types() if application is None else application.context_types
        return cast("type[Any]", getattr(types, section))

    def required_kind(self, section: str) -> type[Any]:
        """Give the class that loaded data must have; a script without an Application takes them as they are."""
        return object if self.application() is None else self.context_kind(section)

    def default(self, section: str) -> bytes:
        """Give the text of data that were never filled."""
        kind = self.context_kind(section)
        return EMPTY if kind is dict else self._codec.encode(kind(), section)

    # --- what it holds ---

    def holds(self, entity: EntityId, live: object) -> bool:
        """Tell whether an object is still PTB's: a drop, reported later, deletes what was there when it was made."""
        application = self.application()
        if application is None:
            return True
        held = getattr(application, entity.section)
        return live is (held if entity.section == "bot_data" else held.get(entity.id))

    def after_drop(self, entity: EntityId, keeper: Keeper) -> object | None:
        """Give the object that PTB holds for an entity of which it reports the drop, None if it has none."""
        if entity.section == "conversations":
            return None
        application = self.application()
        if application is not None:
            return cast("object", getattr(application, entity.section).get(entity.id))
        state = keeper.replica.state(entity)
        return state.live if state.is_replaced else None

    def follow(self, keeper: Keeper) -> None:
        """Find the new objects of what was dropped, which no refresh has shown yet."""
        dropped = [
            entity
            for entity, state in keeper.touched()
            if state.live is NOTHING and entity.section in ("user_data", "chat_data")
        ]
        application = self.application() if dropped else None
        for entity in dropped:
            live = None if application is None else getattr(application, entity.section).get(entity.id)
            if live is not None:
                keeper.replace_live(entity, live)

    def collect(self, keeper: Keeper) -> None:
        """Capture what PTB holds beyond the data it showed us: drops, conversations and callback data."""
        application = self.application()
        if application is None or not keeper.replica.is_attached:
            return
        for entity, state in keeper.touched():
            if entity.section in ("user_data", "chat_data"):
                live = getattr(application, entity.section).get(entity.id)
                if live is None:
                    keeper.capture(entity, None)
                    keeper.forget_live(entity)
                elif live is not state.live:
                    keeper.replace_live(entity, live)
        bot = self._persistence.bot
        cache = bot.callback_data_cache if isinstance(bot, ExtBot) else None
        if self._persistence.store_data.callback_data and cache is not None:
            self._ledger.capture(keeper, cache.persistence_data)
        running: set[Any] = set()
        for name, key, conversation_state in ptb.conversation_states(application):
            running.add((name, key))
            keeper.capture_value(check_conversation(name, key), conversation_state)
        names = ptb.conversation_names(application)
        for name, key in list(keeper.replica.states["conversations"]):
            if name in names and (name, key) not in running:
                keeper.capture(EntityId("conversations", (name, key)), None)


def numeric_id(bot: Bot) -> str:
    """Give a bot's id from its token: ``bot.id`` raises before the bot is initialised."""
    return str(bot.token).partition(":")[0]
