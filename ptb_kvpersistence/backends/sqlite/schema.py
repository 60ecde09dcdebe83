"""The file format: tables, its number, and how a file is opened, created and checked.

The format is described in the README; :data:`FORMAT` grows with every change that an older package could not read.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from ptb_kvpersistence.errors import CorruptDatabaseError, DatabaseError, FormatVersionError

_logger = logging.getLogger(__name__)

FORMAT: Final = 1
APPLICATION_ID: Final = 0x4B565042
CACHE_KIB: Final = 8192
"""Page cache of a connection; SQLite's own default of 2000 is a small part of 100,000 users."""
MINIMUM_SQLITE: Final = (3, 31, 0)

_NOW: Final = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

# The triggers serve plain SQL clients: their UPDATE gets a new version and their DELETE leaves a tombstone, so that
# bots see both. The package itself writes by INSERT OR REPLACE, which fires none of them.
_STATEMENTS: Final = (
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
    f"""CREATE TABLE entries(
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        store INTEGER NOT NULL,
        domain TEXT NOT NULL DEFAULT '',
        key TEXT NOT NULL CHECK(typeof(key) = 'text' AND key <> ''),
        value TEXT,
        updated_at INTEGER NOT NULL DEFAULT ({_NOW}),
        ttl INTEGER,
        expires_at INTEGER,
        UNIQUE(store, domain, key))""",
    "CREATE INDEX entries_expiry ON entries(expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX entries_tombstones ON entries(updated_at) WHERE value IS NULL",
    """CREATE TABLE commits(
        id TEXT PRIMARY KEY,
        committed_at INTEGER NOT NULL) WITHOUT ROWID""",
    f"""CREATE TRIGGER entries_updated AFTER UPDATE OF value, domain, key, store ON entries
        WHEN new.version = old.version BEGIN
            UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'entries';
            UPDATE entries SET
                version = (SELECT seq FROM sqlite_sequence WHERE name = 'entries'),
                updated_at = {_NOW}
                WHERE version = new.version;
        END""",
    """CREATE TRIGGER entries_deleted AFTER DELETE ON entries
        WHEN old.value IS NOT NULL BEGIN
            INSERT INTO entries(store, domain, key) VALUES(old.store, old.domain, old.key);
        END""",
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
    has_tables = _check_format(connection, path)
    is_wal = _set_wal(connection, path)
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if not has_tables and create:
        _create(connection, path)
    return is_wal


def _check_format(connection: sqlite3.Connection, path: str) -> bool:
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
    return bool(tables)


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


def _create(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _check_format(connection, path):
            for statement in _STATEMENTS:
                connection.execute(statement)
            # The row makes the sequence exist before the first INSERT, for the trigger's sake.
            connection.execute("INSERT INTO sqlite_sequence(name, seq) VALUES('entries', 0)")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
