"""Ports of 127.0.0.1 for servers that are started, killed, and started again."""

from __future__ import annotations

import contextlib
import random
import socket

_kept: list[socket.socket] = []
"""Sockets that keep a port, in UDP, for as long as this process lives, so that others that run beside it pass it by."""


def free_port():
    """A port that nobody uses, and whose neighbour for a cluster's bus, 10000 above, is free as well.

    Both are below those that the system gives to clients, of which one may come between a server's end and its
    next beginning.
    """
    while True:
        port = random.randrange(10000, 20000)
        with contextlib.ExitStack() as opened:
            kept = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            try:
                kept.bind(("127.0.0.1", port))
                for needed in (port, port + 10000):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", needed))
            except OSError:
                continue
            _kept.append(kept.dup())
        return port
