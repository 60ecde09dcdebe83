"""Whole sections into a database, in one commit: for the importers."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.codec import Codec, dumps
from ptb_kvpersistence.errors import ConfigurationError, ConflictError
from ptb_kvpersistence.model import Changes, Commit, Count, Delete, KeyRange, OpenStore, Page, Put, RangeCheck
from ptb_kvpersistence.persistence.callbacks import CallbackLedger
from ptb_kvpersistence.persistence.layout import (
    BOT_DATA,
    BOTS,
    UNCLAIMED,
    EntityId,
    Layout,
    check_conversation,
    check_id,
)
from ptb_kvpersistence.persistence.namespaces import PREFIX, check_bot_name, list_namespaces
from ptb_kvpersistence.persistence.sections import KNOWN_BOT
from ptb_kvpersistence.persistence.telegram_codec import BotExtension, TelegramExtension
from ptb_kvpersistence.store.database import DEFAULT_STORE
from ptb_kvpersistence.store.operations import drive

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from telegram import Bot

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.persistence.sections import Sections

    Progress = Callable[[str, int, int], None]

_logger = logging.getLogger(__name__)
PAGE: Final = 1000


def persistence_codec(types: Iterable[type], bot: Callable[[], Bot | None] = lambda: None) -> Codec:
    """Make the codec that KVPersistence uses: Telegram objects and bots included."""
    classes = tuple(types)
    return Codec(classes, (BotExtension(bot, _logger.warning), TelegramExtension(bot, classes)))


def import_sections(
    location: str | os.PathLike[str],
    sections: Sections,
    *,
    bot: str | None,
    store: str = DEFAULT_STORE,
    overwrite: bool = False,
    types: Iterable[type] = (),
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write sections into a bot's namespace, all or nothing.

    Args:
        location: Path or URL of the database; an SQLite file is made when needed.
        sections: What to write.
        bot: Name of the namespace; None for an unclaimed one, which the first bot without data takes over.
        store: Name of the store, made when needed.
        overwrite: Replace what the namespace holds.
        types: Classes of which instances may be stored, besides those that the codec knows.
        progress: Called with section, done and total while values are encoded.

    Returns:
        How many entries were written, per section.

    Raises:
        ConfigurationError: The namespace holds data, and ``overwrite`` is false.
        EncodeError: A value cannot be stored; the place is named, nothing was written.
        KVPersistenceError: The database cannot be used; nothing was written.
    """
    name = None if bot is None else check_bot_name(bot)
    texts = _encode_all(sections, persistence_codec(types, lambda: KNOWN_BOT), progress)
    backend = open_backend(location)
    try:
        return _write(backend, store, name, texts, overwrite=overwrite)
    finally:
        backend.close()


def _entities(sections: Sections) -> Iterator[tuple[EntityId, Any]]:
    for user_id, data in (sections.user_data or {}).items():
        yield EntityId("user_data", check_id("user_data", user_id)), data
    for chat_id, data in (sections.chat_data or {}).items():
        yield EntityId("chat_data", check_id("chat_data", chat_id)), data
    if sections.bot_data is not None:
        yield BOT_DATA, sections.bot_data
    for name, states in (sections.conversations or {}).items():
        for key, state in states.items():
            if state is not None:
                yield check_conversation(name, key), state
    if sections.callback_data:
        yield from CallbackLedger().split(sections.callback_data)


def _encode_all(sections: Sections, codec: Codec, progress: Progress | None) -> dict[EntityId, bytes]:
    entities = list(_entities(sections))
    totals: dict[str, int] = {}
    for entity, _ in entities:
        totals[entity.section] = totals.get(entity.section, 0) + 1
    done: dict[str, int] = {}
    texts = {}
    for entity, value in entities:
        texts[entity] = codec.encode(value, entity.place)
        done[entity.section] = done.get(entity.section, 0) + 1
        if progress is not None:
            progress(entity.section, done[entity.section], totals[entity.section])
    return texts


def _write(
    backend: Backend, store_name: str, bot: str | None, texts: dict[EntityId, bytes], *, overwrite: bool
) -> dict[str, int]:
    store = backend.perform(OpenStore(store_name, "ensure")).id
    head = backend.perform(Changes(store, 2**62, ())).head
    known = drive(list_namespaces(store), backend.perform)
    namespace, version = known.get(bot or "", (bot or f"import-{uuid.uuid4().hex[:8]}", 0))
    layout = Layout(namespace)
    old = _old_entries(backend, store, layout)
    if old and not overwrite:
        place = f"bot {bot!r}" if bot else "the unclaimed namespace"
        message = f"{backend.name} holds {len(old)} entries of {place} already; overwrite them with --overwrite"
        raise ConfigurationError(message)
    puts = {layout.address(entity): text for entity, text in texts.items()}
    mutations: list[Put | Delete] = [delete for delete in old if (delete.domain, delete.key) not in puts]
    mutations.extend(Put(*address, text) for address, text in puts.items())
    if not version:
        key = PREFIX + bot if bot else UNCLAIMED
        mutations.append(Put(BOTS, key, dumps({"namespace": namespace})))
    checks = tuple(RangeCheck(KeyRange(domain), head) for domain in layout.domains)
    reply = backend.perform(Commit(store, tuple(mutations), checks))
    if not reply.is_committed:
        message = f"somebody else wrote to {backend.name} meanwhile; nothing was imported, stop the bots and try again"
        raise ConflictError(message)
    counts: dict[str, int] = {}
    for entity in texts:
        counts[entity.section] = counts.get(entity.section, 0) + 1
    return counts


def _old_entries(backend: Backend, store: int, layout: Layout) -> list[Delete]:
    old: list[Delete] = []
    for domain in layout.domains:
        keys, more = KeyRange(domain), backend.perform(Count(store, KeyRange(domain))) > 0
        while more:
            reply = backend.perform(Page(store, keys, PAGE))
            old.extend(Delete(domain, key) for key, _ in reply.items)
            more = reply.more
            if more:
                keys = keys._replace(start=reply.items[-1][0] + "\0")
    return old
