"""A backend between a bot and the real one: each request waits at gates, and some fail in every way there is."""

from __future__ import annotations

import asyncio

from ptb_kvpersistence.errors import BusyError, DatabaseError, DatabaseFullError
from ptb_kvpersistence.model import Commit

REFUSED = (BusyError, DatabaseFullError)


class SimulatedBackend:
    """One bot's way to the store."""

    def __init__(self, inner, loop, *, failures, in_threads=False, watch=lambda: None):
        self.inner = inner
        self.loop = loop
        self.failures = failures
        self.in_threads = in_threads
        self.watch = watch
        self.name = inner.name
        self.is_open = True
        self.late = []

    async def perform(self, request, timeout=None):
        """Perform a request before, while or after others have their turn, or fail."""
        is_commit = isinstance(request, Commit)
        failure = self.draw(is_commit)
        try:
            await self.loop.gate()
        except asyncio.CancelledError:
            # What a worker thread has begun is carried out though nobody waits for it any more.
            if is_commit and self.loop.chance.random() < 0.5:
                self.do_later(request)
            raise
        if failure == "refused":
            raise self.loop.chance.choice(REFUSED)("nothing was written")
        if failure == "lost":
            raise DatabaseError("cut off before it was applied")
        if failure == "late":
            self.do_later(request)
            raise DatabaseError("cut off, applied later or never")
        reply = await self.do(request)
        if failure == "unheard":
            raise DatabaseError("applied, but the reply was cut off")
        if self.loop.chance.random() < 0.7:
            await self.loop.gate()
        return reply

    def draw(self, is_commit):
        if self.loop.chance.random() >= self.failures:
            return None
        return self.loop.chance.choice(("refused", "lost", "late", "unheard") if is_commit else ("refused", "lost"))

    async def do(self, request):
        call = self.inner.perform(request)
        reply = await (self.loop.in_thread(call) if self.in_threads else call)
        self.watch()
        return reply

    def do_later(self, request):
        async def apply():
            for _ in range(self.loop.chance.randrange(12)):
                await self.loop.gate()
            await self.do(request)

        self.late.append(self.loop.detach(apply()))

    async def unfailing(self, action):
        """Await what must succeed; the requests of others go on failing."""
        failures, self.failures = self.failures, 0
        try:
            return await action
        finally:
            self.failures = failures

    def peek(self, max_age=0.0):
        return self.inner.peek(max_age)

    def blocking(self):
        return self.inner.blocking()

    async def release(self):
        if self.in_threads:
            await self.loop.in_thread(self.inner.release())

    async def close(self):
        self.is_open = False
        await self.release()
