'''The contract suite: what every backend promises, to be run on a backend of one's own.

Install ``ptb_kvpersistence[testing]``, tell the suite where the backend's databases are, and subclass
:class:`Contract` in a test module. That is all::

    from ptb_kvpersistence.testing import Contract, Place

    from my_backend import AsyncMyBackend, MyBackend
    from my_driver import connect


    class MyWitness:
        """Reads what is stored without the backend."""

        def __init__(self, url):
            self.connection = connect(url)

        def entries(self):  # also those that expired and were not swept yet
            rows = self.connection.query("SELECT store, domain, key, value FROM my_entries WHERE value IS NOT NULL")
            return {(store, domain, key): value for store, domain, key, value in rows}

        def tombstones(self):
            return set(self.connection.query("SELECT store, domain, key FROM my_entries WHERE value IS NULL"))

        def stores(self): ...

        def commits(self): ...


    class MyPlace(Place):
        limits = {"cheap look": "it has no notifications"}  # what it does not guarantee, and why

        def __init__(self, url):
            self.url = url  # of a database made for this test

        def open(self, *, timeout=5.0):
            return MyBackend(self.url, timeout=timeout)

        def open_async(self, *, timeout=5.0):
            return AsyncMyBackend(self.url, timeout=timeout)

        def opener(self):
            return partial(MyBackend, self.url)

        def witness(self):
            return MyWitness(self.url)

        def pass_time(self, seconds):
            connect(self.url).query("UPDATE my_entries SET updated_at = updated_at - ?, ...", seconds)

        def close(self): ...


    class TestMyBackend(Contract):
        def make_place(self, folder):
            return MyPlace(f"my://{folder}")

Each test gets a place of its own and runs on both faces. A test whose guarantee is among the place's ``limits`` is
skipped with the reason given there, and nothing else ever is; :data:`GUARANTEES` has their names. The tests ask for no
configuration of pytest or pytest-asyncio. The modules of this package other than this one are no public interface.
'''

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{each.stem}" for each in Path(__file__).parent.glob("[!_]*.py")))

from ptb_kvpersistence.testing.contract import Contract  # noqa: E402 - its asserts are to be explained
from ptb_kvpersistence.testing.place import GUARANTEES, Place, Witness  # noqa: E402

__all__ = ["GUARANTEES", "Contract", "Place", "Witness"]
