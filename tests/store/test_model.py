"""Random operations on a store against a plain dict with versions, transactions, expiry and reopening."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import ConflictError, KeyExistsError, KeyNotFoundError

KEYS = st.sampled_from(["a", "ab", "abc", "b", "é", "\U0001f600", "z" * 200])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
ACTIONS = st.sampled_from(["set", "discard", "increment", "nested"])
TTL = st.none() | st.integers(1, 20)


class Awaited:
    """The async face, called as if it were the sync one."""

    def __init__(self, loop, target):
        self._loop, self._target = loop, target

    def __getattr__(self, name):
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute

        def call(*args, **options):
            return self._finish(attribute(*args, **options))

        return call

    def _finish(self, result):
        if inspect.isasyncgen(result):
            return self._loop.run_until_complete(_collect(result))
        if inspect.iscoroutine(result):
            found = self._loop.run_until_complete(result)
            return Awaited(self._loop, found) if hasattr(found, "transaction") else found
        return Awaited(self._loop, result) if hasattr(result, "transaction") else result


async def _collect(generator):
    return [item async for item in generator]


class StoreMachine(RuleBasedStateMachine):
    """One store, one model."""

    is_async = False
    in_memory = False

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop() if self.is_async else None
        self.clock = 1_700_000_000_000
        self.patches = [
            mock.patch(f"ptb_kvpersistence.backends.{module}.now_ms", side_effect=lambda: self.clock)
            for module in ("memory.engine", "sqlite.engine")
        ]
        for patch in self.patches:
            patch.start()
        self.model = {}
        self.last_version = 0
        self.database = None
        self.open()

    def open(self):
        location = "memory:" if self.in_memory else self.folder / "bot.db"
        if self.is_async:
            self.database = Awaited(self.loop, connect_async(location))
        else:
            self.database = connect(location)
        self.store = self.database.store("x", create=True)

    def teardown(self):
        self.database.close()
        for patch in self.patches:
            patch.stop()
        if self.loop is not None:
            self.loop.close()
        shutil.rmtree(self.folder)

    # --- the model ---

    def alive(self):
        return {key: row for key, row in self.model.items() if row["expires"] is None or row["expires"] > self.clock}

    def write(self, key, value, ttl=None, expires=None):
        if ttl is not None:
            expires = self.clock + ttl * 1000
        self.model[key] = {"value": value, "ttl": ttl, "expires": expires}

    def rewrite(self, key, value):
        row = self.alive().get(key)
        self.write(key, value, row["ttl"] if row else None, row["expires"] if row else None)

    def drop(self, key):
        self.model.pop(key, None)

    # --- rules ---

    @rule(key=KEYS, value=VALUES, ttl=TTL)
    def set(self, key, value, ttl):
        version = self.store.set(key, value, ttl=ttl)
        assert version > self.last_version
        self.last_version = version
        self.write(key, value, ttl)

    @rule(key=KEYS, value=VALUES, is_current=st.booleans())
    def compare_and_set(self, key, value, is_current):
        entry = self.store.entry(key)
        version = 0 if entry is None else entry.version
        if is_current:
            self.store.set(key, value, if_version=version)
            self.write(key, value)
        else:
            with pytest.raises(ConflictError):
                self.store.set(key, value, if_version=version + 1)

    @rule(key=KEYS, value=VALUES)
    def add(self, key, value):
        if key in self.alive():
            with pytest.raises(KeyExistsError):
                self.store.add(key, value)
        else:
            self.store.add(key, value)
            self.write(key, value)

    @rule(key=KEYS, value=VALUES)
    def replace(self, key, value):
        assert self.store.replace(key, value) is (key in self.alive())
        if key in self.alive():
            self.rewrite(key, value)

    @rule(key=KEYS)
    def delete(self, key):
        if key in self.alive():
            self.store.delete(key)
        else:
            with pytest.raises(KeyNotFoundError):
                self.store.delete(key)
        self.drop(key)

    @rule(key=KEYS)
    def pop(self, key):
        row = self.alive().get(key)
        assert self.store.pop(key, "none") == (row["value"] if row else "none")
        self.drop(key)

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        row = self.alive().get(key)
        assert self.store.setdefault(key, value) == (row["value"] if row else value)
        if row is None:
            self.write(key, value)

    @rule(key=KEYS, amount=st.integers(-3, 3))
    def increment(self, key, amount):
        row = self.alive().get(key)
        value = row["value"] if row else 0
        if type(value) is not int:
            with pytest.raises(TypeError):
                self.store.increment(key, amount)
            return
        assert self.store.increment(key, amount) == value + amount
        self.rewrite(key, value + amount)

    @rule(key=KEYS, items=st.lists(st.integers(), max_size=3))
    def append(self, key, items):
        row = self.alive().get(key)
        value = row["value"] if row else []
        if type(value) is not list:
            with pytest.raises(TypeError):
                self.store.append(key, *items)
            return
        assert self.store.append(key, *items) == len(value) + len(items)
        self.rewrite(key, value + items)

    @rule(key=KEYS, ttl=TTL)
    def touch(self, key, ttl):
        row = self.alive().get(key)
        assert self.store.touch(key, ttl=ttl) is (row is not None)
        if row is not None:
            self.write(key, row["value"], ttl) if ttl else self.rewrite(key, row["value"])

    @rule(items=st.dictionaries(KEYS, VALUES, max_size=4))
    def set_many(self, items):
        self.store.set_many(items)
        for key, value in items.items():
            self.write(key, value)

    @rule()
    def clear(self):
        self.store.clear()
        self.model.clear()

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds):
        self.clock += seconds * 1000

    @precondition(lambda self: not self.in_memory)
    @rule()
    def reopen(self):
        self.database.close()
        self.open()

    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from(["set", "discard", "increment", "nested"]), KEYS, st.integers(0, 9)), max_size=5
        ),
        fails=st.booleans(),
        lock=st.booleans(),
    )
    def transaction(self, steps, fails, lock):
        before = {key: dict(row) for key, row in self.model.items()}
        if self.is_async:
            with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
                self.loop.run_until_complete(self.transact_async(steps, fails, lock))
        else:
            with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
                self.transact(steps, fails, lock)
        if fails:
            self.model = before

    def transact(self, steps, fails, lock):
        with self.store.transaction(lock=lock):
            for action, key, number in steps:
                if action == "nested":
                    with contextlib.suppress(KeyError), self.store.transaction():
                        self.store[key] = "never seen"
                        assert self.store[key] == "never seen"
                        raise KeyError
                    continue
                self.apply(action, key, number, *self.acted(getattr(self.store, action), action, key, number))
            self.check(self.store)
            if fails:
                raise ZeroDivisionError

    def acted(self, method, action, key, number):
        row = self.alive().get(key)
        if action == "increment" and row is not None and type(row["value"]) is not int:
            return (None,)
        return (method(key) if action == "discard" else method(key, number),)

    def apply(self, action, key, number, _result):
        row = self.alive().get(key)
        if action == "set":
            self.write(key, number)
        elif action == "discard":
            self.drop(key)
        elif row is None or type(row["value"]) is int:
            self.rewrite(key, (row["value"] if row else 0) + number)

    async def transact_async(self, steps, fails, lock):
        store = self.store._target
        async with store.transaction(lock=lock) as view:
            for action, key, number in steps:
                if action == "nested":
                    with contextlib.suppress(KeyError):
                        async with store.transaction() as inner:
                            await inner.set(key, "never seen")
                            assert await store.get(key) == "never seen"
                            raise KeyError
                    continue
                (result,) = self.acted(getattr(view, action), action, key, number)
                if result is not None:
                    result = await result
                self.apply(action, key, number, result)
            expected = {key: row["value"] for key, row in self.alive().items()}
            assert [item async for item in store.items()] == sorted(expected.items())
            assert await store.count() == len(expected)
            if fails:
                raise ZeroDivisionError

    # --- what must always hold ---

    def check(self, store):
        expected = {key: row["value"] for key, row in self.alive().items()}
        assert list(store.items()) == sorted(expected.items())
        assert store.count() == len(expected)

    @invariant()
    def store_and_model_agree(self):
        self.check(self.store)
        expected = {key: row["value"] for key, row in self.alive().items()}
        assert list(self.store.items(reverse=True)) == sorted(expected.items(), reverse=True)
        assert list(self.store.keys("a")) == sorted(key for key in expected if key.startswith("a"))
        assert list(self.store.keys(start="ab", stop="é")) == sorted(key for key in expected if "ab" <= key < "é")
        assert self.store.count("a") == sum(key.startswith("a") for key in expected)
        every = ["a", "ab", "abc", "b", "é", "nothing"]
        assert self.store.get_many(every) == {key: expected[key] for key in every if key in expected}

    @invariant()
    def the_feed_gives_the_same(self):
        if self.is_async:
            return  # the same generators, and this face's watch never ends by itself
        found = {}
        with mock.patch("ptb_kvpersistence.store.watching.time.time", return_value=self.clock / 1000):
            versions = []
            for event in self.store.watch(since=0, timeout=0):
                versions.append(event.version)
                found[event.key] = event
        assert versions == sorted(versions)
        alive = {key: event.value for key, event in found.items() if not event.is_deleted}
        assert alive == {key: row["value"] for key, row in self.alive().items()}


SETTINGS = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def machine(name, **attributes):
    case = type(name, (StoreMachine,), attributes).TestCase
    case.settings = SETTINGS
    return case


TestSyncFile = machine("SyncFile")
TestSyncMemory = machine("SyncMemory", in_memory=True)
TestAsyncFile = machine("AsyncFile", is_async=True)
TestAsyncMemory = machine("AsyncMemory", is_async=True, in_memory=True)
