"""Backends of both faces, called alike; servers of one's own, to be killed."""

from __future__ import annotations

import uuid

import pytest

from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend
from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.testing.faces import Subject
from tests.servers import valkey


@pytest.fixture(params=["sync", "async"])
async def connect(request):
    """Make backends of one face, and close them in the end."""
    opened = []

    def make(url, **options):
        if request.param == "sync":
            subject = Subject(RedisBackend(url, **options))
        else:
            subject = Subject(AsyncRedisBackend(url, **options))
        opened.append(subject)
        return subject

    make.face = request.param
    yield make
    for subject in opened:
        await subject.close()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A durable server that tests may kill and freeze; whoever does starts it again."""
    server = valkey.Server(tmp_path_factory.mktemp("own"), *valkey.DURABLE).start()
    yield server
    server.kill()


@pytest.fixture
def url(own_server):
    """A place of one's own on the server that may be killed."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield f"{own_server.url}?prefix={prefix}"
    with own_server.client() as client:
        valkey.remove(client, prefix)


@pytest.fixture
def make_server(tmp_path):
    """Start a server with options of its own."""
    started = []

    def make(*options):
        server = valkey.Server(tmp_path / str(len(started)), *options)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.kill()


@pytest.fixture
def witness_of():
    """Look at what a URL's place holds."""
    clients = []

    def make(server, url):
        client = server.client()
        clients.append(client)
        return valkey.Witness(client, url.partition("prefix=")[2] or "kv")

    yield make
    for client in clients:
        client.close()
