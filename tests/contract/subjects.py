"""The backends under the contract, each with a witness that reads what is stored without asking the backend."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from ptb_kvpersistence.backends.memory import AsyncMemoryBackend, MemoryBackend
from ptb_kvpersistence.backends.postgres.aio import AsyncPostgresBackend
from ptb_kvpersistence.backends.postgres.sync import PostgresBackend
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from tests.servers.postgres import Schema, shared_url


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


class PostgresWitness:
    """A plain SQL client that knows the documented format only."""

    def __init__(self, schema):
        self._rows = schema.rows

    def entries(self):
        rows = self._rows(
            "SELECT name, domain, key, value::text FROM kv_entries e JOIN kv_stores ON store = id"
            " WHERE value IS NOT NULL"
        )
        return {(name, domain, key): value.encode() for name, domain, key, value in rows}

    def tombstones(self):
        rows = "SELECT name, domain, key FROM kv_entries JOIN kv_stores ON store = id WHERE value IS NULL"
        return set(self._rows(rows))

    def stores(self):
        return {name for (name,) in self._rows("SELECT name FROM kv_stores")}

    def commits(self):
        return {commit for (commit,) in self._rows("SELECT id FROM kv_commits WHERE id NOT LIKE '~%'")}


class Place:
    """One empty database that any number of backends of one kind can open."""

    def __init__(self, kind, folder):
        self.kind = kind
        self._path = str(folder / "contract.db")
        self._engine = None
        self._opened = []
        self.schema = Schema(shared_url()) if "postgres" in kind else None
        if self.schema:
            self.schema.set_clock()

    def open(self):
        if self.kind == "memory":
            subject = Sync(MemoryBackend(engine=self._engine))
            self._engine = subject.backend.engine
        elif self.kind == "memory-async":
            subject = Async(AsyncMemoryBackend(engine=self._engine))
            self._engine = subject.backend.engine
        elif self.kind == "sqlite":
            subject = Sync(SQLiteBackend(self._path))
        elif self.kind == "postgres":
            subject = Sync(PostgresBackend(self.schema.url))
        elif self.kind == "postgres-async":
            subject = Async(AsyncPostgresBackend(self.schema.url))
        else:
            subject = Async(AsyncSQLiteBackend(self._path))
        self._opened.append(subject)
        return subject

    def witness(self):
        if self.schema:
            return PostgresWitness(self.schema)
        return SQLiteWitness(self._path) if "sqlite" in self.kind else MemoryWitness(self._opened[0].backend)

    async def close(self):
        for subject in self._opened:
            await subject.close()
        if self.schema:
            self.schema.drop()


KINDS = ("memory", "memory-async", "sqlite", "sqlite-async", "postgres", "postgres-async")
