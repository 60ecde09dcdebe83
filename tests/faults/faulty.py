"""A backend that fails as told, around a real one; no tests here."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from ptb_kvpersistence import KVPersistence, process
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.errors import BusyError, DatabaseError, DatabaseFullError, ReadOnlyError
from ptb_kvpersistence.model import Commit
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.operations import Handle

REFUSALS = {"busy": BusyError, "full": DatabaseFullError, "read-only": ReadOnlyError}
FAULTS = (*REFUSALS, "lost before", "lost after")
"""What may happen to a commit: a refusal, or a cut connection before or after it was applied."""


class FaultyBackend:
    """Commits fail as ``plan`` says, one item each: a fault, or None for a commit that works."""

    def __init__(self, backend):
        self._backend = backend
        self.plan = []
        self.default = None
        self.commits = []
        self.pause = 0

    @property
    def name(self):
        return self._backend.name

    @property
    def is_open(self):
        return self._backend.is_open

    def _next(self):
        return self.plan.pop(0) if self.plan else self.default

    async def perform(self, request, timeout=None):
        if not isinstance(request, Commit):
            return await self._backend.perform(request, timeout)
        self.commits.append(request)
        fault = self._next()
        if self.pause:
            await asyncio.sleep(self.pause)
        if fault in REFUSALS:
            raise REFUSALS[fault](f"on purpose: {fault}")
        if fault == "lost before":
            raise DatabaseError("on purpose: cut off before")
        reply = await self._backend.perform(request, timeout)
        if fault == "lost after":
            raise DatabaseError("on purpose: cut off after")
        return reply

    def peek(self, max_age=0.0):
        return self._backend.peek(max_age)

    def blocking(self):
        return FaultyBlocking(self)

    async def release(self):
        await self._backend.release()

    async def close(self):
        await self._backend.close()


class FaultyBlocking:
    """The sync backend of the end of the process, with the same plan."""

    def __init__(self, owner):
        self._owner = owner
        self._backend = owner._backend.blocking()
        self.name = owner.name

    @property
    def is_open(self):
        return self._backend.is_open

    def perform(self, request, timeout=None):
        fault = self._owner._next() if isinstance(request, Commit) else None
        if isinstance(request, Commit):
            self._owner.commits.append(request)
        if fault in REFUSALS:
            raise REFUSALS[fault](f"on purpose: {fault}")
        if fault == "lost before":
            raise DatabaseError("on purpose: cut off before")
        reply = self._backend.perform(request, timeout)
        if fault == "lost after":
            raise DatabaseError("on purpose: cut off after")
        return reply

    def close(self):
        self._backend.close()


class Bot:
    """What PTB does with a persistence, as far as user_data goes: one dict per user, refresh, change, update."""

    def __init__(self, persistence, backend):
        self.persistence = persistence
        self.backend = backend
        self.data = {}

    @property
    def keeper(self):
        return self.persistence._keeper

    async def start(self):
        self.data = dict(await self.persistence.get_user_data())
        return self

    async def touch(self, user, change):
        """One update of a user: refresh, handler."""
        live = self.data.setdefault(user, {})
        await self.persistence.refresh_user_data(user, live)
        change(live)

    def updates(self, users):
        """The coroutines of one cycle."""
        return [self.persistence.update_user_data(user, self.data[user]) for user in users]

    async def cycle(self, users):
        """One cycle; its outcomes, one per user."""
        return await asyncio.gather(*self.updates(users), return_exceptions=True)


def append(item):
    """A handler that appends to a list and counts."""

    def change(live):
        live.setdefault("items", []).append(item)
        live["count"] = live.get("count", 0) + 1

    return change


@asynccontextmanager
async def faulty_bot(path, *, bot="4711", share=("user_data",), merge=None, plan=(), **options):
    """A bot on a faulty backend whose counters are merged by sum; whatever is pending is dropped at the end."""
    backend = FaultyBackend(AsyncSQLiteBackend(str(path)))
    backend.plan = list(plan)
    store = AsyncStore(backend, Handle("default", "ensure", Codec()))
    policies = {"user_data.*.count": "sum"} if merge is None else merge
    persistence = KVPersistence(store=store, bot=bot, share=share, merge=policies, max_staleness=0, **options)
    try:
        yield await Bot(persistence, backend).start()
    finally:
        forget(persistence)
        await backend.close()


def forget(persistence):
    """Keep a persistence from saving when the tests end."""
    keeper = persistence._keeper
    if keeper._retry is not None:
        keeper._retry.cancel()
    keeper.replica.dirty.clear()
    keeper.replica.unresolved = None
    keeper._touched.clear()
    keeper._touched_before.clear()
    process.forget(keeper._token_of_end)
