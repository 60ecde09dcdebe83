"""The Redis backend of the async face: connections belong to one event loop and one process."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.backends.redis import settings as settings_of
from ptb_kvpersistence.backends.redis.aio_notices import AsyncNotices
from ptb_kvpersistence.backends.redis.aio_wire import Link, Pool, abandon
from ptb_kvpersistence.backends.redis.notices import SHORTEST
from ptb_kvpersistence.backends.redis.requests import Requests
from ptb_kvpersistence.backends.redis.sync import FREE_LINKS, RedisBackend, closed, inherited
from ptb_kvpersistence.backends.redis.wire import Ask, Blocked, CutError, Listen, NotSentError, Pause
from ptb_kvpersistence.errors import ReentryError
from ptb_kvpersistence.model import SetDomain

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ptb_kvpersistence.backends.redis.requests import Held
    from ptb_kvpersistence.backends.redis.settings import Node, Settings
    from ptb_kvpersistence.backends.redis.wire import Conversation
    from ptb_kvpersistence.model import Commit, R, Requested

T = TypeVar("T")


class AsyncRedisBackend:
    """Performs requests on a Redis or Valkey server or cluster without blocking the loop.

    Args:
        url: The URL, or what was read from it.
        timeout: Seconds that a request may take where it does not say.

    Attributes:
        name: The URL without a password.
        is_open: False once closed.
    """

    def __init__(self, url: str | Settings, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._settings = settings_of.parse(url) if isinstance(url, str) else url
        self.name = self._settings.name
        self.is_open = True
        self._timeout = timeout
        self._requests = Requests(self._settings)
        self._pid = process.pid
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    def _loop(self) -> _Loop:
        if not self.is_open:
            raise closed(self.name)
        loop = asyncio.get_running_loop()
        mine = self._loops.get(loop)
        if mine is None or self._pid != process.pid:
            self._leave_foreign()
            mine = self._loops[loop] = _Loop(self._settings)
            process.at_end(self, process.THEN_CLOSE, self._abandon_all)
        return mine

    def _leave_foreign(self) -> None:
        if self._pid != process.pid:
            inherited.append(self._loops)
            self._loops, self._pid = {}, process.pid
            self._requests.after_fork()
        for loop in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(loop).abandon()

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform one request within ``timeout`` seconds, waiting for exclusive sessions of others.

        Cancellation: a request that was begun is carried out all the same.

        Raises:
            ReentryError: It would wait for this very task.
            BusyError: Somebody had the store to himself all the time.
        """
        mine = self._loop()
        limit = self._timeout if timeout is None else timeout
        conversation = self._requests.perform(request, limit)
        return cast("R", await mine.shielded(self._drive(mine, conversation, asyncio.current_task())))

    async def _drive(self, mine: _Loop, conversation: Conversation[Any], caller: object) -> Any:
        try:
            effect = next(conversation)
            while True:
                try:
                    result = await self._carry_out(mine, effect, caller)
                except (NotSentError, CutError, ReentryError) as error:
                    effect = conversation.throw(error)
                else:
                    effect = conversation.send(result)
        except StopIteration as stop:
            return stop.value

    async def _carry_out(self, mine: _Loop, effect: Any, caller: object) -> Any:
        if isinstance(effect, Ask):
            return await mine.pool(effect.node).exchange(effect)
        if isinstance(effect, Pause):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Listen):
            return await mine.listen(effect, caller)
        return self._refuse_reentry(mine, effect, caller)

    def _refuse_reentry(self, mine: _Loop, effect: Blocked, caller: object) -> None:
        if (caller, effect.store) in mine.holders:
            raise ReentryError(
                f"this task is inside an exclusive transaction on a store in {self.name} and would wait for itself; "
                "use the transaction's own store, or end it first"
            )

    async def exclusive(self, store: int, timeout: float, *, durable: bool = True) -> _Session:  # noqa: ARG002 - the server's
        """Begin an exclusive session on a store, waiting up to ``timeout`` seconds.

        Raises:
            LockTimeoutError: Others had the lock all the time.
            ReentryError: This task has a session on the store already.
        """
        mine, caller = self._loop(), asyncio.current_task()
        self._refuse_reentry(mine, Blocked(store), caller)
        beginning = mine.start(self._begin(mine, store, timeout, caller))
        try:
            held = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # Whether or not it gets the lock, nobody will be there; without its link it holds nothing.
            beginning.cancel()
            beginning.add_done_callback(lambda _done: mine.drop_link(caller))
            raise
        mine.users.pop(caller, None)
        mine.holders.add((caller, store))
        return _Session(self, mine, held, caller)

    async def _begin(self, mine: _Loop, store: int, timeout: float, caller: object) -> Held:
        held: Held | None = None
        try:
            held = await self._drive(mine, self._requests.begin(store, timeout, self._timeout), caller)
        finally:
            if held is None:
                mine.drop_link(caller)
        return held

    async def end(self, mine: _Loop, held: Held, caller: object, commit: Commit | None) -> None:
        """End a session."""
        is_well = False
        try:
            if self._pid == process.pid:
                await self._drive(mine, self._requests.end(held, commit, self._timeout), caller)
                is_well = True
        finally:
            mine.holders.discard((caller, held.store))
            mine.take_back(held.link, is_well=is_well and self._loops.get(asyncio.get_running_loop()) is mine)

    def peek(self, max_age: float = 0.0) -> object | None:
        """Look at notifications without I/O: equal tokens mean that nothing was committed between."""
        if max_age < SHORTEST or self._pid != process.pid or not self.is_open:
            return None
        try:
            mine = self._loop()
        except RuntimeError:  # outside of any loop
            return None
        if mine.notices is None:
            drive = functools.partial(self._drive, mine, caller=None)
            mine.notices = AsyncNotices(self._settings, self._requests, drive)
        return mine.notices.peek(max_age)

    def blocking(self) -> RedisBackend:
        """Make a sync backend for the same database."""
        return RedisBackend(self._settings, timeout=self._timeout)

    async def release(self) -> None:
        """Close what the current loop has opened, once requests that are under way have ended."""
        self._leave_foreign()
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.close()
        if not self._loops:
            process.forget(self)

    async def close(self) -> None:
        """Close for good; later requests raise StoreClosedError."""
        self.is_open = False
        await self.release()
        self._abandon_all()

    def _abandon_all(self) -> None:
        if self._pid == process.pid:
            while self._loops:
                self._loops.popitem()[1].abandon()


class _Loop:
    """What one event loop has.

    Attributes:
        holders: Which task has which store to itself.
        users: Links of tasks that are about to have one.
        notices: Listens to what is committed, once somebody has asked.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[Node, Pool] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._links: set[Link] = set()
        self._free: list[Link] = []
        self.holders: set[tuple[object, int]] = set()
        self.users: dict[object, Link] = {}
        self.notices: AsyncNotices | None = None

    def pool(self, node: Node) -> Pool:
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools[node] = Pool(self._settings, node)
        return pool

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        # A loop that is closed in mid-request is no reason for a second complaint.
        cast("Any", task)._log_destroy_pending = False  # noqa: SLF001
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have been cancelled; nobody else asks for it

    async def shielded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self.start(coroutine))

    async def listen(self, listen: Listen, user: object) -> Link:
        link = self.users.get(user)
        if link is not None and not link.is_broken and link.node == listen.node:
            return link
        self.drop_link(user)
        link = next((free for free in self._free if free.node == listen.node), None)
        if link is None:
            link = await Link.open(self._settings, listen)
            self._links.add(link)
        else:
            self._free.remove(link)
        self.users[user] = link
        return link

    def drop_link(self, user: object) -> None:
        link = self.users.pop(user, None)
        if link is not None:
            self.take_back(link, is_well=False)

    def take_back(self, link: Link, *, is_well: bool) -> None:
        if is_well and len(self._free) < FREE_LINKS:
            self._free.append(link)
            return
        # When nobody listens to its channel any more, the session is over for the server too.
        self._links.discard(link)
        link.close()

    async def close(self) -> None:
        if self.notices is not None:
            await self.notices.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for pool in self._pools.values():
            pool.close()
        while self._free:
            self.take_back(self._free.pop(), is_well=False)
        # Transports say goodbye on the loop's next turn; it may be closed right after.
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Close everything without a loop."""
        if self.notices is not None:
            self.notices.abandon()
        for pool in self._pools.values():
            pool.abandon()
        while self._links:
            abandon(self._links.pop().connection)


class _Session:
    """An exclusive session of one task."""

    def __init__(self, backend: AsyncRedisBackend, mine: _Loop, held: Held, caller: object) -> None:
        self._backend = backend
        self._mine = mine
        self._held = held
        self._caller = caller

    async def perform(self, request: Requested[R]) -> R:
        """Perform a reading request; the setting of a domain waits for the end."""
        if isinstance(request, SetDomain):
            self._held.settings[request.domain] = request.keep
            return cast("R", None)
        return await self._backend.perform(request)

    async def end(self, commit: Commit | None) -> None:
        """Apply a commit, if given, and let the others go on; done to the end though the caller is cancelled."""
        await self._mine.shielded(self._backend.end(self._mine, self._held, self._caller, commit))
