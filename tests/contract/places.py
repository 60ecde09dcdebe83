"""The places where the contract suite is run, each seen past its backend."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.memory import AsyncMemoryBackend, MemoryBackend, MemoryEngine
from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.backends.urls import open_async_backend, open_backend
from ptb_kvpersistence.testing import Place
from tests.servers import postgres, valkey

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.base import AsyncBackend, Backend
    from tests.servers.pooler import Pooler


class MemoryPlace(Place):
    """The engine that all its backends share; it is its own witness."""

    limits: Mapping[str, str] = {"survives kill -9": "a memory database is gone with its process"}

    def __init__(self, engine: MemoryEngine | None = None) -> None:
        self._engine = engine or MemoryEngine("memory:contract")

    def open(self, *, timeout: float = 5.0) -> MemoryBackend:
        return MemoryBackend(engine=self._engine, timeout=timeout)

    def open_async(self, *, timeout: float = 5.0) -> AsyncMemoryBackend:
        return AsyncMemoryBackend(engine=self._engine, timeout=timeout)

    def witness(self) -> MemoryPlace:
        return self

    def _changes(self):
        return [(data.info.name, change) for data in self._engine._stores.values() for change in data.changes.values()]

    def entries(self) -> dict[tuple[str, str, str], bytes]:
        return {(name, c.domain, c.key): c.value for name, c in self._changes() if c.value is not None}

    def tombstones(self) -> set[tuple[str, str, str]]:
        return {(name, change.domain, change.key) for name, change in self._changes() if change.value is None}

    def stores(self) -> set[str]:
        return {data.info.name for data in self._engine._stores.values()}

    def commits(self) -> set[str]:
        return set(self._engine._commits)

    def pass_time(self, seconds: float) -> None:
        engine, leases, shift = self._engine, self._engine._leases, round(seconds * 1000)
        for data in engine._stores.values():
            for address, change in data.changes.items():
                expires_at = None if change.expires_at is None else change.expires_at - shift
                data.changes[address] = change._replace(updated_at=change.updated_at - shift, expires_at=expires_at)
            data.expiries = [(at - shift, address) for at, address in data.expiries]
        for commit in engine._commits:
            engine._commits[commit] -= shift
        for lease in leases._leases.values():
            lease.expires_at -= shift
            lease.line = {holder: seen_at - shift for holder, seen_at in lease.line.items()}
        for key, bot in leases._bots.items():
            leases._bots[key] = bot._replace(attached_at=bot.attached_at - shift, last_seen=bot.last_seen - shift)


class SQLitePlace(Place):
    """A file, seen by a plain SQL client that knows the documented format only."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "contract.db")

    def open(self, *, timeout: float = 5.0) -> SQLiteBackend:
        return SQLiteBackend(self._path, timeout=timeout)

    def open_async(self, *, timeout: float = 5.0) -> AsyncSQLiteBackend:
        return AsyncSQLiteBackend(self._path, timeout=timeout)

    def opener(self) -> Callable[[], SQLiteBackend]:
        return partial(SQLiteBackend, self._path)

    def witness(self) -> SQLitePlace:
        return self

    def rows(self, statement: str) -> list[tuple]:
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(statement).fetchall()

    def entries(self) -> dict[tuple[str, str, str], bytes]:
        rows = self.rows(
            "SELECT name, domain, key, CAST(value AS BLOB) FROM entries JOIN stores ON store = id"
            " WHERE value IS NOT NULL"
        )
        return {(name, domain, key): value for name, domain, key, value in rows}

    def tombstones(self) -> set[tuple[str, str, str]]:
        return set(self.rows("SELECT name, domain, key FROM entries JOIN stores ON store = id WHERE value IS NULL"))

    def stores(self) -> set[str]:
        return {name for (name,) in self.rows("SELECT name FROM stores")}

    def commits(self) -> set[str]:
        return {commit for (commit,) in self.rows("SELECT id FROM commits")}

    def pass_time(self, seconds: float) -> None:
        times = {
            "": {"entries": ("updated_at", "expires_at"), "commits": ("committed_at",)},
            "-leases": {"leases": ("expires_at",), "waiters": ("seen_at",), "bots": ("attached_at", "last_seen")},
        }
        for suffix, tables in times.items():
            if not Path(self._path + suffix).exists():
                continue
            with closing(sqlite3.connect(self._path + suffix)) as connection, connection:
                for table, columns in tables.items():
                    shifts = ", ".join(f"{column} = {column} - {round(seconds * 1000)}" for column in columns)
                    connection.execute(f"UPDATE {table} SET {shifts}")


class ValkeyPlace(Place):
    """A prefix on a running server or cluster, seen by a plain redis-py client that knows the documented keys only."""

    def __init__(self, server: Any) -> None:
        self._prefix = f"t{uuid.uuid4().hex[:12]}"
        self._url = f"{server.url}?prefix={self._prefix}"
        self._client = server.client()

    def open(self, *, timeout: float = 5.0) -> Backend:
        return open_backend(self._url, timeout=timeout)

    def open_async(self, *, timeout: float = 5.0) -> AsyncBackend:
        return open_async_backend(self._url, timeout=timeout)

    def opener(self) -> Callable[[], Backend]:
        return partial(open_backend, self._url)

    def witness(self) -> valkey.Witness:
        return valkey.Witness(self._client, self._prefix)

    def pass_time(self, seconds: float) -> None:
        valkey.pass_time(self._client, seconds, self._prefix)

    def close(self) -> None:
        valkey.remove(self._client, self._prefix)
        self._client.close()


class PostgresPlace(Place):
    """A schema on a running server, seen by a plain SQL client that knows the documented tables only."""

    def __init__(self, port: int | None = None) -> None:
        self._schema = postgres.Schema(postgres.shared_url())
        self._url = self._schema.url if port is None else postgres.through(self._schema.url, port)

    def open(self, *, timeout: float = 5.0) -> Backend:
        return open_backend(self._url, timeout=timeout)

    def open_async(self, *, timeout: float = 5.0) -> AsyncBackend:
        return open_async_backend(self._url, timeout=timeout)

    def opener(self) -> Callable[[], Backend]:
        return partial(open_backend, self._url)

    def witness(self) -> PostgresPlace:
        return self

    def entries(self) -> dict[tuple[str, str, str], bytes]:
        rows = self._schema.rows(
            "SELECT name, domain, key, value::text FROM kv_entries JOIN kv_stores ON store = id WHERE value IS NOT NULL"
        )
        return {(name, domain, key): value.encode() for name, domain, key, value in rows}

    def tombstones(self) -> set[tuple[str, str, str]]:
        rows = "SELECT name, domain, key FROM kv_entries JOIN kv_stores ON store = id WHERE value IS NULL"
        return set(self._schema.rows(rows))

    def stores(self) -> set[str]:
        return {name for (name,) in self._schema.rows("SELECT name FROM kv_stores")}

    def commits(self) -> set[str]:
        return {commit for (commit,) in self._schema.rows("SELECT id FROM kv_commits WHERE id NOT LIKE '~%'")}

    def pass_time(self, seconds: float) -> None:
        self._schema.pass_time(seconds)

    def close(self) -> None:
        self._schema.drop()


class PooledPlace(PostgresPlace):
    """The same behind a pooler in transaction mode, which the witness does without."""

    limits: Mapping[str, str] = {"cheap look": "notifications belong to a session, which a pooler does not keep"}

    def __init__(self, pooler: Pooler) -> None:
        super().__init__(pooler.port)
        self._pooler = pooler

    def close(self) -> None:
        super().close()
        assert not self._pooler.left_behind, "the next client has that in its session"
