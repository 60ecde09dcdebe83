"""What turns a server without TLS into one with it: certificates, and a proxy that ends the encryption."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

import trustme

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""What libpq asks a PostgreSQL server before it begins to encrypt."""


class Authority:
    """Signs certificates.

    Attributes:
        path: The certificate that clients have to trust, as a file.
    """

    def __init__(self, folder):
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def server(self, host="127.0.0.1", *, asks=False):
        """Make what a server of that name needs; ``asks``: it wants a certificate of its clients too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(host).configure_cert(context)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client(self, name):
        """Make a client's certificate and key, as files."""
        issued = self._ca.issue_cert(common_name=name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key


class TlsProxy:
    """Takes encrypted connections and passes on what is in them.

    Args:
        server_port: Of the server without TLS.
        context: What :meth:`Authority.server` gave.
        asked: Whether clients ask first, as PostgreSQL's do.

    Attributes:
        port: Where clients connect.
        encrypted: How many connections were encrypted.
    """

    def __init__(self, server_port, context, *, asked):
        self._server_port, self._context, self._asked = server_port, context, asked
        self.encrypted = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._connections = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self._threads[-1].start()

    def _serve(self, client):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            opened.enter_context(client)
            if self._asked:
                if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                    return
                client.sendall(b"S")
            client.settimeout(10)
            inside = opened.enter_context(self._context.wrap_socket(client, server_side=True))
            server = opened.enter_context(socket.create_connection(("127.0.0.1", self._server_port)))
            self.encrypted += 1
            for each in (inside, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.add(each)
                opened.callback(self._connections.discard, each)
            _pass_on(inside, server)


def _pass_on(inside, server):
    # One thread for both directions: an SSLSocket is not made for two at once.
    while True:
        ready = [inside] if inside.pending() else select.select([inside, server], [], [])[0]
        for source, target in ((inside, server), (server, inside)):
            if source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                target.sendall(data)
