"""Finding, creating, renaming and deleting stores; no I/O.

The list of stores and a store itself may lie on different nodes of a cluster, so these are steps that can be repeated,
by anybody, after a crash between two of them: a store in the list without data is prepared by who opens it; one whose
data says that it is doomed is taken off the list by who meets it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import ATTACHED_FOR, in_use, no_such_store, store_exists
from ptb_kvpersistence.backends.redis import store_scripts as scripts
from ptb_kvpersistence.backends.redis.layout import FORMAT
from ptb_kvpersistence.backends.redis.leases import bots_of
from ptb_kvpersistence.backends.redis.wire import Blocked
from ptb_kvpersistence.errors import BusyError
from ptb_kvpersistence.model import DeleteStore, ListStores, OpenStore, RenameStore, StoreInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptb_kvpersistence.backends.redis.layout import RegistryKeys, StoreKeys
    from ptb_kvpersistence.backends.redis.routing import Router, Task
    from ptb_kvpersistence.backends.redis.settings import Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation


class Stores:
    """Makes conversations of the requests about stores.

    Attributes:
        handlers: By type of request.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        keys: Callable[[int], StoreKeys],
        registry: RegistryKeys,
        channel: bytes,
    ) -> None:
        self._name = settings.name
        self._router = router
        self._keys = keys
        self._registry = registry
        self._channel = channel
        self.handlers: dict[type, Callable[[Any, Task], Conversation[Any]]] = {
            OpenStore: self._open,
            ListStores: self._list,
            RenameStore: self._rename,
            DeleteStore: self._delete,
        }

    def ids(self, task: Task) -> Conversation[dict[str, int]]:
        """Read the list: ids by name."""
        stored = yield from self._router.command(self._registry.slot, b"HGETALL", self._registry.stores, task=task)
        return {stored[at].decode(): _id(stored[at + 1]) for at in range(0, len(stored), 2)}

    def _find(self, name: str, task: Task) -> Conversation[int]:
        registry = self._registry
        stored = yield from self._router.command(registry.slot, b"HGET", registry.stores, name.encode(), task=task)
        if stored is None:
            raise no_such_store(name, self._name)
        return _id(stored)

    def _open(self, request: OpenStore, task: Task) -> Conversation[StoreInfo]:
        creator = uuid.uuid4().hex.encode()
        while True:
            if request.mode == "open":
                store = yield from self._find(request.name, task)
                is_mine = True
            else:
                store, is_mine = yield from self._create(request.name, creator, task)
            incarnation = yield from self._prepare(store, task)
            if incarnation is None:
                yield from self._forget(request.name, store, task)
                continue
            if request.mode == "create" and not is_mine:
                raise store_exists(request.name, self._name)
            return StoreInfo(store, request.name, incarnation)

    def _create(self, name: str, creator: bytes, task: Task) -> Conversation[tuple[int, bool]]:
        registry = self._registry
        needed = (registry.format, registry.stores, registry.last)
        arguments = (name.encode(), creator, b"%d" % FORMAT)
        reply = yield from self._router.run(scripts.CREATE, registry.slot, needed, arguments, task, writes=True)
        return int(reply[1]), reply[2] == creator

    def _prepare(self, store: int, task: Task) -> Conversation[str | None]:
        keys = self._keys(store)
        fresh = (uuid.uuid4().hex.encode(), b"%d" % store, self._channel)
        reply = yield from self._router.run(scripts.PREPARE, keys.slot, (keys.meta,), fresh, task, writes=True)
        return None if reply[0] == b"gone" else reply[1].decode()

    def _forget(self, name: str, store: int, task: Task) -> Conversation[None]:
        registry = self._registry
        arguments = (name.encode(), b"%d" % store)
        yield from self._router.run(scripts.FORGET, registry.slot, (registry.stores,), arguments, task, writes=True)

    def _list(self, _request: ListStores, task: Task) -> Conversation[tuple[StoreInfo, ...]]:
        infos = []
        for name, store in sorted((yield from self.ids(task)).items()):
            incarnation = yield from self._prepare(store, task)
            if incarnation is not None:
                infos.append(StoreInfo(store, name, incarnation))
        return tuple(infos)

    def _rename(self, request: RenameStore, task: Task) -> Conversation[None]:
        store = yield from self._find(request.name, task)
        if not request.force:
            keys = self._keys(store)
            arguments = (b"list", b"%d" % ATTACHED_FOR)
            reply = yield from self._router.run(
                scripts.BOT, keys.slot, (keys.meta, keys.bots), arguments, task, writes=False
            )
            bots = tuple(bot.name for bot in bots_of(reply[1]) if bot.is_attached)
            if bots:
                raise in_use(request.name, bots)
        renamed = (request.name.encode(), request.new_name.encode(), b"%d" % store)
        registry = self._registry
        reply = yield from self._router.run(
            scripts.RENAME, registry.slot, (registry.stores,), renamed, task, writes=True
        )
        if reply[0] == b"unknown":
            raise no_such_store(request.name, self._name)
        if reply[0] == b"exists":
            raise store_exists(request.new_name, self._name)

    def _delete(self, request: DeleteStore, task: Task) -> Conversation[None]:
        store = yield from self._find(request.name, task)
        keys = self._keys(store)
        arguments = (
            uuid.uuid4().hex.encode(),
            b"1" if request.force else b"0",
            b"%d" % ATTACHED_FOR,
            b"%d" % store,
            self._channel,
        )
        while True:
            reply = yield from self._router.run(scripts.DOOM, keys.slot, keys.all, arguments, task, writes=True)
            if reply[0] != b"busy":
                break
            yield Blocked(store)
            if not (yield from task.pause()):
                raise BusyError(f"{self._name}: somebody has the store to himself; try again, or end what holds it")
        if reply[0] == b"used":
            raise in_use(request.name, tuple(sorted(bot.decode() for bot in reply[1])))
        yield from self._forget(request.name, store, task)
        if reply[0] == b"gone":
            raise no_such_store(request.name, self._name)


def _id(stored: bytes) -> int:
    return int(stored.partition(b" ")[0])
