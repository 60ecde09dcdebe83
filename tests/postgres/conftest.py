"""A store on a real server, through both faces; a proxy where connections are to break."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from ptb_kvpersistence.backends.postgres.aio import AsyncPostgresBackend
from ptb_kvpersistence.backends.postgres.sync import PostgresBackend
from ptb_kvpersistence.model import OpenStore
from tests.servers.proxy import Proxy


class Sync:
    """A backend of the sync face, awaited; each call in a thread, so that the loop goes on."""

    def __init__(self, backend):
        self.backend = backend

    async def perform(self, request, timeout=None):
        return await asyncio.to_thread(self.backend.perform, request, timeout)

    async def exclusive(self, *arguments, **options):
        return SyncSession(await asyncio.to_thread(self.backend.exclusive, *arguments, **options))

    async def close(self):
        self.backend.close()


class SyncSession:
    def __init__(self, session):
        self._session = session

    async def perform(self, request):
        return await asyncio.to_thread(self._session.perform, request)

    async def end(self, commit):
        return await asyncio.to_thread(self._session.end, commit)


class Opener:
    """Opens backends of one face, and closes them in the end."""

    def __init__(self, face):
        self.face = face
        self._opened = []

    def __call__(self, url, **options):
        backend = Sync(PostgresBackend(url, **options)) if self.face == "sync" else AsyncPostgresBackend(url, **options)
        self._opened.append(backend)
        return backend

    async def close(self):
        for backend in self._opened:
            await backend.close()


@pytest.fixture(params=["sync", "async"])
async def connect_to(request):
    opener = Opener(request.param)
    yield opener
    await opener.close()


@pytest.fixture
async def backend(connect_to, schema):
    return connect_to(schema.url)


@pytest.fixture
async def store(backend):
    return (await backend.perform(OpenStore("shop", "ensure"))).id


@pytest.fixture
def proxy(schema):
    proxy = Proxy(urlsplit(schema.server).port)
    yield proxy
    proxy.close()
