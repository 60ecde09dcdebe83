"""One command to the server that is in charge, as often as it takes until the deadline; no I/O.

Redis-py never repeats anything by itself here. What is repeated is safe to repeat: reads, and scripts that recognise
their own repetition.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as redis_errors

from ptb_kvpersistence.backends.base import pauses
from ptb_kvpersistence.backends.redis import inspection
from ptb_kvpersistence.backends.redis.failures import (
    PASSING,
    first_word,
    is_final,
    redirection,
    refused,
    unknown_outcome,
    unreachable,
)
from ptb_kvpersistence.backends.redis.settings import Node
from ptb_kvpersistence.backends.redis.wire import (
    Ask,
    CutError,
    Listen,
    NoneFreeError,
    Pause,
    TransportError,
    pack,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptb_kvpersistence.backends.redis.lua import Script
    from ptb_kvpersistence.backends.redis.settings import Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation

SLOTS: Final = 16384
_LOOK_TIMEOUT: Final = 1.0
"""Seconds for one server to say what the cluster looks like; another one may answer sooner."""
GRACE: Final = 0.5
"""Seconds for the last attempt, which begins when the time is up, so that it says whom or what it waited for."""
_ASKING: Final = pack((b"ASKING",))


class Task:
    """One request under way.

    Attributes:
        limit: Seconds that it may take, without the last attempt.
        deadline: When these are over, by the monotonic clock.
        cut: What befell the connection after something had been written to it, if anything did.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.deadline = time.monotonic() + limit
        self.cut: CutError | None = None
        # These take their time from the first pause on; the deadline is ours.
        self._pauses = pauses(limit)

    @property
    def io_deadline(self) -> float:
        """When an attempt has to be over that begins now."""
        return max(self.deadline, time.monotonic() + min(GRACE, self.limit))

    def pause(self) -> Conversation[bool]:
        """Wait a little; gives False at once when the time is up."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return False
        yield Pause(min(next(self._pauses, 0.0), left))
        return True


class Router:
    """Knows which server is in charge of what.

    Attributes:
        masters: All servers that are in charge of something, as far as known.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_ready = False
        self._slots: list[Node] = []
        self._seed = 0
        self.masters: tuple[Node, ...] = ()

    def node(self, slot: int) -> Node:
        """The server that is in charge of a slot."""
        return self._slots[slot] if self._slots else self._settings.seeds[self._seed % len(self._settings.seeds)]

    def run(
        self, script: Script, slot: int, keys: Iterable[bytes], arguments: Iterable[bytes], task: Task, *, writes: bool
    ) -> Conversation[Any]:
        """Run a script, sending its text only where the server does not know it."""
        keys = tuple(keys)
        rest = (b"%d" % len(keys), *keys, *arguments)
        short = pack((b"EVALSHA", script.digest, *rest))
        reply = yield from self._ask(slot, short, task, writes=writes)
        if isinstance(reply, redis_errors.NoScriptError):
            reply = yield from self._ask(slot, pack((b"EVAL", script.text, *rest)), task, writes=writes)
        return self._checked(reply)

    def command(self, slot: int, *arguments: bytes, task: Task, writes: bool = False) -> Conversation[Any]:
        """Run a plain command."""
        return self._checked((yield from self._ask(slot, pack(arguments), task, writes=writes)))

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, Exception):
            raise refused(reply, self._settings.name) from reply
        return reply

    def _ask(self, slot: int, packed: bytes, task: Task, *, writes: bool) -> Conversation[Any]:
        redirected: Node | None = None
        prefix = b""
        while True:
            if not self._is_ready:
                yield from self.prepare(task)
            node = redirected or self.node(slot)
            failure: TransportError | Exception
            try:
                replies = yield Ask(node, prefix + packed, 2 if prefix else 1, task.io_deadline)
            except TransportError as error:
                failure = error
                if writes and isinstance(error, CutError):
                    task.cut = error
            else:
                failure = reply = replies[-1]
                if not isinstance(reply, Exception):
                    return reply
            redirected, prefix = None, b""
            found = redirection(failure, node)
            if found is not None:
                word, redirected = found
                if word == "MOVED":
                    yield from self._look(task, first=redirected)
                else:
                    prefix = _ASKING
            elif not isinstance(failure, TransportError) and first_word(failure) not in PASSING:
                if not self._slots or not isinstance(failure, redis_errors.ReadOnlyError):
                    return failure
            elif isinstance(failure, TransportError) and is_final(failure.cause):
                raise self._given_up(failure, task)
            if redirected is None or time.monotonic() >= task.deadline:
                yield from self._try_later(failure, node, task)

    def listen(self, slot: int, task: Task) -> Conversation[Any]:
        """Get a link to the server that is in charge of a slot."""
        while True:
            if not self._is_ready:
                yield from self.prepare(task)
            node = self.node(slot)
            try:
                return (yield Listen(node, task.io_deadline))
            except TransportError as error:
                failure = error
            if is_final(failure.cause):
                raise self._given_up(failure, task)
            yield from self._try_later(failure, node, task)

    def _try_later(self, failure: TransportError | Exception, node: Node, task: Task) -> Conversation[None]:
        if not (yield from task.pause()):
            raise self._given_up(failure, task)
        if isinstance(failure, NoneFreeError):
            return
        if self._slots:
            yield from self._look(task, avoid=node)
        elif isinstance(failure, TransportError):
            self._seed += 1

    def _given_up(self, failure: TransportError | Exception, task: Task) -> Exception:
        error: Exception
        if task.cut is not None:
            error = unknown_outcome(task.cut, self._settings.name, task.limit)
        elif isinstance(failure, TransportError):
            none_free = isinstance(failure, NoneFreeError)
            error = unreachable(failure, self._settings.name, task.limit, none_free=none_free)
        else:
            error = refused(failure, self._settings.name)
        error.__cause__ = failure.cause if isinstance(failure, TransportError) else failure
        return error

    # --- what the servers look like ---

    def ready(self, limit: float) -> Conversation[None]:
        """Know the servers as they are now, within ``limit`` seconds."""
        task = Task(limit)
        yield from self.prepare(task)
        if self._slots:
            yield from self._look(task)

    def is_as_before(self, slots: Any, role: Any, node: Node) -> bool:
        """Whether a server that was asked for both says nothing new about who is in charge."""
        if not self._slots:
            return isinstance(role, Exception) or bool(role[0] == b"master")
        if isinstance(slots, Exception):
            return False
        masters = {Node(master[0].decode() or node.host, master[1]) for _, _, master, *_ in slots}
        return masters == set(self.masters)

    def prepare(self, task: Task) -> Conversation[None]:
        """Find out, before the first request, what kind of server this is, and whether data is safe there."""
        while not self._is_ready:
            node = self.node(0)
            try:
                replies = yield Ask(node, inspection.QUESTIONS, inspection.QUESTION_COUNT, task.io_deadline)
            except TransportError as error:
                if is_final(error.cause):
                    raise self._given_up(error, task) from error
                yield from self._try_later(error, node, task)
                continue
            slots, info = replies[:2]
            failed = next((reply for reply in (info, slots) if first_word_of(reply) in PASSING), None)
            if failed is not None:
                yield from self._try_later(failed, node, task)
                continue
            if isinstance(info, Exception) and first_word(info) != "NOPERM":
                raise refused(info, self._settings.name) from info
            self._take_slots(slots, node)
            if not self._slots:
                self.masters = (node,)
            yield from self._inspect(node, replies, task)
            self._is_ready = True

    def _inspect(self, node: Node, replies: list[Any], task: Task) -> Conversation[None]:
        inspection.inspect(self._settings, replies)
        for other in self.masters:
            if other != node:
                try:
                    replies = yield Ask(other, inspection.QUESTIONS, inspection.QUESTION_COUNT, task.deadline)
                except TransportError:
                    continue  # a failover is on its way; what cannot be asked cannot be said
                inspection.inspect(self._settings, replies)

    def _take_slots(self, reply: Any, asked: Node) -> None:
        if isinstance(reply, Exception) or self._settings.is_cluster is False:
            if self._settings.is_cluster:
                raise refused(reply, self._settings.name) from reply
            return
        slots = [asked] * SLOTS
        covered = 0
        for first, last, master, *_ in reply:
            node = Node(master[0].decode() or asked.host, master[1])
            slots[first : last + 1] = [node] * (last + 1 - first)
            covered += last + 1 - first
        if covered:
            self._slots = slots
            self.masters = tuple(dict.fromkeys(slots))

    def _look(self, task: Task, first: Node | None = None, avoid: Node | None = None) -> Conversation[None]:
        """Ask any server of the cluster what it looks like now."""
        known = dict.fromkeys((*((first,) if first else ()), *self.masters, *self._settings.seeds))
        for node in sorted(known, key=lambda node: node == avoid):
            deadline = min(task.deadline, time.monotonic() + _LOOK_TIMEOUT)
            try:
                (reply,) = yield Ask(node, inspection.SLOTS_QUESTION, 1, deadline)
            except TransportError:
                continue
            if not isinstance(reply, Exception):
                self._take_slots(reply, node)
                return


def first_word_of(reply: Any) -> str:
    """The kind of an error, or nothing for what is none."""
    return first_word(reply) if isinstance(reply, Exception) else ""
