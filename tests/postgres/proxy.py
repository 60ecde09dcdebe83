"""A TCP proxy that breaks connections at a chosen moment; no tests here."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes everything on to a port, until told otherwise.

    Attributes:
        port: Where it listens.
        accepted: How many connections were made.
        cuts: How many it broke.
    """

    def __init__(self, target):
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.accepted = self.cuts = 0
        self._open = True
        self._pairs = set()
        self._before = self._after = None
        self._times = 0
        self.is_deaf = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_before(self, text, times=1):
        """Break the connection instead of passing on what holds the text."""
        self._before, self._after, self._times = text, None, times

    def cut_after(self, text, times=1):
        """Pass on what holds the text, wait for the answer, and break the connection instead of passing that on."""
        self._before, self._after, self._times = None, text, times

    def cut_all(self):
        """Break all connections there are."""
        for pair in list(self._pairs):
            self._close(pair)

    def close(self):
        self._open = False
        # A thread that waits in accept() is woken by a connection only.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._listening.close()
        self.cut_all()

    def _accept(self):
        while self._open:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                return
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            pair = (client, server)
            self._pairs.add(pair)
            state = {"doomed": False}
            threading.Thread(target=self._up, args=(pair, state), daemon=True).start()
            threading.Thread(target=self._down, args=(pair, state), daemon=True).start()

    def _up(self, pair, state):
        client, server = pair
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._times and self._before and self._before in data:
                    self._times -= 1
                    self.cuts += 1
                    break
                if self._times and self._after and self._after in data:
                    self._times -= 1
                    state["doomed"] = True
                server.sendall(data)
        self._close(pair)

    def _down(self, pair, state):
        client, server = pair
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if state["doomed"]:
                    self.cuts += 1
                    break
                if not self.is_deaf:
                    client.sendall(data)
        self._close(pair)

    def _close(self, pair):
        self._pairs.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
