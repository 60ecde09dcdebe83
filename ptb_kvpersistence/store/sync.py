"""The sync face: :class:`Store`, a MutableMapping, for scripts, cron jobs and web applications."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ptb_kvpersistence.model import ABSENT, check_name
from ptb_kvpersistence.store import ambient, arguments, leases, operations
from ptb_kvpersistence.store.leases import LEASE_TTL
from ptb_kvpersistence.store.locks import Lock
from ptb_kvpersistence.store.operations import Entry, Handle, Scope, Settings, drive
from ptb_kvpersistence.store.transaction import LOCK_TIMEOUT, Transaction, run
from ptb_kvpersistence.store.views import Items, Keys, Values
from ptb_kvpersistence.store.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import datetime, timedelta

    from typing_extensions import Self

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.model import KeyRange, Requested

T = TypeVar("T")


class Store(MutableMapping[str, Any]):
    """A named, persistent key-value store that any number of bots and scripts share.

    What it gives is the caller's copy: a change of a nested value is stored by assigning it again.
    """

    def __init__(self, backend: Backend, handle: Handle, domain: str = "", settings: Settings | None = None) -> None:
        self._backend = backend
        self._handle = handle
        self._scope = Scope(handle, domain, settings)

    @property
    def name(self) -> str:
        """Name of the store."""
        return self._handle.name

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

    def domain(self, name: str, *, keep: float | timedelta | None = None) -> Store:
        """Give the same operations on a namespace of its own inside the store.

        Args:
            name: Its name.
            keep: Seconds, or a timedelta, for which its entries are kept from their last writing on. The setting is
                stored with the domain by the next operation, inside a transaction when that is committed, and holds for
                what is written from then on.

        Raises:
            InvalidKeyError: The name cannot be used.
            ConfigurationError: ``keep`` is no duration.
        """
        settings = None if keep is None else Settings(arguments.milliseconds(keep, "keep"))
        return Store(self._backend, self._handle, check_name(name, "domain", allow_empty=True), settings)

    def bound_to(self, backend: Any) -> Store:
        """Give the same store on another performer, for a transaction."""
        return Store(backend, self._handle, self._scope.domain, self._scope.settings)

    def _run(self, operation: Generator[Requested[Any], Any, T]) -> T:
        if ambient.current.get() is None and not leases.held:
            return drive(operation, self._backend.perform)
        inside = ambient.find(self.key, self._handle.info)
        perform = self._backend.perform if inside is None else inside.view.backend.perform
        return drive(operation, leases.fenced(self._handle.backend, perform) if leases.held else perform)

    def transaction(self, *, lock: bool = False, timeout: float = LOCK_TIMEOUT) -> Transaction[Store]:
        """Begin a transaction: ``with store.transaction():``; code inside uses this store, or what is yielded.

        Args:
            lock: Make every other writer wait until the end (in an SQLite file: to any of its stores). A fork that is
                made inside of it can read such a file, but never write it.
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

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def __len__(self) -> int:
        return self._run(operations.count(self._scope, arguments.key_range(self._scope.domain)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[str]:
        return iter(self.keys(reverse=True))

    def lock(self, name: str, *, ttl: float | timedelta = LEASE_TTL, timeout: float = LOCK_TIMEOUT) -> Lock:
        """Take a named lock, across processes: ``with store.lock("report") as lease:``.

        It keeps out those who take the same lock, and nobody else; it belongs to the store, whatever the domain. It is
        renewed while it is held. When its process dies it is free at once in an SQLite file, and on a server after
        ``ttl``. Where it could not be renewed in time, since the process was frozen or the machine asleep, it may have
        been taken by somebody else: then the writes of this thread to this store inside the block raise LeaseLostError
        and write nothing. Take it outside of transactions, and begin these inside.

        Args:
            name: Of the lock.
            ttl: Seconds, or a timedelta, after which it is free when it was not renewed.
            timeout: Seconds to wait for it; 0 not at all.

        Returns:
            A context manager that gives a lease: ``lease.token`` grows from one holder to the next, ``lease.check()``
            raises LeaseLostError once the lock is lost.
        """
        return Lock(self._backend, self._handle, name, ttl=ttl, timeout=timeout)

    def __repr__(self) -> str:
        domain = f", domain={self._scope.domain!r}" if self._scope.domain else ""
        return f"<Store {self.name!r} in {self._backend.name}{domain}>"

    def pages(self, keys: KeyRange, *, reverse: bool = False, values: bool = True) -> Iterator[tuple[str, Any]]:
        """Go through a range of keys and values, a page at a time; without ``values`` these are None."""
        after, more = None, True
        while more:
            items, more = self._run(operations.page(self._scope, keys, after, reverse=reverse))
            for key, record in items:
                yield key, operations.decode_value(self._scope, key, record.value) if values else None
            after = items[-1][0] if items else after

    def keys(
        self, prefix: str = "", *, start: str | None = None, stop: str | None = None, reverse: bool = False
    ) -> KeysView[str]:
        """List keys in code point order, page by page.

        Args:
            prefix: Only keys that begin so.
            start: Only keys from here on.
            stop: Only keys before this one.
            reverse: The other way round.
        """
        return Keys(self, arguments.key_range(self._scope.domain, prefix, start, stop), reverse=reverse)

    def values(
        self, prefix: str = "", *, start: str | None = None, stop: str | None = None, reverse: bool = False
    ) -> ValuesView[Any]:
        """List values in the order of their keys, page by page; see :meth:`keys`."""
        return Values(self, arguments.key_range(self._scope.domain, prefix, start, stop), reverse=reverse)

    def items(
        self, prefix: str = "", *, start: str | None = None, stop: str | None = None, reverse: bool = False
    ) -> ItemsView[str, Any]:
        """List keys and values in the order of the keys, page by page; see :meth:`keys`."""
        return Items(self, arguments.key_range(self._scope.domain, prefix, start, stop), reverse=reverse)

    def count(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> int:
        """Count keys; see :meth:`keys`."""
        return self._run(operations.count(self._scope, arguments.key_range(self._scope.domain, prefix, start, stop)))

    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, default: T) -> Any | T: ...
    def get(self, key: str, default: Any = None) -> Any:
        """Read a value.

        Returns:
            The value, ``default`` if there is no entry.
        """
        if ambient.current.get() is None and (request := operations.get_request(self._scope, key)) is not None:
            # The steps of the operation, without its generator: to begin and drive one takes 6 % of the time of a read.
            (record,) = self._backend.perform(request)
            return operations.value_of(self._scope, key, record, default)
        return self._run(operations.get(self._scope, key, default))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Read several values from one snapshot; absent keys are left out."""
        return self._run(operations.get_many(self._scope, keys))

    def entry(self, key: str) -> Entry | None:
        """Read a value together with its version; None if there is no entry."""
        return self._run(operations.entry(self._scope, key))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | timedelta | None = None,
        expires_at: datetime | None = None,
        if_version: int | None = None,
    ) -> int:
        """Write a value.

        Args:
            key: The key.
            value: What the codec can store.
            ttl: Seconds, or a timedelta, after which the entry expires. :meth:`touch` and what changes the value in
                place (increment, append, replace, edit) count anew; a later ``set`` without it ends it.
            expires_at: When it expires, with a time zone.
            if_version: Only if the entry has this version (0: there is none).

        Returns:
            The new version.

        Raises:
            EncodeError: The value cannot be stored.
            InvalidKeyError: The key cannot be used.
            ConflictError: The entry has another version.
        """
        life = arguments.lifetime(ttl, expires_at)
        return self._run(operations.set_item(self._scope, key, value, if_version, life))

    def set_many(
        self, items: Mapping[str, Any], *, ttl: float | timedelta | None = None, expires_at: datetime | None = None
    ) -> None:
        """Write several values, all or none."""
        self._run(operations.set_many(self._scope, items, arguments.lifetime(ttl, expires_at)))

    def update(self, other: Any = (), /, **items: Any) -> None:
        """Write several values, of a mapping or of pairs, all or none."""
        self._run(operations.set_many(self._scope, {**dict(other), **items}))

    def add(
        self, key: str, value: Any, *, ttl: float | timedelta | None = None, expires_at: datetime | None = None
    ) -> int:
        """Write a value where there is none.

        Returns:
            The version.

        Raises:
            KeyExistsError: There is an entry.
        """
        return self._run(operations.add(self._scope, key, value, arguments.lifetime(ttl, expires_at)))

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

    def append(self, key: str, *items: Any) -> int:
        """Add items to the end of a list, atomically; give the new length. An absent entry counts as []."""
        return self._run(operations.append(self._scope, key, items))

    def touch(self, key: str, *, ttl: float | timedelta | None = None, expires_at: datetime | None = None) -> bool:
        """Renew an entry's lifetime, or give it another one; tell whether there was an entry."""
        return self._run(operations.touch(self._scope, key, arguments.lifetime(ttl, expires_at)))

    @contextmanager
    def edit(self, key: str, default: Any = ABSENT) -> Iterator[Any]:
        """Change a value in place: ``with store.edit("cart") as cart: cart.append(...)``; it is written at the end.

        Args:
            key: The key.
            default: What to begin with a copy of where there is no entry.

        Raises:
            KeyNotFoundError: There is no entry, and no default.
            ConflictError: At the end: somebody else has written the entry meanwhile. Nothing was written.
        """
        entry = self.entry(key)
        value = (self[key] if default is ABSENT else deepcopy(default)) if entry is None else entry.value
        yield value
        version = 0 if entry is None else entry.version
        self._run(operations.write_back(self._scope, key, value, version))

    def watch(
        self, *, domain: str | None = None, since: int | str | None = None, timeout: float | None = None
    ) -> Watch:
        """Follow the changes of a domain, across processes: the latest change of each key, in version order.

        It shows as a deletion that an entry has expired: in a file or memory within 100 ms, on a server a few round
        trips later, and where somebody has the store to himself at that time, within a second of his end.

        Args:
            domain: Of another domain than this one.
            since: Version, or cursor of an event, after which to begin; None: with what changes from this call on.
            timeout: Seconds without a change after which the iteration ends; None: never.

        Returns:
            An iterator, which ``with`` closes.

        Raises:
            ConfigurationError: ``since`` is nothing of that kind.
            WatchGapError: Changes after ``since`` were forgotten, or the store was made anew.
        """
        scope = self._scope if domain is None else self.domain(domain).scope
        return Watch(self._backend, scope, since, timeout)

    @property
    def scope(self) -> Scope:
        """Which domain of which store this is, for operations."""
        return self._scope

    def pop(self, key: str, default: Any = ABSENT) -> Any:
        """Delete an entry and give its value."""
        return self._run(operations.pop(self._scope, key, default))

    def popitem(self) -> tuple[str, Any]:
        """Delete the first entry, atomically, and give its key and value; KeyNotFoundError if there is none."""
        return self._run(operations.popitem(self._scope))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Give the value, after writing ``default`` where there was none."""
        return self._run(operations.setdefault(self._scope, key, default))

    def clear(self) -> None:
        """Delete all entries of this domain."""
        self._run(operations.clear(self._scope))
