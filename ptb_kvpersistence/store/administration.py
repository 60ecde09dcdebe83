"""What can be done with whole stores, and the bots attached to them, without I/O: generators like the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.errors import StoreNotFoundError
from ptb_kvpersistence.model import (
    AttachBot,
    BotInfo,
    Changes,
    DeleteStore,
    DetachBot,
    ListBots,
    ListStores,
    OpenStore,
    RenameStore,
    check_name,
)
from ptb_kvpersistence.store.operations import open_store
from ptb_kvpersistence.store.staging import complete

if TYPE_CHECKING:
    from collections.abc import Generator

    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.store.operations import Handle

_NO_VERSION = 2**62


def names() -> Generator[Requested[Any], Any, list[str]]:
    """List the stores' names, without what is still being copied."""
    return [store.name for store in complete((yield ListStores()))]


def rename(old: str, new: str, *, force: bool) -> Generator[Requested[Any], Any, None]:
    """Give a store another name."""
    yield RenameStore(check_name(old, "store name"), check_name(new, "store name"), force)


def delete(name: str, *, force: bool) -> Generator[Requested[Any], Any, None]:
    """Delete a store."""
    yield DeleteStore(check_name(name, "store name"), force)


def bots(name: str) -> Generator[Requested[Any], Any, list[BotInfo]]:
    """List the bots that are or were attached to a store."""
    store = yield OpenStore(check_name(name, "store name"))
    return list((yield ListBots(store.id)))


def attach(handle: Handle, bot: str, holder: str = "") -> Generator[Requested[Any], Any, None]:
    """Note that a bot uses a store; to be repeated every :data:`.backends.base.HEARTBEAT` seconds while it does.

    Needs no lock that others could hold for long.

    Args:
        handle: The store.
        bot: Name of the bot.
        holder: Who says so, where several at once may speak for one bot; unique among all processes.

    Raises:
        StoreNotFoundError: The store was deleted meanwhile.
    """
    store = yield from open_store(handle)
    yield AttachBot(store, bot, holder)
    try:
        # Whoever deletes the store now sees the bot; who was faster is seen here.
        yield Changes(store, _NO_VERSION, (), 1)
    except StoreNotFoundError:
        yield DetachBot(store, bot, holder)
        raise


def detach(handle: Handle, bot: str, holder: str = "") -> Generator[Requested[Any], Any, None]:
    """Note that a bot no longer uses a store; it stays in the list."""
    if handle.info is not None:
        yield DetachBot(handle.info.id, bot, holder)
