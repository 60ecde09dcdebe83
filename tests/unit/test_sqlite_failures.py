"""Every error of sqlite3 becomes one of ours, which says what to do and shows no value."""

from __future__ import annotations

import copy
import pickle
import sqlite3

import pytest

from ptb_kvpersistence import errors
from ptb_kvpersistence.backends.sqlite.failures import translate, translated
from ptb_kvpersistence.errors import (
    BusyError,
    CorruptDatabaseError,
    DatabaseError,
    DatabaseFullError,
    KVPersistenceError,
    ReadOnlyError,
)

CASES = [
    ("SQLITE_BUSY", "database is locked", BusyError, "try again"),
    ("SQLITE_BUSY_SNAPSHOT", "database is locked", BusyError, "try again"),
    ("SQLITE_LOCKED", "database table is locked", BusyError, "try again"),
    ("SQLITE_LOCKED_SHAREDCACHE", "database table is locked: entries", BusyError, "try again"),
    ("SQLITE_FULL", "database or disk is full", DatabaseFullError, "free some space"),
    ("SQLITE_READONLY", "attempt to write a readonly database", ReadOnlyError, "check the permissions"),
    ("SQLITE_READONLY_DIRECTORY", "attempt to write a readonly database", ReadOnlyError, "check the permissions"),
    ("SQLITE_NOTADB", "file is not a database", CorruptDatabaseError, "another path"),
    ("SQLITE_CORRUPT", "database disk image is malformed", CorruptDatabaseError, "restore a backup"),
    ("SQLITE_CORRUPT_INDEX", "database disk image is malformed", CorruptDatabaseError, "restore a backup"),
    ("SQLITE_CANTOPEN", "unable to open database file", DatabaseError, "check that the folder exists"),
    ("SQLITE_IOERR_WRITE", "disk I/O error", DatabaseError, "disk I/O error"),
]


@pytest.mark.parametrize("has_names", [True, False], ids=["with names", "Python 3.10"])
@pytest.mark.parametrize(("name", "text", "kind", "advice"), CASES, ids=[case[0] for case in CASES])
def test_what_sqlite_says(tmp_path, name, text, kind, advice, has_names):
    raw = sqlite3.OperationalError(text)
    if has_names:
        raw.sqlite_errorname = name
    path = str(tmp_path / "bot.db")
    error = translate(raw, path)
    assert type(error) is kind
    assert path in str(error)
    assert advice in str(error)


def test_the_cause_is_chained():
    raw = sqlite3.OperationalError("database is locked")
    with pytest.raises(BusyError) as found, translated("bot.db"):
        raise raw
    assert found.value.__cause__ is raw


def test_what_is_not_of_sqlite_passes():
    with pytest.raises(ZeroDivisionError), translated("bot.db"):
        _ = 1 / 0


def test_built_in_bases():
    assert issubclass(BusyError, TimeoutError)
    assert issubclass(ReadOnlyError, PermissionError)
    assert issubclass(DatabaseError, OSError)


CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KVPersistenceError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_a_queue_between_processes(kind):
    error = kind("what, where, what to do", key="k")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == "what, where, what to do"
        assert again.key == "k"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_caught_by_the_common_base_and_explained(kind):
    with pytest.raises(KVPersistenceError):
        raise kind("message")
    assert kind.__doc__
    assert str(kind("it's quoted once")) == "it's quoted once", "KeyError would show the repr"
