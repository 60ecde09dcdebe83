"""The contract suite on each backend."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.testing import Contract
from tests.contract.places import MemoryPlace, PooledPlace, PostgresPlace, SQLitePlace, ValkeyPlace


class TestMemory(Contract):
    def make_place(self, folder):
        return MemoryPlace()


class TestSQLite(Contract):
    def make_place(self, folder):
        return SQLitePlace(folder)


class TestPostgres(Contract):
    def make_place(self, folder):
        return PostgresPlace()


class OnServer(Contract):
    """Has the server that a test class names."""

    @pytest.fixture
    def place(self, request, tmp_path):
        self.server = request.getfixturevalue(self.server_fixture)
        yield from super().place.__wrapped__(self, request, tmp_path)


class TestValkey(OnServer):
    server_fixture = "valkey_server"

    def make_place(self, folder):
        return ValkeyPlace(self.server)


class TestValkeyCluster(TestValkey):
    server_fixture = "valkey_cluster"


class TestPooler(OnServer):
    """PostgreSQL behind a pooler in transaction mode."""

    server_fixture = "pooler"

    def make_place(self, folder):
        return PooledPlace(self.server)
