"""Named locks and attached bots; no I/O. They never wait for an exclusive session."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import ATTACHED_FOR, LINE_PATIENCE, summed_up
from ptb_kvpersistence.backends.redis import store_scripts as scripts
from ptb_kvpersistence.model import (
    AcquireLease,
    AttachBot,
    BotInfo,
    DetachBot,
    LeaseReply,
    ListBots,
    ReleaseLease,
    RenewLease,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptb_kvpersistence.backends.redis.layout import StoreKeys
    from ptb_kvpersistence.backends.redis.routing import Router, Task
    from ptb_kvpersistence.backends.redis.wire import Conversation


class Leases:
    """Makes conversations of the requests about leases and bots.

    Attributes:
        handlers: By type of request.
    """

    def __init__(self, router: Router, keys: Callable[[int], StoreKeys]) -> None:
        self._router = router
        self._keys = keys
        self.handlers: dict[type, Callable[[Any, Task], Conversation[Any]]] = {
            AcquireLease: self._acquire,
            RenewLease: self._renew,
            ReleaseLease: self._release,
            AttachBot: self._attach,
            DetachBot: self._detach,
            ListBots: self._list_bots,
        }

    def _lease(self, what: bytes, request: Any, task: Task, *arguments: bytes) -> Conversation[list[Any]]:
        keys = self._keys(request.store)
        # By the mark of its own a request that is sent twice is known again.
        parts = (what, request.name.encode(), uuid.uuid4().hex.encode(), *arguments)
        reply = yield from self._router.run(scripts.LEASE, keys.slot, keys.locking, parts, task, writes=True)
        return reply  # type: ignore[no-any-return]

    def _acquire(self, request: AcquireLease, task: Task) -> Conversation[LeaseReply]:
        reply = yield from self._lease(
            b"acquire",
            request,
            task,
            request.holder.encode(),
            b"%d" % request.ttl,
            b"1" if request.waits else b"0",
            b"%d" % LINE_PATIENCE,
            b"%d" % ATTACHED_FOR,
        )
        if reply[0] == b"ok":
            return LeaseReply(int(reply[1]), request.holder)
        return LeaseReply(None, None if reply[1] is None else reply[1].decode(), reply[2])

    def _renew(self, request: RenewLease, task: Task) -> Conversation[bool]:
        reply = yield from self._lease(b"renew", request, task, b"%d" % request.token, b"%d" % request.ttl)
        return bool(reply[0] == b"yes")

    def _release(self, request: ReleaseLease, task: Task) -> Conversation[bool]:
        token = b"" if request.token is None else b"%d" % request.token
        reply = yield from self._lease(b"release", request, task, request.holder.encode(), token)
        return bool(reply[0] == b"yes")

    def _bot(self, store: int, what: bytes, task: Task, *arguments: bytes) -> Conversation[list[Any]]:
        keys = self._keys(store)
        parts = (what, b"%d" % ATTACHED_FOR, *arguments)
        reply = yield from self._router.run(
            scripts.BOT, keys.slot, (keys.meta, keys.bots), parts, task, writes=what != b"list"
        )
        return reply  # type: ignore[no-any-return]

    def _attach(self, request: AttachBot, task: Task) -> Conversation[None]:
        yield from self._bot(request.store, b"attach", task, request.bot.encode(), request.holder.encode())

    def _detach(self, request: DetachBot, task: Task) -> Conversation[None]:
        yield from self._bot(request.store, b"detach", task, request.bot.encode(), request.holder.encode())

    def _list_bots(self, request: ListBots, task: Task) -> Conversation[tuple[BotInfo, ...]]:
        items = (yield from self._bot(request.store, b"list", task))[1]
        return bots_of(items)


def bots_of(items: list[bytes]) -> tuple[BotInfo, ...]:
    """Make what the script lists into one item for each bot."""
    known = sorted(
        (items[at].decode(), items[at + 1], int(items[at + 2]), int(items[at + 3]), items[at + 4] == b"1")
        for at in range(0, len(items), 5)
    )
    return summed_up(BotInfo(name, since, seen, is_attached) for name, _, since, seen, is_attached in known)
