"""The contract suite on each backend."""

from __future__ import annotations

from ptb_kvpersistence.testing import Contract
from tests.contract.places import MemoryPlace, SQLitePlace


class TestMemory(Contract):
    def make_place(self, folder):
        return MemoryPlace()


class TestSQLite(Contract):
    def make_place(self, folder):
        return SQLitePlace(folder)
