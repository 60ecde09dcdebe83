"""A store on both backends and both faces, and a rival who writes to it from elsewhere."""

from __future__ import annotations

import uuid

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.testing.faces import SyncStore


class Clock:
    """Stands in for the time of all backends and watchers, in milliseconds."""

    def __init__(self):
        self.now = 1_800_000_000_000

    def __call__(self):
        return self.now

    def time(self):
        return self.now / 1000

    def advance(self, seconds):
        self.now += int(seconds * 1000)


@pytest.fixture(params=["file", "memory"])
def location(request, tmp_path):
    return tmp_path / "shop.db" if request.param == "file" else f"memory:{uuid.uuid4().hex}"


@pytest.fixture
def file(tmp_path):
    """A location for what only files have: other processes, waiting in line."""
    return tmp_path / "shop.db"


@pytest.fixture(params=["sync", "async"])
async def store(request, location):
    """A store whose methods are awaited, whichever face it has."""
    if request.param == "sync":
        with connect(location) as database:
            yield SyncStore(database.store("shop", create=True))
    else:
        async with connect_async(location) as database:
            yield await database.store("shop", create=True)


@pytest.fixture
def rival(store, location):
    """The same store through a connection of its own; a sync one, to be used where nothing is locked."""
    with connect(location) as database:
        yield database.store("shop", create=True)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("backends.memory.engine", "backends.sqlite.engine", "store.buffer"):
        monkeypatch.setattr(f"ptb_kvpersistence.{module}.now_ms", clock)
    monkeypatch.setattr("ptb_kvpersistence.store.watching.time.time", clock.time)
    return clock
