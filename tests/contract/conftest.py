"""Every test of this folder runs on every backend."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.model import Changes, Commit, OpenStore, Put
from tests.contract.subjects import KINDS, Place


@pytest.fixture(params=KINDS)
async def place(request, tmp_path):
    place = Place(request.param, tmp_path)
    yield place
    await place.close()


@pytest.fixture
async def backend(place):
    return place.open()


@pytest.fixture
async def store(backend):
    return (await backend.perform(OpenStore("shop", "create"))).id


@pytest.fixture
async def witness(place, store):
    return place.witness()


@pytest.fixture
def put(backend, store):
    """Store values at ``domain/key`` places in one commit; gives their versions."""

    async def write(domain="d", **values):
        puts = tuple(Put(domain, key, value) for key, value in values.items())
        return (await backend.perform(Commit(store, puts))).versions

    return write


@pytest.fixture
def head(backend, store):
    async def read():
        return (await backend.perform(Changes(store, 0))).head

    return read


class Clock:
    """Stands in for the time of all backends, a server's included."""

    def __init__(self, schema):
        self._schema = schema
        self.now = 1_800_000_000_000

    def __call__(self):
        return self.now

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "now" and self._schema is not None:
            self._schema.set_clock(value)


@pytest.fixture
def clock(monkeypatch, place):
    clock = Clock(place.schema)
    monkeypatch.setattr("ptb_kvpersistence.backends.memory.engine.now_ms", clock)
    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.engine.now_ms", clock)
    return clock
