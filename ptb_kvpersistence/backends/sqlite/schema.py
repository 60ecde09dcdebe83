"""The file format: tables, its number, and how a file is opened, created and checked.

The format is described in the README; :data:`FORMAT` grows with every change that an older package could not read.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from ptb_kvpersistence.errors import CorruptDatabaseError, DatabaseError, FormatVersionError

_logger = logging.getLogger(__name__)

FORMAT: Final = 2
APPLICATION_ID: Final = 0x4B565042
CACHE_KIB: Final = 8192
"""Page cache of a connection; SQLite's own default of 2000 is a small part of 100,000 users."""
MINIMUM_SQLITE: Final = (3, 31, 0)

_NOW: Final = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
HEAD: Final = "SELECT coalesce(max(version), 0) FROM feed"
"""The highest version ever given: the last row of the feed is never dropped, also when its entry is."""

_SHARED: Final = (
    """CREATE TABLE stores(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        incarnation TEXT NOT NULL,
        horizon INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL)""",
    """CREATE TABLE domains(
        store INTEGER NOT NULL,
        domain TEXT NOT NULL,
        keep INTEGER,
        PRIMARY KEY(store, domain)) WITHOUT ROWID""",
    """CREATE TABLE commits(
        id TEXT PRIMARY KEY,
        committed_at INTEGER NOT NULL) WITHOUT ROWID""",
)
# The triggers keep the feed, and serve plain SQL clients, who know nothing of versions: their INSERT and UPDATE get a
# new one and their DELETE leaves a tombstone, so that bots see all of them.
_ENTRIES: Final = (
    f"""CREATE TABLE entries(
        entry INTEGER PRIMARY KEY,
        version INTEGER NOT NULL DEFAULT 0,
        store INTEGER NOT NULL,
        domain TEXT NOT NULL DEFAULT '',
        key TEXT NOT NULL CHECK(typeof(key) = 'text' AND key <> ''),
        value TEXT,
        updated_at INTEGER NOT NULL DEFAULT ({_NOW}),
        ttl INTEGER,
        expires_at INTEGER,
        UNIQUE(store, domain, key))""",
    """CREATE TABLE feed(
        version INTEGER PRIMARY KEY,
        store INTEGER NOT NULL,
        entry INTEGER NOT NULL)""",
    "CREATE INDEX entries_expiry ON entries(expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX entries_tombstones ON entries(updated_at) WHERE value IS NULL",
    """CREATE TRIGGER entries_inserted AFTER INSERT ON entries WHEN new.version > 0 BEGIN
            INSERT INTO feed(version, store, entry) VALUES(new.version, new.store, new.entry);
        END""",
    """CREATE TRIGGER entries_written AFTER UPDATE OF version ON entries WHEN new.version <> old.version BEGIN
            INSERT INTO feed(version, store, entry) VALUES(new.version, new.store, new.entry);
        END""",
    f"""CREATE TRIGGER entries_inserted_without_version AFTER INSERT ON entries WHEN new.version = 0 BEGIN
            UPDATE entries SET version = ({HEAD}) + 1 WHERE entry = new.entry;
        END""",
    f"""CREATE TRIGGER entries_updated_without_version AFTER UPDATE OF value, domain, key, store ON entries
        WHEN new.version = old.version AND old.version > 0 BEGIN
            UPDATE entries SET version = ({HEAD}) + 1, updated_at = {_NOW} WHERE entry = new.entry;
        END""",
    """CREATE TRIGGER entries_deleted AFTER DELETE ON entries WHEN old.value IS NOT NULL BEGIN
            INSERT INTO entries(store, domain, key) VALUES(old.store, old.domain, old.key);
        END""",
)
TABLES: Final = (*_SHARED, *_ENTRIES)
# In format 1 the version was the row id, and the table itself was the feed.
FROM_1_TO_2: Final = (
    "DROP TRIGGER entries_updated",
    "DROP TRIGGER entries_deleted",
    "DROP INDEX entries_expiry",
    "DROP INDEX entries_tombstones",
    "ALTER TABLE entries RENAME TO entries_1",
    *_ENTRIES,
    """INSERT INTO entries(version, store, domain, key, value, updated_at, ttl, expires_at)
        SELECT version, store, domain, key, value, updated_at, ttl, expires_at FROM entries_1 ORDER BY version""",
    # Versions of rows that are gone are not given again.
    f"""INSERT INTO feed(version, store, entry) SELECT seq, 0, 0 FROM sqlite_sequence
        WHERE name = 'entries_1' AND seq > ({HEAD})""",
    "DROP TABLE entries_1",
)


_warned: set[str] = set()


def prepare(connection: sqlite3.Connection, path: str, *, create: bool = True) -> bool:
    """Check the file, create the tables where there are none, and set the connection up.

    Returns:
        Whether the file is in WAL mode.

    Raises:
        sqlite3.Error: As SQLite says; the caller translates.
        FormatVersionError: A newer package wrote the file.
        CorruptDatabaseError: The file belongs to another program.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        needed = ".".join(map(str, MINIMUM_SQLITE))
        raise DatabaseError(f"the SQLite library is {sqlite3.sqlite_version}, {needed} or newer is needed; update it")
    number = _check_format(connection, path)
    is_wal = _set_wal(connection, path)
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if number < FORMAT and create:
        _bring_up(connection, path)
    return is_wal


def _check_format(connection: sqlite3.Connection, path: str) -> int:
    """Give the number of the file's format, 0 where there are no tables yet."""
    # In this order, since somebody may be creating the file: whoever sees tables must find the application's id.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and (tables or application or number):
        raise CorruptDatabaseError(f"{path} is an SQLite database of another program; give another path")
    if number > FORMAT:
        raise FormatVersionError(
            f"{path} has format {number}, this version of ptb_kvpersistence reads up to {FORMAT}; update the package"
        )
    return int(number) if tables else 0


def _set_wal(connection: sqlite3.Connection, path: str) -> bool:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        return True
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
        return False  # whoever writes will hear of it
    if mode != "wal" and path not in _warned:
        _warned.add(path)
        _logger.warning("%s: no write-ahead log on this file system (journal mode %s); slower, but works", path, mode)
    return bool(mode == "wal")


def _bring_up(connection: sqlite3.Connection, path: str) -> None:
    """Create the tables, or turn those of an older format into the present ones."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        number = _check_format(connection, path)
        if number < FORMAT:
            if number:
                _logger.info("%s has format %d and gets format %d", path, number, FORMAT)
            for statement in FROM_1_TO_2 if number else TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
