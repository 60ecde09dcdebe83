"""The tables, their format's number, and how they are made and migrated: once, under a lock, whoever comes first."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.postgres.routines import REVISION, ROUTINES
from ptb_kvpersistence.errors import DatabaseError, FormatVersionError

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.postgres.location import Location

FORMAT: Final = 1
"""Grows with every change of the tables that an older package could not live with."""

TABLES: Final = (
    """CREATE TABLE {s}.kv_stores(
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        incarnation text NOT NULL,
        head bigint NOT NULL DEFAULT 0,
        horizon bigint NOT NULL DEFAULT 0,
        created_at bigint NOT NULL)
        WITH (fillfactor = 50)""",
    """CREATE TABLE {s}.kv_domains(
        store integer NOT NULL,
        domain text COLLATE "C" NOT NULL,
        keep bigint,
        PRIMARY KEY (store, domain))""",
    """CREATE TABLE {s}.kv_entries(
        store integer NOT NULL,
        domain text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        value json,
        version bigint NOT NULL,
        updated_at bigint NOT NULL,
        ttl bigint,
        expires_at bigint,
        PRIMARY KEY (store, domain, key))""",
    "CREATE UNIQUE INDEX kv_entries_feed ON {s}.kv_entries (store, version)",
    "CREATE INDEX kv_entries_expiry ON {s}.kv_entries (store, expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX kv_entries_tombstones ON {s}.kv_entries (store, updated_at) WHERE value IS NULL",
    """CREATE TABLE {s}.kv_commits(
        id text COLLATE "C" PRIMARY KEY,
        first bigint NOT NULL,
        skipped integer[],
        forget_at bigint NOT NULL)""",
    "CREATE INDEX kv_commits_age ON {s}.kv_commits (forget_at)",
    """CREATE TABLE {s}.kv_leases(
        store integer NOT NULL,
        name text COLLATE "C" NOT NULL,
        token bigint NOT NULL,
        holder text,
        expires_at bigint NOT NULL,
        PRIMARY KEY (store, name))
        WITH (fillfactor = 50)""",
    """CREATE TABLE {s}.kv_waiters(
        ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        store integer NOT NULL,
        name text COLLATE "C" NOT NULL,
        holder text NOT NULL,
        seen_at bigint NOT NULL,
        UNIQUE (store, name, holder))""",
    """CREATE TABLE {s}.kv_bots(
        store integer NOT NULL,
        bot text COLLATE "C" NOT NULL,
        holder text COLLATE "C" NOT NULL,
        attached_at bigint NOT NULL,
        last_seen bigint NOT NULL,
        is_attached boolean NOT NULL,
        PRIMARY KEY (store, bot, holder))""",
    "CREATE TABLE {s}.kv_format(number integer NOT NULL, revision integer NOT NULL)",
)

MINIMUM_SERVER: Final = 130000
LOOK: Final = """SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
    pg_backend_pid(), current_schema()"""


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def fill(statement: str, schema: str) -> str:
    """Put the schema into a statement with ``%s`` for parameters; ``{t}`` is its name inside a string literal."""
    name = quoted(schema).replace("%", "%%")
    names = {"{s}": name, "{t}": name.replace("'", "''")}
    return re.sub(r"\{[st]\}", lambda found: names[found[0]], statement)


def check_server(location: Location, row: tuple[Any, ...]) -> str:
    """Check what :data:`LOOK` found; gives the schema to use.

    Raises:
        DatabaseError: The server cannot be used.
    """
    number, encoding, _, current = row
    if number < MINIMUM_SERVER:
        raise DatabaseError(f"{location.name} runs PostgreSQL {number // 10000}; 13 or newer is needed, update it")
    if encoding != "UTF8":
        message = f"{location.name} has the encoding {encoding}; create a database with ENCODING 'UTF8' and use that"
        raise DatabaseError(message)
    schema = location.schema or current
    if schema is None:
        message = f"{location.name}: no schema of the search path exists; name one with ?schema=... in the URL"
        raise DatabaseError(message)
    return str(schema)


def is_ready(location: Location, format_row: tuple[Any, ...] | None) -> bool:
    """Judge the row of ``kv_format``: False means that the tables or functions are to be made.

    Raises:
        FormatVersionError: A newer package wrote it.
    """
    if format_row is None:
        return False
    number, revision = format_row
    if number > FORMAT:
        message = (
            f"{location.name} has format {number}, this version of ptb_kvpersistence reads up to {FORMAT}; "
            "update the package"
        )
        raise FormatVersionError(message)
    return bool(revision >= REVISION)


def lock_key(schema: str) -> int:
    """Number the lock under which a schema is prepared."""
    return int.from_bytes(hashlib.sha256(f"ptb_kvpersistence:{schema}".encode()).digest()[:8], "big", signed=True)


def creation(schema: str, *, has_tables: bool) -> list[str]:
    """Give the statements that make tables and functions, or the functions alone; they have no parameters."""
    statements = [] if has_tables else [*TABLES, f"INSERT INTO {{s}}.kv_format VALUES ({FORMAT}, {REVISION})"]
    statements += ROUTINES
    if has_tables:
        statements.append(f"UPDATE {{s}}.kv_format SET revision = {REVISION}")
    return [fill(statement.replace("%", "%%"), schema) for statement in statements]
