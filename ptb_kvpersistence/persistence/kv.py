"""KVPersistence: what PTB calls, mapped onto the keeper; no storage and no merging here."""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from telegram import Bot
from telegram.ext import BasePersistence, ContextTypes, ConversationHandler, PersistenceInput

from ptb_kvpersistence.backends.urls import parse
from ptb_kvpersistence.errors import ConfigurationError
from ptb_kvpersistence.persistence.callbacks import CallbackLedger
from ptb_kvpersistence.persistence.cycle import Ticket
from ptb_kvpersistence.persistence.dict_json import DictJSON, format_dict_json, parse_dict_json
from ptb_kvpersistence.persistence.host import Host, numeric_id
from ptb_kvpersistence.persistence.keeper import Keeper
from ptb_kvpersistence.persistence.layout import (
    BOT_DATA,
    SHAREABLE,
    EntityId,
    Section,
    check_conversation,
    check_id,
)
from ptb_kvpersistence.persistence.namespaces import check_bot_name
from ptb_kvpersistence.persistence.sections import Sections
from ptb_kvpersistence.persistence.sections_io import persistence_codec
from ptb_kvpersistence.persistence.state import NOTHING, Nothing
from ptb_kvpersistence.policies import Policies, Policy, Side
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.database import DEFAULT_STORE, make_async_store

if TYPE_CHECKING:
    import os
    from datetime import datetime

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.persistence.sections import CallbackData

    Data = dict[Any, Any]
    Key = tuple[int | str, ...]

UD = TypeVar("UD")
CD = TypeVar("CD")
BD = TypeVar("BD")

_logger = logging.getLogger(__name__)


class KVPersistence(BasePersistence[UD, CD, BD]):
    """Keeps a bot's data in a crash-safe store that other bots and scripts may share.

    A drop-in replacement for :class:`telegram.ext.PicklePersistence`: the arguments up to ``context_types`` are the
    same and mean the same.

    Args:
        filepath: Path of an SQLite file, or a URL (``sqlite:///bot.db``, ``memory:``). The file is made when needed.
        store_data: Which sections are saved; all by default.
        single_file: No effect; here for PicklePersistence's sake.
        on_flush: Save only when :meth:`flush` is called.
        update_interval: Seconds between two updates by PTB.
        context_types: The types of the context, where they are not the default ones.
        store: A store to use instead of ``filepath``; it may serve several Applications and is never closed here.
        bot: Name of the bot's own namespace in the store; by default the numeric id in its token.
        share: Which of "user_data", "chat_data", "bot_data" are common to all bots on the store.
        merge: What happens where memory and store changed the same place: "ours" (the last writer) or "theirs", or
            a mapping of paths to policies, such as ``{"user_data.*.visits": "sum"}``.
        max_staleness: Seconds for which one look at the store may be trusted.
        types: Classes of which instances may be stored, besides those that the codec knows.

    Raises:
        ConfigurationError: An argument is wrong, or both or neither of ``filepath`` and ``store`` are given.

    Attributes:
        filepath: As given; None with ``store``.
        single_file: As given.
        on_flush: As given.
        context_types: As given, or the default ones.

    Source: PTB's PicklePersistence and BasePersistence.
    """

    @overload
    def __init__(
        self: KVPersistence[Data, Data, Data],
        filepath: str | os.PathLike[str] | None = None,
        store_data: PersistenceInput | None = None,
        single_file: bool = True,
        on_flush: bool = False,
        update_interval: float = 60,
        context_types: None = None,
        *,
        store: AsyncStore | None = None,
        bot: str | int | None = None,
        share: Collection[str] = (),
        merge: Side | Mapping[str, Policy] = "ours",
        max_staleness: float = 0.01,
        types: Iterable[type] = (),
    ) -> None: ...

    @overload
    def __init__(
        self: KVPersistence[UD, CD, BD],
        filepath: str | os.PathLike[str] | None = None,
        store_data: PersistenceInput | None = None,
        single_file: bool = True,
        on_flush: bool = False,
        update_interval: float = 60,
        context_types: ContextTypes[Any, UD, CD, BD] | None = None,
        *,
        store: AsyncStore | None = None,
        bot: str | int | None = None,
        share: Collection[str] = (),
        merge: Side | Mapping[str, Policy] = "ours",
        max_staleness: float = 0.01,
        types: Iterable[type] = (),
    ) -> None: ...

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = None,
        store_data: PersistenceInput | None = None,
        single_file: bool = True,
        on_flush: bool = False,
        update_interval: float = 60,
        context_types: ContextTypes[Any, Any, Any, Any] | None = None,
        *,
        store: AsyncStore | None = None,
        bot: str | int | None = None,
        share: Collection[str] = (),
        merge: Side | Mapping[str, Policy] = "ours",
        max_staleness: float = 0.01,
        types: Iterable[type] = (),
    ) -> None:
        super().__init__(store_data=store_data, update_interval=update_interval)
        if (filepath is None) == (store is None):
            message = "give either filepath (a path or URL) or store, not both and not neither"
            raise ConfigurationError(message)
        self.filepath = _as_path(filepath)
        self.single_file = single_file
        self.on_flush = on_flush
        self.context_types: ContextTypes[Any, UD, CD, BD] = context_types or cast("Any", ContextTypes())
        self._ledger = CallbackLedger()
        codec = self._make_codec(types)
        bot_name = None if bot is None else check_bot_name(bot)
        self._host = Host(self, bot_name, lambda: self.context_types, codec, self._ledger)
        self._keeper = Keeper(
            make_async_store(filepath, DEFAULT_STORE, codec) if store is None else _check_store(store),
            codec,
            Policies(merge, sections=SHAREABLE),
            self._host,
            owns_store=store is None,
            share=_check_share(share),
            max_staleness=_check_seconds(max_staleness, "max_staleness"),
            update_interval=_check_seconds(update_interval, "update_interval"),
            on_flush=on_flush,
        )

    def _make_codec(self, types: Iterable[type]) -> Codec:
        custom = [
            kind
            for kind in (self.context_types.user_data, self.context_types.chat_data, self.context_types.bot_data)
            if kind.__module__ != "builtins"
        ]
        return persistence_codec([*custom, *_check_types(types)], lambda: self.bot)

    # --- health, and what is in memory ---

    @property
    def store(self) -> AsyncStore:
        """The store, for handlers: their own keys, in the root or in domains of their own."""
        return self._keeper.store

    @property
    def pending(self) -> int:
        """How many entities are not saved yet."""
        return len(self._keeper.replica.dirty)

    @property
    def discarded(self) -> int:
        """How many values this bot's merges have discarded, since both sides had changed the same place."""
        return self._keeper.replica.discarded

    @property
    def last_saved_at(self) -> datetime | None:
        """When all that PTB had handed over was last in the store (UTC); None before the first time."""
        return self._keeper.last_saved_at

    @property
    def user_data(self) -> dict[int, UD] | None:
        """A copy of the user_data that was loaded or handed over; None before that."""
        return cast("dict[int, UD] | None", self._copy_section("user_data"))

    @property
    def chat_data(self) -> dict[int, CD] | None:
        """A copy of the chat_data that was loaded or handed over; None before that."""
        return cast("dict[int, CD] | None", self._copy_section("chat_data"))

    @property
    def bot_data(self) -> BD | None:
        """A copy of the bot_data that was loaded or handed over; None before that."""
        return cast("BD | None", (self._copy_section("bot_data") or {}).get(None))

    @property
    def callback_data(self) -> CallbackData | None:
        """A copy of the callback data that was loaded or handed over; None before that."""
        return CallbackLedger().join((self._copy_section("callback_data") or {}).items())

    @property
    def conversations(self) -> dict[str, dict[Key, object]] | None:
        """A copy of the conversations that were loaded or handed over, by handler name; None before that."""
        states = self._copy_section("conversations")
        return None if states is None else _by_name(states)

    def _copy_section(self, section: Section) -> dict[Any, Any] | None:
        replica = self._keeper.replica
        if not replica.is_attached and not replica.states[section]:
            return None
        found = {}
        for id_, state in list(replica.states[section].items()):
            text = state.known if isinstance(state.captured, Nothing) else state.captured
            if text is not None and not state.is_quarantined:
                found[id_] = self._keeper.codec.decode(text, EntityId(section, id_).place)
        return found

    # --- the bot ---

    def set_bot(self, bot: Bot) -> None:
        """Take the bot that PTB hands over.

        Raises:
            TypeError: callback_data is to be stored and the bot is no ExtBot.
            ConfigurationError: This persistence serves another bot already.
        """
        known = cast("Bot | None", self.bot)
        if known is not None and known is not bot and numeric_id(known) != numeric_id(bot):
            message = (
                "this KVPersistence serves another bot already; make one per Application, "
                "with store=... for bots that share a store"
            )
            raise ConfigurationError(message)
        super().set_bot(bot)
        self._host.changed()

    # --- loading ---

    async def get_user_data(self) -> dict[int, UD]:
        """Load the user_data.

        Returns:
            New objects by user id; entries that cannot be read are left out.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        return cast("dict[int, UD]", await self._load("user_data"))

    async def get_chat_data(self) -> dict[int, CD]:
        """Load the chat_data.

        Returns:
            New objects by chat id; entries that cannot be read are left out.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        return cast("dict[int, CD]", await self._load("chat_data"))

    async def get_bot_data(self) -> BD:
        """Load the bot_data.

        Returns:
            A new object; an empty one of the context's type if there is none.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        loaded = await self._load("bot_data")
        return cast("BD", loaded[None] if None in loaded else self._host.context_kind("bot_data")())

    async def get_callback_data(self) -> CallbackData | None:
        """Load the callback data.

        Returns:
            ``(keyboards, callback queries)``, in the order of PTB's cache; None if there are none.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        return self._ledger.join((await self._load("callback_data")).items())

    async def get_conversations(self, name: str) -> dict[Key, object]:
        """Load the conversations of one handler.

        Args:
            name: The handler's name.

        Returns:
            The states by conversation key.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        check_conversation(name, ())
        return _by_name(await self._load("conversations")).get(name, {})

    async def _load(self, section: Section) -> dict[Any, object]:
        # Now there are few objects to search; once everything is loaded there are many.
        self._host.application()
        # The collector would look at each new object again and again: half of the time of a bulk load.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return await self._keeper.load(section)
        finally:
            if was_enabled:
                gc.enable()

    # --- write-behind ---

    def update_user_data(self, user_id: int, data: UD) -> Coroutine[Any, Any, None]:
        """Take the data of a user, to be saved with everything of this cycle in one commit.

        Args:
            user_id: The user.
            data: What memory holds; it is encoded at once.

        Returns:
            A coroutine that waits for the commit.

        Raises:
            EncodeError: When awaited: the data cannot be stored.
            KVPersistenceError: When awaited: the commit failed; everything stays pending and is tried again.
        """
        return self._update(EntityId("user_data", check_id("user_data", user_id)), data)

    def update_chat_data(self, chat_id: int, data: CD) -> Coroutine[Any, Any, None]:
        """Take the data of a chat; see :meth:`update_user_data`."""
        return self._update(EntityId("chat_data", check_id("chat_data", chat_id)), data)

    def update_bot_data(self, data: BD) -> Coroutine[Any, Any, None]:
        """Take the bot_data; see :meth:`update_user_data`."""
        return self._update(BOT_DATA, data)

    def update_conversation(
        self, name: str, key: tuple[int | str, ...], new_state: object | None
    ) -> Coroutine[Any, Any, None]:
        """Take a conversation's new state, None when it has ended; see :meth:`update_user_data`."""
        entity = check_conversation(name, key)
        # PTB reports END itself for a conversation that a non-blocking handler has ended.
        has_ended = new_state is None or (type(new_state) is int and new_state == ConversationHandler.END)
        return self._drop(entity) if has_ended else self._update(entity, new_state)

    def update_callback_data(self, data: CallbackData) -> Coroutine[Any, Any, None]:
        """Take the callback data, of which only the difference is written; see :meth:`update_user_data`."""
        error = self._ledger.capture(self._keeper, data)
        return Ticket(self._keeper.cycle(), error)

    def drop_user_data(self, user_id: int) -> Coroutine[Any, Any, None]:
        """Delete the data of a user; see :meth:`update_user_data`."""
        return self._drop(EntityId("user_data", check_id("user_data", user_id)))

    def drop_chat_data(self, chat_id: int) -> Coroutine[Any, Any, None]:
        """Delete the data of a chat; see :meth:`update_user_data`."""
        return self._drop(EntityId("chat_data", check_id("chat_data", chat_id)))

    def _update(self, entity: EntityId, data: object) -> Coroutine[Any, Any, None]:
        keeper = self._keeper
        error = keeper.capture_value(entity, data)
        if not self._is_live(entity, data):
            # A script hands over other objects than it was given; those must not win over these later.
            keeper.forget_live(entity)
        return Ticket(keeper.cycle(), error)

    def _is_live(self, entity: EntityId, data: object) -> bool:
        """Tell whether data is what PTB's own object holds, as it always is when PTB hands over a copy."""
        state = self._keeper.replica.state(entity)
        live = state.live
        if live is NOTHING or live is data:
            return True
        try:
            if type(live) is dict and type(data) is dict and live == data:
                return True
            text = state.ours if isinstance(state.captured, Nothing) else state.captured
            return self._keeper.replica.encode(entity, live) == text
        except Exception:  # noqa: BLE001 - what a user's class raises when it is compared says nothing
            return True

    def _drop(self, entity: EntityId) -> Coroutine[Any, Any, None]:
        # PTB reports only the drop, also where a handler has put something into a new object since.
        live = self._host.after_drop(entity, self._keeper)
        if live is not None:
            self._keeper.replace_live(entity, live)
            return self._update(entity, live)
        self._keeper.capture(entity, None)
        self._keeper.forget_live(entity)
        return Ticket(self._keeper.cycle(), None)

    async def flush(self) -> None:
        """Save everything, and let go of the file. The next call opens it again.

        Raises:
            KVPersistenceError: It could not be saved; it stays pending, and goes to a rescue file at the latest
                when the process ends.
        """
        await self._keeper.flush()

    # --- DictPersistence's format ---

    async def load_json(
        self,
        user_data_json: str = "",
        chat_data_json: str = "",
        bot_data_json: str = "",
        conversations_json: str = "",
        callback_data_json: str = "",
    ) -> None:
        """Take in the JSON strings of a :class:`telegram.ext.DictPersistence`, in one commit, and wait for it.

        Entities that are in the strings are replaced, others stay. Meant for a script or a bot that does not run yet.

        Args:
            user_data_json: As DictPersistence takes it; ``""`` leaves the section alone.
            chat_data_json: The same.
            bot_data_json: The same.
            conversations_json: The same.
            callback_data_json: The same.

        Raises:
            ConfigurationError: A string has not that form; nothing was taken in.
            KVPersistenceError: It could not be saved; it stays pending.
        """
        sections = parse_dict_json(
            user_data_json, chat_data_json, bot_data_json, conversations_json, callback_data_json
        )
        await self._keeper.open()
        for user_id, data in (sections.user_data or {}).items():
            self._keeper.capture_value(EntityId("user_data", check_id("user_data", user_id)), data)
        for chat_id, data in (sections.chat_data or {}).items():
            self._keeper.capture_value(EntityId("chat_data", check_id("chat_data", chat_id)), data)
        if sections.bot_data is not None:
            self._keeper.capture_value(BOT_DATA, sections.bot_data)
        for name, states in (sections.conversations or {}).items():
            for key, state in states.items():
                self._keeper.capture_value(check_conversation(name, cast("Key", key)), state)
        if sections.callback_data is not None:
            self._ledger.capture(self._keeper, sections.callback_data)
        await self._keeper.deliver(self._keeper.cycle(), None)

    async def dump_json(self) -> DictJSON:
        """Give everything stored as the JSON strings that :class:`telegram.ext.DictPersistence` takes.

        Returns:
            The five arguments by name; ``""`` for a section without data.

        Raises:
            EncodeError: A value does not fit plain JSON; the place is named.
            KVPersistenceError: The store cannot be read.
        """
        await self._keeper.open()
        await self._keeper.sight.glance()
        sections = Sections(
            user_data=self.user_data or None,
            chat_data=self.chat_data or None,
            bot_data=self.bot_data,
            conversations=cast("Any", self.conversations or None),
            callback_data=self.callback_data,
        )
        return format_dict_json(sections)

    # --- refresh ---

    async def refresh_user_data(self, user_id: int, user_data: UD) -> None:
        """Bring a user's data up to what the store holds now, in place; what is unsaved stays.

        Never raises for what the store does. Cost: some microseconds when nothing changed.
        """
        await self._keeper.refresh(EntityId("user_data", user_id), user_data)

    async def refresh_chat_data(self, chat_id: int, chat_data: CD) -> None:
        """Bring a chat's data up to what the store holds now; see :meth:`refresh_user_data`."""
        await self._keeper.refresh(EntityId("chat_data", chat_id), chat_data)

    async def refresh_bot_data(self, bot_data: BD) -> None:
        """Bring the bot_data up to what the store holds now; see :meth:`refresh_user_data`."""
        await self._keeper.refresh(BOT_DATA, bot_data)


def _by_name(states: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    found: dict[str, dict[Any, Any]] = {}
    for (name, key), state in states.items():
        found.setdefault(name, {})[key] = state
    return found


def _as_path(filepath: object) -> Path | None:
    if filepath is None:
        return None
    target = parse(filepath)
    return Path(target.path) if target.kind == "sqlite" and ":" not in str(filepath) else Path(str(filepath))


def _check_store(store: object) -> AsyncStore:
    if not isinstance(store, AsyncStore):
        message = f"store takes an AsyncStore, not {type(store).__name__}; make one with connect_async(...)"
        raise ConfigurationError(message)
    return store


def _check_share(share: object) -> frozenset[str]:
    if isinstance(share, str) or not isinstance(share, Collection) or not set(share) <= set(SHAREABLE):
        message = f"share takes a collection of names out of {', '.join(SHAREABLE)}"
        raise ConfigurationError(message)
    return frozenset(share)


def _check_seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        message = f"{name} takes a number of seconds, 0 or more"
        raise ConfigurationError(message)
    return float(value)


def _check_types(types: object) -> list[type]:
    if isinstance(types, type) or not isinstance(types, Iterable):
        message = "types takes a collection of classes"
        raise ConfigurationError(message)
    found = list(types)
    if not all(isinstance(kind, type) for kind in found):
        message = "types takes classes only"
        raise ConfigurationError(message)
    return found
