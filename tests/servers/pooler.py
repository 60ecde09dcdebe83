"""A transaction-mode connection pooler on 127.0.0.1, which keeps the rules of PgBouncer and forgives nothing.

A client has a server connection from the first message of a transaction until the server says that it is idle again.
Then everything that belongs to the session is noted in ``left_behind``, where PgBouncer would show it to the next
client, and thrown away; the next transaction gets the connection that was free for longest.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import select
import socket
import struct
import threading
from collections import deque

import psycopg

STARTUP, REFUSED_ENCRYPTION = 196608, (80877103, 80877104)
LEFT_BEHIND = b"""SELECT 'prepared statement' FROM pg_prepared_statements UNION ALL
    SELECT 'listening' FROM pg_listening_channels() UNION ALL
    SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() UNION ALL
    SELECT 'setting ' || name FROM pg_settings WHERE source = 'session'"""
STATUS = (
    *("server_version", "client_encoding", "server_encoding", "DateStyle", "IntervalStyle", "TimeZone"),
    *("standard_conforming_strings", "integer_datetimes"),
)


def _message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def _messages(buffer):
    """Take the whole messages out of a buffer."""
    found, at = [], 0
    while len(buffer) - at >= 5:
        (length,) = struct.unpack_from("!i", buffer, at + 1)
        if len(buffer) - at <= length:
            break
        found.append(bytes(buffer[at : at + 1 + length]))
        at += 1 + length
    del buffer[:at]
    return found


class Server:
    """A connection to the server; libpq has made it, and takes no part in what is said on it."""

    def __init__(self, url):
        self._connection = psycopg.connect(url, autocommit=True, application_name="pooler")
        self.socket = socket.socket(fileno=socket.dup(self._connection.pgconn.socket))
        self.socket.setblocking(True)
        status = self._connection.pgconn.parameter_status
        self.greeting = b"".join(
            _message(b"S", name.encode() + b"\0" + status(name.encode()) + b"\0") for name in STATUS
        )
        self.buffer = bytearray()

    def tidied(self):
        """Give what the last transaction has left in the session, which is then gone."""
        self.socket.sendall(_message(b"Q", LEFT_BEHIND + b"\0") + _message(b"Q", b"DISCARD ALL\0"))
        found, waiting = [], 2
        while waiting:
            data = self.socket.recv(1 << 16)
            if not data:
                raise OSError("the server has gone")
            self.buffer += data
            for message in _messages(self.buffer):
                waiting -= message[:1] == b"Z"
                if message[:1] == b"D":
                    found.append(message[11:].decode())
                elif message[:1] == b"E":
                    found.append(message[5:].decode("utf-8", "replace"))
        return found

    def close(self):
        self.socket.close()
        self._connection.close()


class Pooler:
    """Passes transactions on.

    Attributes:
        port: Where clients connect.
        transactions: How many there were.
        left_behind: What they left in their sessions: each would be a fault behind PgBouncer.
        most: How many server connections were in use at once.
    """

    def __init__(self, url, size, port=0):
        self._url, self._size = url, size
        self.transactions = self.most = 0
        self.left_behind = []
        self._in_use = self._alive = 0
        self._free = deque()
        self._changed = threading.Condition()
        self._pids = itertools.count(1)
        self._clients = set()
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self._start(self._accept)

    def _start(self, target, *arguments):
        # Tests that count threads must not count these.
        with self._changed:
            self._alive += 1
        _thread.start_new_thread(self._run, (target, arguments))

    def _run(self, target, arguments):
        try:
            target(*arguments)
        finally:
            with self._changed:
                self._alive -= 1
                self._changed.notify_all()

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self._changed.wait_for(lambda: not self._alive, 10)
        self._listening.close()
        while self._free:
            self._free.pop().close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.add(client)
                self._start(self._serve, client)

    def _take(self, client):
        """Wait for a server connection as long as the client does."""
        with self._changed:
            while self._in_use >= self._size:
                self._changed.wait(0.05)
                _check(client)
            self._in_use += 1
            self.most = max(self.most, self._in_use)
            server = self._free.popleft() if self._free else None
        try:
            return server or Server(self._url)
        except psycopg.Error as error:
            self._give(None)
            raise OSError from error

    def _give(self, server):
        with self._changed:
            self._in_use -= 1
            if server is not None:
                self._free.append(server)
            self._changed.notify()

    def _serve(self, client):
        server, waiting, buffer = None, 0, bytearray()
        try:
            self._greet(client)
            while True:
                ready, _, _ = select.select([client, *([server.socket] if server else [])], [], [])
                if client in ready:
                    buffer += _received(client)
                    found = _messages(buffer)
                    if any(message[:1] == b"X" for message in found):
                        return
                    if found and server is None:
                        server = self._take(client)
                    waiting += sum(message[:1] in {b"Q", b"S", b"F"} for message in found)
                    if found:
                        server.socket.sendall(b"".join(found))
                elif server is not None:
                    data = _received(server.socket)
                    server.buffer += data
                    ends = [message for message in _messages(server.buffer) if message[:1] == b"Z"]
                    waiting -= len(ends)
                    client.sendall(data)
                    if ends and not waiting and ends[-1][5:] == b"I":
                        self.transactions += 1
                        self.left_behind += server.tidied()
                        server = self._give(server)
        except OSError:
            pass
        finally:
            if server is not None:  # in the middle of a transaction
                server.close()
                self._give(None)
            self._clients.discard(client)
            client.close()

    def _greet(self, client):
        while True:
            (length,) = struct.unpack("!i", _received(client, 4))
            (code,) = struct.unpack_from("!i", _received(client, length - 4))
            if code not in REFUSED_ENCRYPTION:
                break
            client.sendall(b"N")
        if code != STARTUP:
            raise OSError("a request to cancel")
        server = self._take(client)
        key = _message(b"K", struct.pack("!ii", next(self._pids), 0))
        client.sendall(_message(b"R", bytes(4)) + server.greeting + key + _message(b"Z", b"I"))
        self._give(server)


def _received(connection, size=None):
    data = connection.recv(size or 1 << 16, socket.MSG_WAITALL if size else 0)
    if len(data) < (size or 1):
        raise OSError("it has gone")
    return data


def _check(client):
    if select.select([client], [], [], 0)[0]:
        with contextlib.suppress(BlockingIOError):
            if not client.recv(1, socket.MSG_PEEK):
                raise OSError("it has gone")
