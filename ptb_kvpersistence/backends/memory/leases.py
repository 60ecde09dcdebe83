"""Named locks and attached bots of a memory database; called under the engine's lock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import ATTACHED_FOR, LINE_PATIENCE, lease_lost, summed_up
from ptb_kvpersistence.backends.base import now as now_ms
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

    from ptb_kvpersistence.model import Fence


@dataclass
class _Lease:
    token: int = 0
    holder: str | None = None
    expires_at: int = 0
    line: dict[str, int] = field(default_factory=dict)
    """Who waits, in order, and when they last asked."""

    def is_held(self, token: int | None, now: int) -> bool:
        return self.holder is not None and self.token == token and self.expires_at > now


class MemoryLeases:
    """Performs the requests about leases and bots.

    Attributes:
        handlers: By type of request.
    """

    def __init__(self) -> None:
        self._leases: dict[tuple[int, str], _Lease] = {}
        self._bots: dict[tuple[int, str, str], BotInfo] = {}
        self.handlers: dict[type, Callable[[Any], Any]] = {
            AcquireLease: self._acquire,
            RenewLease: self._renew,
            ReleaseLease: self._release,
            AttachBot: self._attach,
            DetachBot: self._detach,
            ListBots: self._list_bots,
        }

    def _get(self, store: int, name: str) -> _Lease:
        return self._leases.setdefault((store, name), _Lease())

    def _acquire(self, request: AcquireLease) -> LeaseReply:
        now, lease = now_ms(), self._get(request.store, request.name)
        if lease.expires_at <= now:
            lease.holder = None
        ahead = 0
        for holder, seen_at in lease.line.items():
            if holder == request.holder:
                break
            ahead += seen_at > now - LINE_PATIENCE
        if lease.holder is not None or ahead:
            if request.waits:
                lease.line[request.holder] = now
            return LeaseReply(None, lease.holder, ahead)
        lease.line = {
            holder: seen_at
            for holder, seen_at in lease.line.items()
            if holder != request.holder and seen_at > now - ATTACHED_FOR
        }
        lease.token = max(lease.token + 1, time.time_ns() // 1000)
        lease.holder, lease.expires_at = request.holder, now + request.ttl
        return LeaseReply(lease.token, request.holder)

    def _renew(self, request: RenewLease) -> bool:
        now, lease = now_ms(), self._get(request.store, request.name)
        if not lease.is_held(request.token, now):
            return False
        lease.expires_at = now + request.ttl
        return True

    def _release(self, request: ReleaseLease) -> bool:
        lease = self._get(request.store, request.name)
        lease.line.pop(request.holder, None)
        if not lease.is_held(request.token, now_ms()):
            return False
        lease.holder = None
        return True

    def check(self, store: int, fences: tuple[Fence, ...]) -> None:
        """Raise LeaseLostError unless all of the locks are held."""
        for name, token in fences:
            if not self._get(store, name).is_held(token, now_ms()):
                raise lease_lost(name)

    def _attach(self, request: AttachBot) -> None:
        bot, now = (request.store, request.bot), now_ms()
        since = next((info.attached_at for info in self.attached(request.store) if info.name == request.bot), now)
        gone = [key for key, info in self._bots.items() if key[:2] == bot and not _is_attached(info, now)]
        for key in gone:
            del self._bots[key]
        self._bots[request.store, request.bot, request.holder] = BotInfo(request.bot, since, now, is_attached=True)

    def _detach(self, request: DetachBot) -> None:
        key = (request.store, request.bot, request.holder)
        if key in self._bots:
            self._bots[key] = self._bots[key]._replace(last_seen=now_ms(), is_attached=False)

    def _list_bots(self, request: ListBots) -> tuple[BotInfo, ...]:
        now = now_ms()
        return summed_up(
            info._replace(is_attached=_is_attached(info, now))
            for (store, _, _), info in sorted(self._bots.items())
            if store == request.store
        )

    def attached(self, store: int) -> tuple[BotInfo, ...]:
        """List the bots that are attached to a store now."""
        return tuple(info for info in self._list_bots(ListBots(store)) if info.is_attached)

    def forget(self, store: int) -> None:
        """Drop all that is known about a store."""
        self._leases = {key: lease for key, lease in self._leases.items() if key[0] != store}
        self._bots = {key: info for key, info in self._bots.items() if key[0] != store}


def _is_attached(info: BotInfo, now: int) -> bool:
    return info.is_attached and info.last_seen > now - ATTACHED_FOR
