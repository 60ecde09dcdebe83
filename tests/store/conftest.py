"""A store on both backends and both faces, and a rival who writes to it from elsewhere."""

from __future__ import annotations

import uuid

import pytest

from ptb_kvpersistence import connect, connect_async
from tests.servers import valkey
from tests.store.faces import Sync


class Clock:
    """Stands in for the time of all backends and watchers, in milliseconds."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self.now = 1_800_000_000_000

    @property
    def now(self):
        return self._now

    @now.setter
    def now(self, now):
        self._now = now
        valkey.stop_clock(self._monkeypatch, now)

    def __call__(self):
        return self.now

    def time(self):
        return self.now / 1000

    def advance(self, seconds):
        self.now += int(seconds * 1000)


@pytest.fixture(params=["file", "memory", "valkey", "valkey-cluster"])
def location(request, tmp_path):
    if "valkey" not in request.param:
        yield tmp_path / "shop.db" if request.param == "file" else f"memory:{uuid.uuid4().hex}"
        return
    server = request.getfixturevalue("valkey_cluster" if "cluster" in request.param else "valkey_server")
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield f"{server.url}?prefix={prefix}"
    with server.client() as client:
        valkey.remove(client, prefix)


@pytest.fixture
def file(tmp_path):
    """A location for what only files have: other processes, waiting in line."""
    return tmp_path / "shop.db"


@pytest.fixture(params=["sync", "async"])
async def store(request, location):
    """A store whose methods are awaited, whichever face it has."""
    if request.param == "sync":
        with connect(location) as database:
            yield Sync(database.store("shop", create=True))
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
    clock = Clock(monkeypatch)
    for module in ("backends.memory.engine.now_ms", "backends.sqlite.engine.now_ms"):
        monkeypatch.setattr(f"ptb_kvpersistence.{module}", clock)
    monkeypatch.setattr("ptb_kvpersistence.store.watching.time.time", clock.time)
    return clock
