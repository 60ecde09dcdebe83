"""A TCP proxy on 127.0.0.1 that breaks connections at the moment that hurts, counts round trips, and slows them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Passes bytes on between clients and a server on a port of this machine, until told otherwise.

    Attributes:
        port: Where clients connect.
        server_port: Where it passes things on to.
        accepted: How many connections were made.
        cuts: How many it broke on purpose.
        matching: What a request must contain to be counted in `seen`, and to be held.
        seen: How many such requests came.
        turns: How often somebody sent something after an answer, or as the first: the round trips that were begun.
        is_deaf: Nothing that the server says is passed on.
        delay: Seconds by which each answer is late.
        hold_requests: So many times, a matching request is kept, and passed on only after :meth:`deliver`.
    """

    def __init__(self, server_port, matching=b""):
        self.server_port = server_port
        self.matching = matching
        self.accepted = self.cuts = self.seen = self.turns = self.hold_requests = 0
        self.is_deaf = False
        self.delay = 0.0
        self._before = self._after = b""
        self._times = 0
        self._is_open = True
        self._delivery = threading.Event()
        self._lock = threading.Lock()
        self._pairs = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # --- what is to happen ---

    def cut_before(self, text=None, times=1):
        """Break the connection instead of passing on a request that holds the text."""
        self._before, self._after, self._times = text or self.matching, b"", times

    def cut_after(self, text=None, times=1):
        """Pass such a request on, wait for the answer, and break the connection instead of passing that on."""
        self._before, self._after, self._times = b"", text or self.matching, times

    def cut(self, when, text=None, times=1):
        """Do either, "before" or "after"."""
        (self.cut_before if when == "before" else self.cut_after)(text, times)

    def cut_all(self):
        """Break all connections there are."""
        for pair in list(self._pairs):
            self._close(pair)

    def cut_clients(self):
        """Break the clients' ends of all connections; what is kept can still be delivered."""
        for client, _ in list(self._pairs):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def deliver(self):
        """Pass on what was kept."""
        self._delivery.set()

    def close(self):
        self._is_open = False
        self.deliver()
        # A thread that waits in accept() is woken by a connection only.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._listening.close()
        self.cut_all()

    # --- threads ---

    def _accept(self):
        while self._is_open:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self._is_open:
                client.close()
                return
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            self._pairs.add(pair)
            state = {"is_doomed": False, "is_asking": False}
            threading.Thread(target=self._up, args=(pair, state), daemon=True).start()
            threading.Thread(target=self._down, args=(pair, state), daemon=True).start()

    def _up(self, pair, state):
        client, server = pair
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                with self._lock:
                    self.turns += not state["is_asking"]
                    state["is_asking"] = True
                    is_match = bool(self.matching) and self.matching in data
                    self.seen += is_match
                    if self._strikes(self._before, data):
                        break
                    state["is_doomed"] |= self._strikes(self._after, data)
                    is_held = is_match and self.hold_requests > 0
                    self.hold_requests -= is_held
                if is_held:
                    self._delivery.wait(20)
                server.sendall(data)
        self._close(pair)

    def _strikes(self, text, data):
        if not self._times or not text or text not in data:
            return False
        self._times -= 1
        self.cuts += 1
        return True

    def _down(self, pair, state):
        client, server = pair
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if state["is_doomed"]:
                    break
                if self.delay:
                    time.sleep(self.delay)
                state["is_asking"] = False
                if not self.is_deaf:
                    client.sendall(data)
        self._close(pair)

    def _close(self, pair):
        self._pairs.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
