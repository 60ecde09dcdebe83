"""A server of the tests' own behind a proxy: it can be killed, frozen and cut off while bots use it.

The fixtures are taken in by the conftest of each folder that has such tests.
"""

from __future__ import annotations

import pytest

from ptb_kvpersistence import KVPersistence
from tests.ptb.offline import OfflineBot
from tests.ptb.places import PostgresPlace, ValkeyPlace
from tests.servers import valkey
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

KINDS = ("postgres", "valkey")
FLUSH = {"postgres": b"ptb:", "valkey": b"EVALSHA"}
"""What the request of a flush is known by."""


def start_server(kind, folder):
    """Start a server that may be killed."""
    return PostgresServer().start() if kind == "postgres" else valkey.Server(folder, *valkey.DURABLE).start()


def remove_server(server):
    """End it for good."""
    server.remove() if isinstance(server, PostgresServer) else server.kill()


class Remote:
    """One database on such a server.

    Attributes:
        kind: "postgres" or "valkey".
        server: The server.
        proxy: In front of it.
        place: The database, reached without the proxy.
        location: The database, reached through the proxy.
    """

    def __init__(self, kind, server):
        self.kind = kind
        self.server = server
        self.proxy = Proxy(server.port)
        self.place = PostgresPlace(server) if kind == "postgres" else ValkeyPlace(server)
        self.location = self.place.location.replace(f":{server.port}", f":{self.proxy.port}")

    def witness(self):
        return self.place.witness()

    def kill(self):
        self.server.kill()

    def start(self):
        self.server.start()

    def freeze(self):
        self.server.freeze()

    def thaw(self):
        self.server.thaw()

    def cut(self, when, text, times=1):
        self.proxy.cut(when, text.encode(), times)

    def close(self):
        if (self.server._process if self.kind == "postgres" else self.server.process) is None:
            self.server.start()
        self.server.thaw()
        self.place.close()
        self.proxy.close()


@pytest.fixture(scope="module", params=KINDS)
def remote_server(request, tmp_path_factory):
    """A server of each kind, for all tests of a module."""
    server = start_server(request.param, tmp_path_factory.mktemp("server"))
    server.kind = request.param
    yield server
    remove_server(server)


@pytest.fixture
def remote(remote_server):
    """A database of the test's own on it."""
    remote = Remote(remote_server.kind, remote_server)
    yield remote
    remote.close()


@pytest.fixture
async def start_there(remote):
    """Start bots on that database; they are stopped when the test ends."""
    bots = []

    async def start(location=remote.location, **options):
        bots.append(OfflineBot(KVPersistence(location, **options)))
        return await bots[-1].start()

    yield start
    for bot in bots:
        await bot.stop()
