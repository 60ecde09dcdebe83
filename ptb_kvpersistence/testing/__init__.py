"""The contract suite: what every backend promises, to be run on a backend of one's own.

Install ``ptb_kvpersistence[testing]``, say where the backend's databases are and how to look into them without it, and
subclass :class:`Contract` in a test module. Here for a backend that keeps its data as our own SQLite backend does::

    import os
    import sqlite3
    from contextlib import closing
    from functools import partial

    from my_backend import AsyncMyBackend, MyBackend
    from ptb_kvpersistence.testing import Contract, Place


    class MyPlace(Place):
        # What it does not guarantee, and why; the tests of these are skipped, and no others.
        limits = {"survives kill -9": "it answers before the operating system has the data"}

        def __init__(self, path):
            self.path = path

        def open(self, *, timeout=5.0):
            return MyBackend(self.path, timeout=timeout)

        def open_async(self, *, timeout=5.0):
            return AsyncMyBackend(self.path, timeout=timeout)

        def opener(self):  # for other processes, so it has to be picklable
            return partial(MyBackend, self.path)

        def witness(self):
            return MyWitness(self.path)

        def pass_time(self, seconds):  # all that is stored becomes that much older
            age = int(seconds * 1000)
            run(self.path, f"UPDATE entries SET updated_at = updated_at - {age}, expires_at = expires_at - {age}")
            run(self.path, f"UPDATE commits SET committed_at = committed_at - {age}")
            if os.path.exists(leases := self.path + "-leases"):
                run(leases, f"UPDATE leases SET expires_at = expires_at - {age}")
                run(leases, f"UPDATE waiters SET seen_at = seen_at - {age}")
                run(leases, f"UPDATE bots SET attached_at = attached_at - {age}, last_seen = last_seen - {age}")


    class MyWitness:
        def __init__(self, path):
            self.path = path

        def entries(self):  # also those that have expired and were not swept yet
            columns = "name, domain, key, CAST(value AS BLOB)"
            found = run(self.path, f"SELECT {columns} FROM entries JOIN stores ON store = id WHERE value NOT NULL")
            return {(store, domain, key): value for store, domain, key, value in found}

        def tombstones(self):
            query = "SELECT name, domain, key FROM entries JOIN stores ON store = id WHERE value IS NULL"
            return set(run(self.path, query))

        def stores(self):
            return {name for (name,) in run(self.path, "SELECT name FROM stores")}

        def commits(self):
            return {commit for (commit,) in run(self.path, "SELECT id FROM commits")}


    def run(path, statement):
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(statement).fetchall()


    class TestMyBackend(Contract):
        def make_place(self, folder):  # an empty folder for each test; a server's place makes a database instead
            return MyPlace(str(folder / "my.db"))

Each test gets a place of its own and runs on both faces. A test whose guarantee is among the place's ``limits`` is
skipped with the reason given there, and nothing else ever is; :data:`GUARANTEES` has their names. The suite needs no
configuration of pytest or pytest-asyncio. What the other modules of this package hold is no public interface.
"""

from __future__ import annotations

from pathlib import Path

try:
    import pytest
    import pytest_asyncio  # noqa: F401 - asked for here, so that the error says what to install
except ImportError as error:
    message = 'the contract suite needs pytest and pytest-asyncio; run: pip install "ptb_kvpersistence[testing]"'
    raise ImportError(message) from error

pytest.register_assert_rewrite(*(f"{__name__}.{each.stem}" for each in Path(__file__).parent.glob("[!_]*.py")))

from ptb_kvpersistence.testing.contract import Contract  # noqa: E402 - its asserts are to be explained
from ptb_kvpersistence.testing.place import GUARANTEES, Place, Witness  # noqa: E402

__all__ = ["GUARANTEES", "Contract", "Place", "Witness"]
