"""A TCP proxy on 127.0.0.1 that can cut connections at the moment that hurts."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Passes bytes on between clients and a server on a port of this machine.

    Attributes:
        port: Where clients connect.
        cut_requests: So many times, a connection is cut when a request has come, before it is passed on.
        cut_replies: So many times, a connection is cut when a reply has come, instead of passing it on.
        matching: What a request must contain to be counted.
        hold_requests: So many times, a request is kept, and passed on only after :meth:`deliver`.
        seen: How many requests came that contained it.
    """

    def __init__(self, server_port, matching=b"EVALSHA"):
        self.server_port = server_port
        self.matching = matching
        self.cut_requests = self.cut_replies = self.hold_requests = self.seen = 0
        self._delivery = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:
                    client.close()
                    continue
                self._sockets |= {client, server}
                state = {"is_doomed": False}
                for source, target, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=(source, target, is_request, state), daemon=True).start()

    def _pass(self, source, target, is_request, state):
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if is_request and self.matching in data:
                    self.seen += 1
                    if self.cut_requests:
                        self.cut_requests -= 1
                        break
                    if self.hold_requests:
                        self.hold_requests -= 1
                        self._delivery.wait(20)
                    if self.cut_replies:
                        self.cut_replies -= 1
                        state["is_doomed"] = True
                elif not is_request and state["is_doomed"]:
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._sockets.discard(end)

    def deliver(self):
        """Pass on what was kept."""
        self._delivery.set()

    def cut_all(self):
        """Cut every connection there is."""
        for end in list(self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.deliver()
        self._listener.close()
        self.cut_all()
