"""Bots as PTB runs them, on a simulated loop: live dicts, handlers that edit step by step, marks, cycles, drops.

``Bot`` does what ``telegram.ext.Application`` does around a persistence and nothing else; ``Script`` is a program
that edits stored entries by compare-and-set, without a persistence.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from types import SimpleNamespace

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.errors import KVPersistenceError
from ptb_kvpersistence.model import Address, Commit, Delete, GetMany, Put, VersionCheck
from ptb_kvpersistence.persistence.kv import KVPersistence
from tests.property.history_ledger import flat_own, is_droppable
from tests.property.simulated_loop import owner

POLICIES = {"user_data.*.visits": "sum", "bot_data.visits": "sum"}
WITH_LOG = (("user_data", 1, None), ("bot_data", None, None))


class Writer:
    """Makes edits, each of them in one step."""

    def __init__(self, world, name):
        self.world = world
        self.chance = world.chance
        self.name = name

    def token(self):
        self.world.tokens += 1
        return self.world.tokens

    def edit(self, entity, data):
        """Change the data of an entity; give what to record."""
        if is_droppable(entity):
            return self.edit_flat(entity, data)
        action = self.chance.random()
        if action < 0.3 and entity in WITH_LOG:
            token = self.token()
            data["log"].append(token)
            return ("append", entity, self.name, token)
        if action < 0.5:
            amount = self.chance.choice((1, 1, 1, 7, -2))
            data["visits"] = data.get("visits", 0) + amount
            return ("count", entity, amount)
        if action < 0.75:
            return self.edit_own(entity, data.setdefault("own", {}).setdefault(self.name, {}))
        if action < 0.95:
            return self.edit_shelf(entity, data.setdefault("shelf", {}))
        key, value = self.chance.choice(("color", "shape")), self.token()
        data[key] = value
        return ("contest", entity, key, value)

    def edit_own(self, entity, keys):
        key = self.chance.choice(("a", "b", 3, (4, "c")))
        if key in keys and self.chance.random() < 0.4:
            del keys[key]
            return ("remove", entity, self.name, key)
        value = keys[key] = self.token()
        return ("put", entity, self.name, key, value)

    def edit_shelf(self, entity, shelf):
        if shelf and self.chance.random() < 0.5:
            token = self.chance.choice(list(shelf))
            del shelf[token]
            return ("take", entity, token)
        token = self.token()
        shelf[token] = {"by": self.name}
        return ("add", entity, token)

    def edit_flat(self, entity, data):
        if self.chance.random() < 0.5:
            keys = {key: value for (writer, key), value in flat_own(data).items() if writer == self.name}
            key = self.chance.choice("ab")
            if key in keys and self.chance.random() < 0.4:
                del data[f"{self.name}:{key}"]
                return ("remove", entity, self.name, key)
            value = data[f"{self.name}:{key}"] = self.token()
            return ("put", entity, self.name, key, value)
        tokens = [key for key in data if isinstance(key, int)]
        if tokens and self.chance.random() < 0.5:
            token = self.chance.choice(tokens)
            del data[token]
            return ("take", entity, token)
        token = self.token()
        data[token] = {"by": self.name}
        return ("add", entity, token)


class Bot(Writer):
    """One bot with its memory; restarts make a new one of each but keep the name."""

    def __init__(self, world, name, number):
        super().__init__(world, name)
        self.number = number
        self.backend = world.new_backend()
        self.has_shared_chats = world.has_shared_chats
        self.on_flush = self.chance.random() < 0.1
        self.handlers = []
        self.updates = 0
        self.boot()

    def boot(self):
        share = ("user_data", "bot_data") + (("chat_data",) if self.has_shared_chats else ())
        self.persistence = KVPersistence(
            store=self.world.new_store(self.backend),
            bot=self.name,
            share=share,
            merge=POLICIES,
            max_staleness=self.chance.choice((0, 0.01, 0.5)),
            update_interval=self.chance.choice((0.5, 60)),
            on_flush=self.on_flush,
        )
        self.world.keepers.append(self.persistence._keeper)
        self.persistence.bot = SimpleNamespace(token=self.name)
        self.world.applications[self.persistence] = self
        self.data = {"user_data": defaultdict(dict), "chat_data": defaultdict(dict)}
        self.marked = {"user_data": {}, "chat_data": {}}
        self.dropped = {"user_data": {}, "chat_data": {}}
        self.talks = {}
        self.moved_talks = {}
        self.lock = asyncio.Lock()

    # --- what KVPersistence looks at in an Application ---

    running = True
    user_data = property(lambda self: self.data["user_data"])
    chat_data = property(lambda self: self.data["chat_data"])
    bot_data = property(lambda self: self.data["bot_data"][None])
    context_types = property(lambda self: self.persistence.context_types)
    _conversation_handler_conversations = property(lambda self: {"talk": self.talks})

    async def start(self):
        await self.backend.unfailing(self.load())

    async def load(self):
        persistence = self.persistence
        self.data["user_data"].update(await persistence.get_user_data())
        self.data["chat_data"].update(await persistence.get_chat_data())
        self.data["bot_data"] = {None: await persistence.get_bot_data()}
        self.talks = await persistence.get_conversations("talk")

    # --- updates ---

    def entity(self, section, id_):
        is_private = section == "chat_data" and not self.has_shared_chats
        return (section, id_, self.name if is_private else None)

    async def refresh(self, chat, user):
        await self.persistence.refresh_bot_data(self.data["bot_data"][None])
        await self.persistence.refresh_chat_data(chat, self.data["chat_data"][chat])
        await self.persistence.refresh_user_data(user, self.data["user_data"][user])

    async def handle(self):
        """An update from somebody: refresh, edit step by step, mark."""
        chat, user = self.chance.choice((7, 8)), self.chance.choice((1, 1, 2, 2, 3))
        await self.refresh(chat, user)
        for _ in range(self.chance.choice((0, 1, 1, 2, 3, 5))):
            section, id_ = self.chance.choice((("user_data", user), ("chat_data", chat), ("bot_data", None)))
            entity = self.entity(section, id_)
            if is_droppable(entity) and self.chance.random() < 0.15:
                self.drop(entity)
            else:
                self.world.ledger.record(*self.edit(entity, self.data[section][id_]))
            if self.chance.random() < 0.6:
                await self.world.loop.gate()
        self.marked["chat_data"][chat] = self.marked["user_data"][user] = None

    def drop(self, entity):
        section, id_, _ = entity
        seen = self.data[section].pop(id_, {})
        self.dropped[section][id_] = None
        self.world.ledger.record("drop", entity, self.name, seen)

    async def talk(self):
        """A step of a conversation: the data first, then the state, and the mark after other handlers."""
        user = 100 + self.number
        await self.refresh(9, user)
        data = self.data["user_data"][user]
        step = data["step"] = data.get("step", 0) + 1
        await self.world.loop.gate()
        self.talks[user,] = max(step, self.talks.get((user,), 0))
        self.moved_talks[user,] = None
        await self.world.loop.gate()
        self.marked["chat_data"][9] = self.marked["user_data"][user] = None

    # --- the persistence updater ---

    async def cycle(self):
        """What Application.update_persistence does; the persistence's own errors are for PTB's error handlers."""
        async with self.lock:
            persistence = self.persistence
            tickets = [persistence.update_bot_data(copy.deepcopy(self.data["bot_data"][None]))]
            for section, update, drop in (
                ("chat_data", persistence.update_chat_data, persistence.drop_chat_data),
                ("user_data", persistence.update_user_data, persistence.drop_user_data),
            ):
                marked, self.marked[section] = self.marked[section], {}
                dropped, self.dropped[section] = self.dropped[section], {}
                tickets += [update(id_, copy.deepcopy(self.data[section][id_])) for id_ in marked if id_ not in dropped]
                tickets += [drop(id_) for id_ in dropped]
            moved, self.moved_talks = self.moved_talks, {}
            tickets += [persistence.update_conversation("talk", key, self.talks[key]) for key in moved]
            raise_unexpected(await asyncio.gather(*tickets, return_exceptions=True))

    async def flush(self):
        try:
            await self.persistence.flush()
        except KVPersistenceError:
            self.world.errors += 1
            if not self.backend.failures:
                raise

    # --- a life ---

    async def live(self):
        """Do this and that until the history has its length."""
        owner.set(self.name)
        for _ in range(self.world.steps):
            await self.world.loop.gate()
            action = self.chance.random()
            if action < 0.5:
                self.spawn(self.handle())
            elif action < 0.58:
                self.spawn(self.talk())
            elif action < 0.8:
                self.spawn(self.cycle())
            elif action < 0.86:
                self.spawn(self.flush())
            elif action < 0.9:
                await asyncio.sleep(self.chance.choice((0.1, 3, 30)))
            elif action < 0.95 and self.world.can_cancel and self.handlers:
                self.chance.choice(self.handlers).cancel()
            elif action < 0.97:
                await (self.restart() if self.chance.random() < 0.5 else self.crash())
        await self.rest()

    def spawn(self, coroutine):
        self.handlers.append(self.world.loop.create_task(coroutine))

    async def rest(self):
        """Wait for everything that was begun."""
        handlers, self.handlers = self.handlers, []
        raise_unexpected(await asyncio.gather(*handlers, return_exceptions=True))

    async def restart(self):
        await self.rest()
        await self.save()
        self.boot()
        await self.start()

    async def crash(self):
        """The loop is torn down in the middle of everything, PTB saves nothing; then the process starts anew."""
        self.handlers.clear()
        loop, keeper = self.world.loop, self.persistence._keeper
        tasks = [task for task in loop.tasks_of(self.name) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        raise_unexpected(await asyncio.gather(*tasks, return_exceptions=True))
        if keeper._retry is not None:
            keeper._retry.cancel()
        keeper.finish()
        assert self.persistence.pending == 0
        self.boot()
        await self.start()

    async def save(self):
        """The end of Application.stop and shutdown; what an earlier end has begun is not in its way."""
        await self.backend.unfailing(self.stop())

    async def stop(self):
        await self.cycle()
        if self.on_flush or self.world.can_cancel or self.chance.random() < 0.5:
            await self.flush()
        assert self.persistence.pending == 0

    async def look(self):
        """Bring all that memory holds up to the store, once a store that answered late is seen again."""
        view = self.persistence._keeper.sight
        for _ in range(10):
            await self._refresh_all()
            if not view._is_blind:
                return
            self.world.loop.pass_time(2)
            if view._looking is not None:
                await asyncio.wait({view._looking})
        raise AssertionError("a store that is well is not seen")

    async def _refresh_all(self):
        for section in ("user_data", "chat_data"):
            for id_ in {1, 2, 3, 7, 8, *self.data[section]}:
                await getattr(self.persistence, f"refresh_{section}")(id_, self.data[section][id_])
        await self.persistence.refresh_bot_data(self.data["bot_data"][None])


class Script(Writer):
    """Edits entries of the store directly."""

    def __init__(self, world):
        super().__init__(world, "script")
        self.backend = world.new_backend()
        self.backend.failures = 0
        self.codec = Codec()

    async def live(self):
        for _ in range(self.world.steps // 2):
            await self.world.loop.gate()
            section, id_ = self.chance.choice(
                (("user_data", 1), ("user_data", 2), ("user_data", 3), ("bot_data", None))
            )
            await self.write((section, id_, None))

    async def write(self, entity):
        address = Address(f"ptb:{entity[0]}", "data" if entity[1] is None else str(entity[1]))
        while True:
            (record,) = await self.backend.perform(GetMany(self.world.store_id, (address,)))
            data = {} if record is None else self.codec.decode(record.value)
            if is_droppable(entity) and self.chance.random() < 0.2:
                edits = [("drop", entity, self.name, data)]
                mutation = Delete(*address)
            else:
                edits = [self.edit(entity, data) for _ in range(self.chance.choice((1, 2)))]
                mutation = Put(*address, self.codec.encode(data))
            check = VersionCheck(*address, 0 if record is None else record.version)
            reply = await self.backend.perform(Commit(self.world.store_id, (mutation,), (check,)))
            if reply.is_committed:
                for edit in edits:
                    self.world.ledger.record(*edit)
                return


def raise_unexpected(results):
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, (KVPersistenceError, asyncio.CancelledError)):
            raise result
