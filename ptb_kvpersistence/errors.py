"""Every error of the package; nothing else lives here.

    KVPersistenceError
    |-- ConfigurationError (ValueError)        an argument or a combination of arguments is wrong
    |   `-- InvalidKeyError (ValueError)       a key or a domain name cannot be used
    |-- EncodeError (TypeError)                a value cannot be stored
    |-- DecodeError (ValueError)               a stored value cannot be read
    |-- StoreExistsError (ValueError)          a store of that name exists
    |-- StoreNotFoundError (KeyError)          no store of that name
    |-- KeyNotFoundError (KeyError)            no entry under that key
    |-- KeyExistsError (KeyError)              an entry under that key exists
    |-- ConflictError (RuntimeError)           what a commit relied on has changed
    |-- ReentryError (RuntimeError)            somebody would wait for himself
    |-- LockTimeoutError (TimeoutError)        a lock was not free in time
    |-- LeaseLostError (RuntimeError)          a lock expired while it was held
    |-- StoreInUseError (RuntimeError)         bots are attached to the store
    |-- WatchGapError (RuntimeError)           changes were forgotten before a watcher saw them
    |-- StoreClosedError (RuntimeError)        the database was closed, or the transaction has ended
    `-- DatabaseError (OSError)                the database cannot be used
        |-- BusyError (TimeoutError)           locked by somebody else for too long
        |-- DatabaseUnavailableError           the server cannot be reached, or does not answer
        |-- OutcomeUnknownError                the reply never came; it may have been applied
        |-- ReadOnlyError (PermissionError)    the file or its folder cannot be written
        |-- DatabaseFullError                  no space left
        |-- CorruptDatabaseError               not a database of ours, or damaged
        |-- PickleFoundError                   a PicklePersistence file lies at that path
        `-- FormatVersionError                 written by a newer version of the package

Fields are data. A message says what happened, where, and what to do; it never holds a value or a password.
"""

from __future__ import annotations

from typing import Any


class KVPersistenceError(Exception):
    """Base of every error that the package raises on purpose."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: value for name, value in self.__dict__.items() if name != "message"}
        return _rebuild, (type(self), self.message, fields)


def _rebuild(cls: type[KVPersistenceError], message: str, fields: dict[str, Any]) -> KVPersistenceError:
    return cls(message, **fields)


class ConfigurationError(KVPersistenceError, ValueError):
    """An argument, or a combination of arguments, is wrong."""


class InvalidKeyError(ConfigurationError):
    """A key or a domain name cannot be used.

    Attributes:
        reason: What is wrong with it.
    """

    reason: str


class EncodeError(KVPersistenceError, TypeError):
    """A value cannot be stored.

    Attributes:
        place: Where the value stands, for example ``user_data[42]['cart'][0].lock``.
        reason: What is wrong, for example ``cannot store a _thread.lock``.
    """

    place: str
    reason: str

    def __init__(self, message: str = "", *, place: str = "value", reason: str = "", **fields: Any) -> None:
        super().__init__(message or f"{place}: {reason}", place=place, reason=reason, **fields)


class DecodeError(KVPersistenceError, ValueError):
    """A stored value cannot be read.

    Attributes:
        place: Where in the value, for example ``user_data[42]['cart']``.
        reason: What is wrong.
        store: Name of the store, where known.
        domain: Domain, where known.
        key: Key, where known.
    """

    place: str
    reason: str
    store: str | None
    domain: str | None
    key: str | None

    def __init__(
        self,
        message: str = "",
        *,
        place: str = "value",
        reason: str = "",
        store: str | None = None,
        domain: str | None = None,
        key: str | None = None,
        **fields: Any,
    ) -> None:
        where = "" if store is None else f" (store {store!r}, domain {domain!r}, key {key!r})"
        super().__init__(
            message or f"{place}: {reason}{where}",
            place=place,
            reason=reason,
            store=store,
            domain=domain,
            key=key,
            **fields,
        )


class StoreExistsError(KVPersistenceError, ValueError):
    """A store of that name exists already."""


class StoreNotFoundError(KVPersistenceError, KeyError):
    """There is no store of that name."""


class KeyNotFoundError(KVPersistenceError, KeyError):
    """There is no entry under that key.

    Attributes:
        key: The key.
    """

    key: str


class KeyExistsError(KVPersistenceError, KeyError):
    """There is an entry under that key already.

    Attributes:
        key: The key.
    """

    key: str


class ConflictError(KVPersistenceError, RuntimeError):
    """What a commit relied on has changed meanwhile; nothing of it was written."""


class ReentryError(KVPersistenceError, RuntimeError):
    """The same thread or task, or the running event loop, would wait for itself for ever."""


class LockTimeoutError(KVPersistenceError, TimeoutError):
    """A lock was not free in time; nothing was done."""


class LeaseLostError(KVPersistenceError, RuntimeError):
    """A lock expired while it was held, and somebody else may have it."""


class StoreInUseError(KVPersistenceError, RuntimeError):
    """Bots are attached to the store.

    Attributes:
        bots: Their names.
    """

    bots: tuple[str, ...]


class WatchGapError(KVPersistenceError, RuntimeError):
    """Changes were forgotten before a watcher saw them, or the store was made anew; read it from the start."""


class StoreClosedError(KVPersistenceError, RuntimeError):
    """The database was closed, open it again; or the transaction has ended, begin another one."""


class DatabaseError(KVPersistenceError, OSError):
    """The database cannot be used; the cause is chained."""


class BusyError(DatabaseError, TimeoutError):
    """Somebody else held the database's lock for longer than the deadline; nothing was written."""


class DatabaseUnavailableError(DatabaseError):
    """The server cannot be reached, or does not answer in time; nothing was written."""


class OutcomeUnknownError(DatabaseError):
    """The connection broke before the reply came; the commit may have been applied, or not."""


class ReadOnlyError(DatabaseError, PermissionError):
    """The database, or the folder it lies in, cannot be written."""


class DatabaseFullError(DatabaseError):
    """There is no space left for the database; nothing was written."""


class CorruptDatabaseError(DatabaseError):
    """The file is not a database of this package, or it is damaged."""


class PickleFoundError(DatabaseError):
    """A file of PicklePersistence lies where the database should be."""


class FormatVersionError(DatabaseError):
    """The database was written by a newer version of the package."""
