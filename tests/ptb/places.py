"""The databases that KVPersistence is tested on, each with a witness that reads past the package.

A witness reads with the plain driver. A file it also writes with plain SQL, as any program may; on servers, where a
version has to be drawn under the store's lock, other programs write by the port, and so does the witness.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.model import Commit, Delete, OpenStore, Put
from tests.ptb.offline import Witness
from tests.servers import postgres, valkey

MEMORY = "memory"
PLACES = tuple(os.environ.get("KV_TEST_PLACES", "file postgres valkey cluster").split())
"""A run that is about something else can leave some out: KV_TEST_PLACES="file postgres" python -m pytest"""


class Place:
    """Where the bots of a test keep their data.

    Attributes:
        location: A path or a URL.
        refuses_other_text: Whether what is no JSON cannot get there at all.
    """

    location: Any
    refuses_other_text = False


class FilePlace(Place):
    """An SQLite file."""

    def __init__(self, path: Any) -> None:
        self.location = path

    def witness(self) -> Witness:
        return Witness(self.location)

    def wipe(self) -> None:
        """Delete it while nobody uses it."""
        for path in self.location.parent.glob(f"{self.location.name}*"):
            path.unlink()

    def close(self) -> None:
        """The test's folder goes with the test."""


class MemoryPlace(Place):
    """A database in this process; nobody else can look into it."""

    def __init__(self) -> None:
        self.location = f"memory:{uuid.uuid4().hex}"

    def close(self) -> None:
        """It goes with the last who uses it."""


class ServerWitness(Witness):
    """Looks at a store on a server; subclasses know how that one keeps it."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._backend = open_backend(location)

    def close(self) -> None:
        self._backend.close()

    def head(self) -> int:
        return max(self.versions().values(), default=0)

    def put(self, domain: str, key: str, value: Any) -> None:
        self._write(Put(domain, key, json.dumps(value).encode()))

    def update_text(self, domain: str, key: str, text: str) -> int:
        if (domain, key) not in self.texts():
            return 0
        self._write(Put(domain, key, text.encode()))
        return 1

    def delete(self, domain: str, key: str) -> int:
        if (domain, key) not in self.texts():
            return 0
        self._write(Delete(domain, key))
        return 1

    def _write(self, mutation: Put | Delete) -> None:
        store = self._backend.perform(OpenStore("default", "ensure"))
        self._backend.perform(Commit(store.id, (mutation,)))


class PostgresWitness(ServerWitness):
    """A plain SQL client."""

    def __init__(self, schema: postgres.Schema) -> None:
        super().__init__(schema.url)
        self._schema = schema

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._schema.rows(statement, parameters)

    def texts(self) -> dict[tuple[str, str], tuple[int, str]]:
        rows = self.query("SELECT domain, key, version, value::text FROM kv_entries WHERE value IS NOT NULL")
        return {(domain, key): (version, value) for domain, key, version, value in rows}

    def commits(self) -> int:
        return self.query("SELECT count(*) FROM kv_commits WHERE id NOT LIKE '~%'")[0][0]


class ValkeyWitness(ServerWitness):
    """A plain redis-py client."""

    def __init__(self, location: str, client: Any, prefix: str) -> None:
        super().__init__(location)
        self._keys = valkey.Witness(client, prefix)

    def texts(self) -> dict[tuple[str, str], tuple[int, str]]:
        return {
            tuple(address.decode().split("\0", 1)): (int(stored.split(b" ", 1)[0]), stored.partition(b"\n")[2].decode())
            for store in self._keys._stores().values()
            for address, stored in self._keys.client.hgetall(self._keys.key(store, "entries")).items()
        }

    def commits(self) -> int:
        return len(self._keys.commits())


class PostgresPlace(Place):
    """A schema of its own on the shared server, or on another one."""

    refuses_other_text = True

    def __init__(self, server: Any = None) -> None:
        self.schema = postgres.Schema(postgres.shared_url() if server is None else server.url)
        self.location = self.schema.url
        self._witnesses: list[PostgresWitness] = []

    def witness(self) -> PostgresWitness:
        self._witnesses.append(PostgresWitness(self.schema))
        return self._witnesses[-1]

    def wipe(self) -> None:
        self.schema.drop()

    def close(self) -> None:
        for witness in self._witnesses:
            witness.close()
        self.wipe()


class ValkeyPlace(Place):
    """A prefix of its own on a server or a cluster."""

    def __init__(self, server: Any) -> None:
        self._prefix = f"p{uuid.uuid4().hex[:12]}"
        self.location = f"{server.url}?prefix={self._prefix}"
        self._client = server.client()
        self._witnesses: list[ValkeyWitness] = []

    def witness(self) -> ValkeyWitness:
        self._witnesses.append(ValkeyWitness(self.location, self._client, self._prefix))
        return self._witnesses[-1]

    def wipe(self) -> None:
        valkey.remove(self._client, self._prefix)

    def close(self) -> None:
        for witness in self._witnesses:
            witness.close()
        self.wipe()
        self._client.close()


def open_place(kind: str, request: Any) -> Any:
    """Make a place of a kind; servers are started for the first test that wants one."""
    if kind == "file":
        return FilePlace(request.getfixturevalue("tmp_path") / "bot.db")
    if kind == MEMORY:
        return MemoryPlace()
    if kind == "postgres":
        return PostgresPlace()
    return ValkeyPlace(request.getfixturevalue({"valkey": "valkey_server", "cluster": "valkey_cluster"}[kind]))
