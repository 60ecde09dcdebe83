"""Persistence for python-telegram-bot on a shared, crash-safe JSON key-value store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.errors import (
    ConflictError,
    DatabaseError,
    DecodeError,
    EncodeError,
    KVPersistenceError,
    StoreExistsError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from ptb_kvpersistence.persistence.kv import KVPersistence
    from ptb_kvpersistence.store.aio import AsyncStore
    from ptb_kvpersistence.store.database import AsyncDatabase, Database, connect, connect_async
    from ptb_kvpersistence.store.sync import Store

__version__ = "0.1.0"

_LAZY = {
    "KVPersistence": "ptb_kvpersistence.persistence.kv",
    "AsyncStore": "ptb_kvpersistence.store.aio",
    "AsyncDatabase": "ptb_kvpersistence.store.database",
    "Database": "ptb_kvpersistence.store.database",
    "connect": "ptb_kvpersistence.store.database",
    "connect_async": "ptb_kvpersistence.store.database",
    "Store": "ptb_kvpersistence.store.sync",
}


def __getattr__(name: str) -> Any:
    # A script that only uses a store need not pay for importing PTB.
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import importlib  # noqa: PLC0415 - only here

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AsyncDatabase",
    "AsyncStore",
    "ConflictError",
    "Database",
    "DatabaseError",
    "DecodeError",
    "EncodeError",
    "KVPersistence",
    "KVPersistenceError",
    "Store",
    "StoreExistsError",
    "StoreNotFoundError",
    "connect",
    "connect_async",
]
