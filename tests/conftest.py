"""What every test relies on."""

from __future__ import annotations

import asyncio
import sys

import hypothesis
import pytest

from tests.servers import valkey

pytest_plugins = ["tests.servers.postgres"]

# How long one example takes says nothing on a machine that has other things to do as well.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

if sys.version_info < (3, 12):

    @pytest.fixture(autouse=True)
    def _keep_the_loop():
        """asyncio.run() takes the thread's loop away, and the one that pytest-asyncio keeps there is never closed."""
        try:
            loop = asyncio.get_event_loop_policy().get_event_loop()  # type: ignore[deprecated]
        except RuntimeError:
            loop = None
        yield
        if loop is not None:
            asyncio.set_event_loop(loop)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory):
    """A durable Valkey server, or the one that KV_TEST_REDIS_URL names."""
    server = valkey.single(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory):
    """Three Valkey masters."""
    cluster = valkey.Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.kill()
