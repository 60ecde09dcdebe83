"""Plays one random history of bots on one store, and judges its end."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from unittest import mock

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.memory import AsyncMemoryBackend, MemoryEngine
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.model import Address, Changes, Commit, GetMany, OpenStore, Put
from ptb_kvpersistence.persistence import keeper, ptb, sight, state
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.operations import Handle
from tests.property.history_bots import WITH_LOG, Bot, Script
from tests.property.history_ledger import Ledger
from tests.property.simulated_backend import SimulatedBackend
from tests.property.simulated_loop import SimulatedLoop


class World:
    """Everything in one history."""

    def __init__(self, seed, *, path=None, steps=None, failures=None):
        self.chance = random.Random(seed)
        self.path = path
        self.loop = SimulatedLoop(self.chance)
        self.engine = MemoryEngine("memory:")
        self.steps = steps or self.chance.choice((4, 8, 8, 16))
        self.failures = self.chance.choice((0, 0, 0.05, 0.3)) if failures is None else failures
        self.can_cancel = self.chance.random() < 0.3
        self.has_shared_chats = self.chance.random() < 0.5
        self.ledger = Ledger()
        self.store_id = None
        self.tokens = 0
        self.errors = 0
        self.saved = 0
        self.backends = []
        self.keepers = []
        self.packs = self.chance.random() < 0.3
        self.unhandled = []
        self.loop.set_exception_handler(lambda _loop, context: self.unhandled.append(context["message"]))
        self.applications = {}
        self.codec = Codec()

    def new_backend(self):
        inner = AsyncMemoryBackend(engine=self.engine) if self.path is None else AsyncSQLiteBackend(self.path)
        backend = SimulatedBackend(
            inner, self.loop, failures=self.failures, in_threads=self.path is not None, watch=self.watch
        )
        self.backends.append(backend)
        return backend

    def new_store(self, backend):
        return AsyncStore(backend, Handle("default", "ensure", self.codec))

    def watch(self):
        """Look at the store after each request: no conversation is ahead of its user's data."""
        if self.path is not None or self.store_id is None:
            return
        changes = self.engine._stores[self.store_id].changes
        for number in range(3):
            talk = changes.get(Address(f"ptb:conversations:bot{number}", f'["talk",[{100 + number}]]'))
            if talk is not None:
                data = changes.get(Address("ptb:user_data", str(100 + number)))
                assert data is not None, "a conversation without data"
                assert self.codec.decode(data.value)["step"] >= self.codec.decode(talk.value), "a conversation is ahead"

    # --- the play ---

    def play(self):
        """Play it; AssertionError if anything is lost, doubled or different between the bots."""
        with (
            mock.patch.object(keeper, "time", SimpleNamespace(monotonic=self.loop.time)),
            mock.patch.object(sight, "monotonic", self.loop.time),
            mock.patch.object(sight, "LOOK_TIMEOUT", sight.LOOK_TIMEOUT),
            mock.patch.object(ptb, "find_application", self.applications.get),
            mock.patch.multiple(state, PACK_FROM=1 if self.packs else 10_000, SMALLEST=1, _give_back=lambda: None),
        ):
            try:
                self.loop.run_until_complete(self.run())
            finally:
                for some in self.keepers:
                    process.forget(some._token_of_end)
                self.loop.run_until_complete(self.close())
                self.loop.close()
        return self

    async def close(self):
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for backend in self.backends:
            await asyncio.gather(*backend.late, return_exceptions=True)
            await backend.close()

    async def run(self):
        reader = self.new_backend()
        reader.failures = 0
        self.store_id = (await reader.do(OpenStore("default", "ensure"))).id
        await self.prepare(reader)
        bots = [Bot(self, f"bot{number}", number) for number in range(self.chance.choice((2, 2, 3)))]
        scripts = [Script(self)] if self.chance.random() < 0.4 else []
        await asyncio.gather(*(bot.start() for bot in bots))
        await asyncio.gather(*(one.live() for one in (*bots, *scripts)))
        for backend in self.backends:
            await asyncio.gather(*backend.late)
        for bot in bots:
            bot.backend.failures = 0
        # The loop lets time pass by chance; from now on nobody gives up waiting for what others have written.
        sight.LOOK_TIMEOUT = 1e7  # type: ignore[misc]  # put back by play()
        await asyncio.gather(*(self.end(bot, bots) for bot in bots))
        heads = []
        for _ in range(3):
            self.loop.pass_time(1)
            for bot in bots:
                await bot.look()
            await self.judge(bots, reader)
            for bot in bots:
                await bot.cycle()
            heads.append((await reader.do(Changes(self.store_id, 0))).head)
        # The first round may store empty dicts that the last look has made.
        assert heads[1] == heads[2], "something was left to write"
        assert not self.unhandled

    async def end(self, bot, bots):
        """Save, and look on while others still save."""
        await bot.save()
        self.saved += 1
        while self.saved < len(bots):
            await bot.look()
            await self.loop.gate()

    async def prepare(self, backend):
        puts = []
        for section, id_, _ in WITH_LOG:
            key = "data" if id_ is None else str(id_)
            puts.append(Put(f"ptb:{section}", key, b'{"log":[]}'))
        token = self.tokens = 1
        puts.append(Put("ptb:user_data", "2", self.codec.encode({token: {}})))
        self.ledger.record("add", ("user_data", 2, None), token)
        await backend.do(Commit(self.store_id, tuple(puts)))

    async def judge(self, bots, backend):
        entities = {("user_data", id_, None): "ptb:user_data" for id_ in (1, 2, 3)}
        entities["bot_data", None, None] = "ptb:bot_data"
        for bot in bots:
            for chat in (7, 8):
                entity = bot.entity("chat_data", chat)
                entities[entity] = "ptb:chat_data" + ("" if entity[2] is None else f":{entity[2]}")
        addresses = [Address(domain, "data" if id_ is None else str(id_)) for (_, id_, _), domain in entities.items()]
        records = await backend.do(GetMany(self.store_id, tuple(addresses)))
        for entity, record in zip(entities, records, strict=True):
            stored = None if record is None else self.codec.decode(record.value)
            self.ledger.check(entity, stored)
            for bot in bots:
                if entity[2] in (None, bot.name):
                    held = bot.data[entity[0]].get(entity[1])
                    assert held == (stored or {}), f"memory of {bot.name}: {entity}"
