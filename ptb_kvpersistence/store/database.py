"""Databases: where named stores live, for both faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.backends.urls import open_async_backend, open_backend
from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.model import BotInfo, check_name
from ptb_kvpersistence.store import administration, aio_locks, locks
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.arguments import patience
from ptb_kvpersistence.store.operations import Handle, drive, drive_async, open_store
from ptb_kvpersistence.store.sync import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from typing_extensions import Self

DEFAULT_STORE = "default"
"""The store that a persistence uses when it is given a path or URL."""


class Database:
    """One place that holds named stores; a context manager that closes it.

    Attributes:
        name: Path or URL, without a password.
    """

    def __init__(
        self, location: str | os.PathLike[str], *, types: Iterable[type] = (), timeout: float, durable: bool = False
    ) -> None:
        self._backend = open_backend(location, timeout=patience(timeout))
        self._codec = Codec(types)
        self._durable = durable
        self.name = self._backend.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.name}>"

    def close(self) -> None:
        """Give back the locks that are held by it, and close the connections; the stores live on."""
        try:
            locks.give_back(self._backend)
        finally:
            self._backend.close()

    def create(self, name: str) -> Store:
        """Create a store.

        Raises:
            StoreExistsError: There is one of that name.
            InvalidKeyError: The name cannot be used.
        """
        return self._store(name, "create")

    def store(self, name: str = DEFAULT_STORE, *, create: bool = False) -> Store:
        """Open a store.

        Args:
            name: Its name; by default the one that a persistence with this file uses.
            create: Create it where it does not exist.

        Raises:
            StoreNotFoundError: There is none of that name.
        """
        return self._store(name, "ensure" if create else "open")

    def names(self) -> list[str]:
        """List the stores' names in code point order; those that ``ptb-kv copy`` has not completed are none yet."""
        return drive(administration.names(), self._backend.perform)

    def rename(self, old: str, new: str, *, force: bool = False) -> None:
        """Give a store another name. It stays the same store: whoever has it open goes on with it.

        Args:
            old: Its name.
            new: The name it gets.
            force: Do so though bots are attached, which will ask for the old name when they start again.

        Raises:
            StoreNotFoundError: There is none of that name.
            StoreExistsError: The new name is taken.
            StoreInUseError: Bots are attached.
        """
        drive(administration.rename(old, new, force=force), self._backend.perform)

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a store and all that is in it, for good; whoever has it open gets StoreNotFoundError from then on.

        Args:
            name: Its name.
            force: Do so though bots are attached.

        Raises:
            StoreNotFoundError: There is none of that name.
            StoreInUseError: Bots are attached; says which.

        Cost:
            One transaction, in which others wait to write: seconds for a million entries in an SQLite file.
        """
        drive(administration.delete(name, force=force), self._backend.perform)

    def bots(self, name: str) -> list[BotInfo]:
        """List the bots that are or were attached to a store, with when they were last seen, by name.

        Raises:
            StoreNotFoundError: There is none of that name.
        """
        return drive(administration.bots(name), self._backend.perform)

    def _store(self, name: str, mode: Literal["open", "create", "ensure"]) -> Store:
        handle = Handle(check_name(name, "store name"), mode, self._codec, self._backend, self._durable)
        drive(open_store(handle), self._backend.perform)
        return Store(self._backend, handle)


class AsyncDatabase:
    """One place that holds named stores, for the async face; an async context manager that closes it.

    Attributes:
        name: Path or URL, without a password.
    """

    def __init__(
        self, location: str | os.PathLike[str], *, types: Iterable[type] = (), timeout: float, durable: bool = False
    ) -> None:
        self._backend = open_async_backend(location, timeout=patience(timeout))
        self._codec = Codec(types)
        self._durable = durable
        self.name = self._backend.name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_details: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncDatabase {self.name}>"

    async def close(self) -> None:
        """Give back the locks that are held by it, and close the connections; the stores live on."""
        try:
            await aio_locks.give_back(self._backend)
        finally:
            await self._backend.close()

    async def create(self, name: str) -> AsyncStore:
        """Create a store.

        Raises:
            StoreExistsError: There is one of that name.
            InvalidKeyError: The name cannot be used.
        """
        return await self._store(name, "create")

    async def store(self, name: str = DEFAULT_STORE, *, create: bool = False) -> AsyncStore:
        """Open a store.

        Args:
            name: Its name; by default the one that a persistence with this file uses.
            create: Create it where it does not exist.

        Raises:
            StoreNotFoundError: There is none of that name.
        """
        return await self._store(name, "ensure" if create else "open")

    async def names(self) -> list[str]:
        """List the stores' names in code point order; those that ``ptb-kv copy`` has not completed are none yet."""
        return await drive_async(administration.names(), self._backend.perform)

    async def rename(self, old: str, new: str, *, force: bool = False) -> None:
        """Give a store another name. It stays the same store: whoever has it open goes on with it.

        Args:
            old: Its name.
            new: The name it gets.
            force: Do so though bots are attached, which will ask for the old name when they start again.

        Raises:
            StoreNotFoundError: There is none of that name.
            StoreExistsError: The new name is taken.
            StoreInUseError: Bots are attached.
        """
        await drive_async(administration.rename(old, new, force=force), self._backend.perform)

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a store and all that is in it, for good; whoever has it open gets StoreNotFoundError from then on.

        Args:
            name: Its name.
            force: Do so though bots are attached.

        Raises:
            StoreNotFoundError: There is none of that name.
            StoreInUseError: Bots are attached; says which.

        Cost:
            One transaction, in which others wait to write: seconds for a million entries in an SQLite file.
        """
        await drive_async(administration.delete(name, force=force), self._backend.perform)

    async def bots(self, name: str) -> list[BotInfo]:
        """List the bots that are or were attached to a store, with when they were last seen, by name.

        Raises:
            StoreNotFoundError: There is none of that name.
        """
        return await drive_async(administration.bots(name), self._backend.perform)

    async def _store(self, name: str, mode: Literal["open", "create", "ensure"]) -> AsyncStore:
        handle = Handle(check_name(name, "store name"), mode, self._codec, self._backend, self._durable)
        await drive_async(open_store(handle), self._backend.perform)
        return AsyncStore(self._backend, handle)


def connect(
    location: str | os.PathLike[str],
    *,
    types: Iterable[type] = (),
    timeout: float = DEFAULT_TIMEOUT,
    durable: bool = False,
) -> Database:
    """Connect to a database for scripts and threads.

    Args:
        location: Path of an SQLite file, or a URL: ``sqlite:///file.db``, ``memory:``, ``memory:name``,
            ``postgresql://user:password@host/database``, ``redis://user:password@host/0``.
        types: Classes whose instances may be stored, besides those the codec knows.
        timeout: Seconds to wait for a database that somebody else has locked.
        durable: Have each write wait for the disk, so that it survives loss of power too; any write survives the end
            of the process.

    Raises:
        ConfigurationError: The location names nothing known.
    """
    return Database(location, types=types, timeout=timeout, durable=durable)


def connect_async(
    location: str | os.PathLike[str],
    *,
    types: Iterable[type] = (),
    timeout: float = DEFAULT_TIMEOUT,
    durable: bool = False,
) -> AsyncDatabase:
    """Connect to a database for handlers; see :func:`connect`."""
    return AsyncDatabase(location, types=types, timeout=timeout, durable=durable)


def make_async_store(location: Any, name: str, codec: Codec, *, timeout: float = DEFAULT_TIMEOUT) -> AsyncStore:
    """Make a store that is opened, and created, by its first operation."""
    backend = open_async_backend(location, timeout=patience(timeout))
    return AsyncStore(backend, Handle(name, "ensure", codec, backend))
