"""A plain SQL client that knows the documented format only; no tests here, and nothing of the package is used."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing


def rows(path, section, *, bot=None):
    """Stored texts of a section as Python data, by key; of all bots unless one is named."""
    wanted = f"ptb:{section}" if bot is None else f"ptb:{section}:{bot}"
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT domain, key, value FROM entries WHERE value IS NOT NULL").fetchall()
    return {
        key: json.loads(value)
        for domain, key, value in found
        if domain == wanted or (bot is None and domain.startswith(wanted + ":"))
    }


def users(path, **more):
    """user_data by id."""
    return {int(key): value for key, value in rows(path, "user_data", **more).items()}


def check_file(path):
    """The file opens and every page of it is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def has_schema(path):
    """Whether the file has got its tables."""
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def rescue_files(folder):
    """The rescue files in a folder."""
    return sorted(folder.glob("*.rescue.json"))
