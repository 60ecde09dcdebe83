"""A server of the tests' own behind a proxy: it can be killed, frozen and cut off while bots use it."""

from __future__ import annotations

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
