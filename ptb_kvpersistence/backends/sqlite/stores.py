"""The stores in an SQLite file: finding, creating, renaming and deleting them."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ptb_kvpersistence.backends.base import in_use, no_such_store, store_exists
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.sqlite.schema import HEAD
from ptb_kvpersistence.model import StoreInfo

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ptb_kvpersistence.backends.sqlite.leases import Leases
    from ptb_kvpersistence.model import DeleteStore, ListStores, OpenStore, RenameStore

_STORE = "SELECT id, name, incarnation FROM stores"


class Stores:
    """Performs the requests about stores on one connection.

    Args:
        connection: To the file.
        path: The file, for messages.
        writing: Makes a write transaction.
        leases: Opens the leases beside the file.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        writing: Callable[[], AbstractContextManager[None]],
        leases: Callable[[], Leases],
    ) -> None:
        self._connection = connection
        self._path = path
        self._writing = writing
        self._leases = leases

    def list(self, _request: ListStores) -> tuple[StoreInfo, ...]:
        """List the stores by name."""
        return tuple(map(StoreInfo._make, self._connection.execute(f"{_STORE} ORDER BY name")))

    def open(self, request: OpenStore) -> StoreInfo:
        """Find a store, or create it."""
        found = self._find(request.name)
        if found is None and request.mode == "open":
            raise no_such_store(request.name, self._path)
        if found is None:
            with self._writing():
                found = self._find(request.name)
                if found is None:
                    return self._create(request.name)
        if request.mode == "create":
            raise store_exists(request.name, self._path)
        return found

    def _create(self, name: str) -> StoreInfo:
        # It begins above all versions so far: those of an earlier store of that name are no place to go on from.
        self._connection.execute("INSERT INTO feed(store, entry) VALUES(0, 0)")
        self._connection.execute(
            f"INSERT INTO stores(name, incarnation, created_at, horizon) VALUES(?, ?, ?, ({HEAD}))",
            (name, uuid.uuid4().hex, now_ms()),
        )
        created = self._find(name)
        assert created is not None  # noqa: S101 - inserted in this transaction
        return created

    def _find(self, name: str) -> StoreInfo | None:
        row = self._connection.execute(f"{_STORE} WHERE name = ?", (name,)).fetchone()
        return None if row is None else StoreInfo._make(row)

    def rename(self, request: RenameStore) -> None:
        """Give a store another name."""
        with ExitStack() as unused, self._writing():
            store = self._find(request.name)
            if store is None:
                raise no_such_store(request.name, self._path)
            if self._find(request.new_name) is not None:
                raise store_exists(request.new_name, self._path)
            if not request.force:
                unused.enter_context(self._leases().locked())
                self._refuse_while_attached(store)
            self._connection.execute("UPDATE stores SET name = ? WHERE id = ?", (request.new_name, store.id))

    def delete(self, request: DeleteStore) -> None:
        """Delete a store and its entries."""
        with ExitStack() as unused, self._writing():
            store = self._find(request.name)
            if store is None:
                raise no_such_store(request.name, self._path)
            if not request.force:
                self._refuse_while_attached(store)
            # The first time leaves tombstones, by the trigger that serves SQL clients.
            for _ in range(2):
                self._connection.execute("DELETE FROM entries WHERE store = ?", (store.id,))
            self._connection.execute(f"DELETE FROM feed WHERE store = ? AND version < ({HEAD})", (store.id,))
            self._connection.execute("DELETE FROM domains WHERE store = ?", (store.id,))
            self._connection.execute("DELETE FROM stores WHERE id = ?", (store.id,))
            # Nobody attaches or acquires between this look and the commit.
            unused.enter_context(self._leases().locked())
            if not request.force:
                self._refuse_while_attached(store)
            self._leases().forget(store.id)

    def _refuse_while_attached(self, store: StoreInfo) -> None:
        bots = self._leases().attached(store.id)
        if bots:
            raise in_use(store.name, tuple(info.name for info in bots))
