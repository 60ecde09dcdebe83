"""The backends under the contract, each with a witness that reads what is stored without asking the backend."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing

from ptb_kvpersistence.backends.memory import AsyncMemoryBackend, MemoryBackend
from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend
from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from tests.servers import valkey


class Sync:
    """Lets the suite await a backend of the sync face."""

    def __init__(self, backend):
        self.backend = backend

    async def perform(self, request, timeout=None):
        return self.backend.perform(request, timeout)

    async def close(self):
        self.backend.close()


class Async:
    """A backend of the async face."""

    def __init__(self, backend):
        self.backend = backend

    async def perform(self, request, timeout=None):
        return await self.backend.perform(request, timeout)

    async def close(self):
        await self.backend.close()


class MemoryWitness:
    """Looks into the dicts of the memory engine."""

    def __init__(self, backend):
        self._engine = backend.engine

    def entries(self):
        return {
            (data.info.name, change.domain, change.key): change.value
            for data in self._engine._stores.values()
            for change in data.changes.values()
            if change.value is not None
        }

    def tombstones(self):
        return {
            (data.info.name, change.domain, change.key)
            for data in self._engine._stores.values()
            for change in data.changes.values()
            if change.value is None
        }

    def stores(self):
        return {data.info.name for data in self._engine._stores.values()}

    def commits(self):
        return set(self._engine._commits)


class SQLiteWitness:
    """A plain SQL client that knows the documented format only."""

    def __init__(self, path):
        self._path = path

    def _rows(self, statement):
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(statement).fetchall()

    def entries(self):
        rows = self._rows(
            "SELECT name, domain, key, CAST(value AS BLOB) FROM entries JOIN stores ON store = id"
            " WHERE value IS NOT NULL"
        )
        return {(name, domain, key): value for name, domain, key, value in rows}

    def tombstones(self):
        return set(self._rows("SELECT name, domain, key FROM entries JOIN stores ON store = id WHERE value IS NULL"))

    def stores(self):
        return {name for (name,) in self._rows("SELECT name FROM stores")}

    def commits(self):
        return {commit for (commit,) in self._rows("SELECT id FROM commits")}


class Place:
    """One empty database that any number of backends of one kind can open."""

    def __init__(self, kind, folder, server=None):
        self.kind = kind
        self._server = server
        self._prefix = f"t{uuid.uuid4().hex[:12]}"
        self._client = None if server is None else server.client()
        self._path = str(folder / "contract.db")
        self._engine = None
        self._opened = []

    def open(self):
        if self.kind == "memory":
            subject = Sync(MemoryBackend(engine=self._engine))
            self._engine = subject.backend.engine
        elif self.kind == "memory-async":
            subject = Async(AsyncMemoryBackend(engine=self._engine))
            self._engine = subject.backend.engine
        elif self._server is not None:
            url = f"{self._server.url}?prefix={self._prefix}"
            subject = Async(AsyncRedisBackend(url)) if "async" in self.kind else Sync(RedisBackend(url))
        elif self.kind == "sqlite":
            subject = Sync(SQLiteBackend(self._path))
        else:
            subject = Async(AsyncSQLiteBackend(self._path))
        self._opened.append(subject)
        return subject

    def witness(self):
        if self._server is not None:
            return valkey.Witness(self._client, self._prefix)
        return SQLiteWitness(self._path) if "sqlite" in self.kind else MemoryWitness(self._opened[0].backend)

    async def close(self):
        for subject in self._opened:
            await subject.close()
        if self._client is not None:
            valkey.remove(self._client, self._prefix)
            self._client.close()


SERVERS = {
    "valkey": "valkey_server",
    "valkey-async": "valkey_server",
    "valkey-cluster": "valkey_cluster",
    "valkey-cluster-async": "valkey_cluster",
}
KINDS = ("memory", "memory-async", "sqlite", "sqlite-async", *SERVERS)


def make_place(request, folder):
    """A place of the kind that a fixture was parametrized with; its server is started when first needed."""
    server = SERVERS.get(request.param)
    return Place(request.param, folder, server and request.getfixturevalue(server))
