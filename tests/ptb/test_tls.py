"""Bots and scripts on servers that are reached by TLS: who is trusted, and what those are told who trust too little."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import pytest

from ptb_kvpersistence import DatabaseError, KVPersistence, connect, connect_async
from ptb_kvpersistence.errors import ConfigurationError, DatabaseUnavailableError
from tests.ptb.offline import OfflineBot
from tests.servers import valkey
from tests.servers.tls import Authority, TlsProxy

USERS = "ptb:user_data:1001"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def encrypt(remote):
    """Have the server speak TLS, with a certificate."""
    proxies = []

    def begin(context):
        proxies.append(TlsProxy(remote.server.port, context, asked=remote.kind == "postgres"))
        return proxies[-1]

    yield begin
    for proxy in proxies:
        proxy.close()


def location(remote, proxy, ca=None, *, more=""):
    """Name the database as who trusts that authority does."""
    url = remote.place.location.replace(f":{remote.server.port}", f":{proxy.port}")
    if remote.kind == "postgres":
        trusted = "" if ca is None else f"&sslrootcert={quote(str(ca))}"
        return f"{url}&sslmode=verify-full{trusted}{more}"
    trusted = "" if ca is None else f"&ssl_ca_certs={quote(str(ca))}"
    return url.replace("redis://", "rediss://") + trusted + more


async def test_a_bot(remote, authority, encrypt):
    proxy = encrypt(authority.server())
    bot = OfflineBot(KVPersistence(location(remote, proxy, authority.path), max_staleness=0.2))
    await bot.start()
    await bot.say("x", lambda _, context: context.user_data.update(n=1))
    await bot.save()
    witness = remote.witness()
    assert witness.values(USERS) == {"42": {"n": 1}}
    for number in range(2, 5):
        witness.put(USERS, "42", {"n": number})
        deadline = time.monotonic() + 5
        while bot.app.user_data[42] != {"n": number}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
            await bot.say("x")
    assert bot.persistence.store.backend.peek(0.2) is not None, "notifications come through"
    await bot.stop()
    assert not bot.errors
    assert proxy.encrypted >= 2


async def test_both_faces(remote, authority, encrypt):
    url = location(remote, encrypt(authority.server()), authority.path)
    large = "x" * 300_000

    def in_a_script():
        with connect(url) as database:
            store = database.store("shop", create=True)
            store["large"] = large
            with store.transaction(lock=True):
                store["n"] = store.get("n", 0) + 1
            assert store["large"] == large

    await asyncio.to_thread(in_a_script)
    async with connect_async(url) as database:
        store = await database.store("shop")
        assert await store.get("large") == large
        async with store.transaction(lock=True) as view:
            await view.set("n", await view.get("n") + 1)
        assert await store.get("n") == 2


async def told(url):
    """Give what a script and a bot are told, soon; both the same."""
    texts = []
    for act in (lambda: asyncio.to_thread(lambda: connect(url).names()), OfflineBot(KVPersistence(url)).start):
        began = time.monotonic()
        with pytest.raises((DatabaseError, ConfigurationError)) as caught:
            await act()
        assert time.monotonic() - began < 3, "to try again helps nobody"
        texts.append(str(caught.value))
    assert "s3cret" not in texts[0]
    assert texts[0] == texts[1]
    return texts[0]


WHERE = {"postgres": "sslrootcert", "valkey": "ssl_ca_certs"}


async def test_another_authority(remote, authority, stranger, encrypt):
    proxy = encrypt(authority.server())
    for trusted in (stranger.path, None):
        text = await told(location(remote, proxy, trusted))
        assert f"127.0.0.1:{proxy.port}" in text
        assert "certificate" in text
        assert WHERE[remote.kind] in text
    assert proxy.encrypted == 0


async def test_another_host(remote, authority, encrypt):
    proxy = encrypt(authority.server("other.example"))
    text = await told(location(remote, proxy, authority.path))
    assert f"127.0.0.1:{proxy.port}" in text
    assert "certificate" in text
    assert "host" in text
    assert "match" in text or "not valid for" in text


async def test_an_authority_that_is_no_file(remote, authority, encrypt, tmp_path):
    text = await told(location(remote, encrypt(authority.server()), tmp_path / "no.pem"))
    assert "no such file" in text or "does not exist" in text
    assert WHERE[remote.kind] in text


async def test_a_client_with_a_certificate(remote, authority, stranger, encrypt):
    proxy = encrypt(authority.server(asks=True))
    names = ("sslcert", "sslkey") if remote.kind == "postgres" else ("ssl_certfile", "ssl_keyfile")

    def url(signed_by):
        pair = zip(names, signed_by.client("bot"), strict=True)
        more = "".join(f"&{name}={quote(str(path))}" for name, path in pair)
        return location(remote, proxy, authority.path, more=more)

    async with connect_async(url(authority)) as database:
        await (await database.create("shop")).set("k", 1)
    for refused in (url(stranger), location(remote, proxy, authority.path)):
        async with connect_async(refused, timeout=1) as database:
            with pytest.raises(DatabaseError) as caught:
                await database.names()
        assert f"127.0.0.1:{proxy.port}" in str(caught.value)


async def test_a_server_without_it(remote):
    async with connect_async(location(remote, remote.proxy), timeout=1) as database:
        with pytest.raises(DatabaseError, match=r"TLS|SSL") as caught:
            await database.names()
    assert f"127.0.0.1:{remote.proxy.port}" in str(caught.value)


@pytest.fixture
def encrypted_cluster(tmp_path, authority):
    """A cluster whose nodes send their clients to where they speak TLS."""
    cluster, proxies = valkey.Cluster(tmp_path / "cluster"), []
    try:
        cluster.start()
        for server in cluster.servers:
            proxies.append(TlsProxy(server.port, authority.server(), asked=False))
            with server.client() as client:
                client.config_set("cluster-announce-port", proxies[-1].port)
        ports = {proxy.port for proxy in proxies}
        cluster.wait(lambda client: {node[1] for _, _, node, *_ in client.execute_command("CLUSTER SLOTS")} == ports)
        yield cluster, proxies
    finally:
        for proxy in proxies:
            proxy.close()
        cluster.kill()


async def test_a_cluster(encrypted_cluster, authority):
    cluster, proxies = encrypted_cluster
    url = f"rediss+cluster://127.0.0.1:{proxies[0].port}/?ssl_ca_certs={quote(str(authority.path))}"
    names = [f"shop{number}" for number in range(12)]

    def in_a_script():
        with connect(url) as database:
            for name in names:
                store = database.store(name, create=True)
                with store.transaction(lock=True):
                    store["n"] = 1

    await asyncio.to_thread(in_a_script)
    async with connect_async(url) as database:
        assert await database.names() == sorted(names)
        for name in names:
            assert await (await database.store(name)).increment("n") == 2
    bot = OfflineBot(KVPersistence(url))
    await bot.start()
    await bot.say("x", lambda _, context: context.user_data.update(n=1))
    await bot.stop()
    assert not bot.errors
    used = 0
    for server in cluster.servers:
        with server.client() as client:
            used += client.dbsize() > 0
    assert used > 1, "stores are spread over the nodes"
    assert sum(proxy.encrypted > 0 for proxy in proxies) >= used
    for plain in ("redis", "redis+cluster"):
        url = f"{plain}://127.0.0.1:{proxies[0].port}"
        with (
            pytest.raises(DatabaseUnavailableError, match="speaks TLS wants rediss"),
            connect(url, timeout=1) as database,
        ):
            database.names()
