"""The sync face: :class:`Store`, a MutableMapping, for scripts, cron jobs and web applications."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ptb_kvpersistence.model import ABSENT, check_name
from ptb_kvpersistence.store import ambient, operations
from ptb_kvpersistence.store.operations import Entry, Handle, Scope, drive
from ptb_kvpersistence.store.transaction import LOCK_TIMEOUT, Transaction, run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.model import Requested

T = TypeVar("T")


class Store(MutableMapping[str, Any]):
    """A named, persistent key-value store that any number of bots and scripts share.

    What it gives is the caller's copy: a change of a nested value is stored by assigning it again.
    """

    def __init__(self, backend: Backend, handle: Handle, domain: str = "") -> None:
        self._backend = backend
        self._handle = handle
        self._scope = Scope(handle, domain)

    @property
    def name(self) -> str:
        """Name of the store."""
        return self._handle.name

    @property
    def domain_name(self) -> str:
        """Name of the domain; "" for the root."""
        return self._scope.domain

    @property
    def backend(self) -> Backend:
        """What performs the requests."""
        return self._backend

    @property
    def handle(self) -> Handle:
        """Which store this is, for operations."""
        return self._handle

    @property
    def key(self) -> tuple[object, str]:
        """What tells whether two objects are the same store of the same database."""
        return self._handle.backend, self._handle.name

    def domain(self, name: str) -> Store:
        """Give the same operations on a namespace of its own inside the store.

        Raises:
            InvalidKeyError: The name cannot be used.
        """
        return Store(self._backend, self._handle, check_name(name, "domain", allow_empty=True))

    def bound_to(self, backend: Any) -> Store:
        """Give the same store on another performer, for a transaction."""
        return Store(backend, self._handle, self._scope.domain)

    def _run(self, operation: Generator[Requested[Any], Any, T]) -> T:
        inside = ambient.find(self.key)
        return drive(operation, self._backend.perform if inside is None else inside.view.backend.perform)

    def transaction(self, *, lock: bool = False, timeout: float = LOCK_TIMEOUT) -> Transaction:
        """Begin a transaction: ``with store.transaction():``; code inside uses this store, or what is yielded.

        Args:
            lock: Make every other writer wait until the end (in an SQLite file: to any of its stores).
            timeout: Seconds to wait for the lock.

        Returns:
            A context manager; any exception inside rolls back. Inside another transaction of this thread it is a
            nested one, which rolls back alone.
        """
        return Transaction(self, lock=lock, timeout=timeout)

    def run(self, function: Callable[[Store], T]) -> T:
        """Call ``function(store)`` inside a transaction, again after each conflict; give its result."""
        return run(self, function)

    def __getitem__(self, key: str) -> Any:
        return self._run(operations.get_item(self._scope, key))

    def __setitem__(self, key: str, value: Any) -> None:
        self._run(operations.set_item(self._scope, key, value))

    def __delitem__(self, key: str) -> None:
        self._run(operations.delete(self._scope, key))

    def __contains__(self, key: object) -> bool:
        return self._run(operations.contains(self._scope, key))

    def __len__(self) -> int:
        return self._run(operations.count(self._scope))

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._pages(""))

    def __repr__(self) -> str:
        domain = f", domain={self._scope.domain!r}" if self._scope.domain else ""
        return f"<Store {self.name!r} in {self._backend.name}{domain}>"

    def _pages(self, prefix: str, *, reverse: bool = False) -> Iterator[tuple[str, Any]]:
        after, more = None, True
        while more:
            items, more = self._run(operations.page(self._scope, after, prefix, reverse=reverse))
            yield from items
            after = items[-1][0] if items else after

    def keys(self, prefix: str = "") -> KeysView[str]:
        """List the keys, in code point order, page by page."""
        return _Keys(self, prefix)

    def values(self, prefix: str = "") -> ValuesView[Any]:
        """List the values in the order of their keys, page by page."""
        return _Values(self, prefix)

    def items(self, prefix: str = "") -> ItemsView[str, Any]:
        """List keys and values, in code point order of the keys, page by page."""
        return _Items(self, prefix)

    @overload
    def get(self, key: str, /) -> Any: ...
    @overload
    def get(self, key: str, default: T, /) -> Any | T: ...
    def get(self, key: str, default: Any = None, /) -> Any:
        """Read a value.

        Returns:
            The value, ``default`` if there is no entry.
        """
        return self._run(operations.get(self._scope, key, default))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Read several values from one snapshot; absent keys are left out."""
        return self._run(operations.get_many(self._scope, keys))

    def entry(self, key: str) -> Entry | None:
        """Read a value together with its version; None if there is no entry."""
        return self._run(operations.entry(self._scope, key))

    def set(self, key: str, value: Any, *, if_version: int | None = None) -> int:
        """Write a value.

        Args:
            key: The key.
            value: What the codec can store.
            if_version: Only if the entry has this version (0: there is none).

        Returns:
            The new version.

        Raises:
            EncodeError: The value cannot be stored.
            InvalidKeyError: The key cannot be used.
            ConflictError: The entry has another version.
        """
        return self._run(operations.set_item(self._scope, key, value, if_version))

    def set_many(self, items: dict[str, Any]) -> None:
        """Write several values, all or none."""
        self._run(operations.set_many(self._scope, items.items()))

    def add(self, key: str, value: Any) -> int:
        """Write a value where there is none.

        Returns:
            The version.

        Raises:
            KeyExistsError: There is an entry.
        """
        return self._run(operations.add(self._scope, key, value))

    def replace(self, key: str, value: Any) -> bool:
        """Write a value only where there is one; tell whether there was."""
        return self._run(operations.replace(self._scope, key, value))

    def delete(self, key: str) -> None:
        """Delete an entry.

        Raises:
            KeyNotFoundError: There is none.
        """
        self._run(operations.delete(self._scope, key))

    def discard(self, key: str) -> bool:
        """Delete an entry if there is one; tell whether there was."""
        return self._run(operations.discard(self._scope, key))

    def increment(self, key: str, amount: float = 1) -> Any:
        """Add to a number, atomically; give the sum. An absent entry counts as 0."""
        return self._run(operations.increment(self._scope, key, amount))

    def pop(self, key: str, default: Any = ABSENT) -> Any:
        """Delete an entry and give its value."""
        return self._run(operations.pop(self._scope, key, default))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Give the value, after writing ``default`` where there was none."""
        return self._run(operations.setdefault(self._scope, key, default))

    def clear(self) -> None:
        """Delete all entries of this domain."""
        self._run(operations.clear(self._scope))


class _Keys(KeysView[str]):
    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self._store, self._prefix = store, prefix

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._store._pages(self._prefix))  # noqa: SLF001 - same module

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._prefix else len(self._store)


class _Values(ValuesView[Any]):
    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self._store, self._prefix = store, prefix

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._store._pages(self._prefix))  # noqa: SLF001 - same module

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._prefix else len(self._store)


class _Items(ItemsView[str, Any]):
    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self._store, self._prefix = store, prefix

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._store._pages(self._prefix)  # noqa: SLF001 - same module

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._prefix else len(self._store)
