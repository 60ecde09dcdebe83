"""Servers that cannot be used as they are, and URLs that make no sense: each says what is wrong, and what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback

import pytest

from ptb_kvpersistence.backends.redis import inspection, requests
from ptb_kvpersistence.backends.redis.settings import parse
from ptb_kvpersistence.backends.urls import open_async_backend, open_backend
from ptb_kvpersistence.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseFullError,
    FormatVersionError,
    ReadOnlyError,
)
from ptb_kvpersistence.model import Address, Commit, GetMany, OpenStore, Put
from tests.servers import valkey


@pytest.fixture(autouse=True)
def _say_it_again(monkeypatch):
    monkeypatch.setattr(inspection, "_said", set())


# --- servers ---


@pytest.mark.parametrize("login", ["", ":wrong@", "nobody:secret@", "default:wrong@"])
async def test_a_wrong_password(connect, make_server, login):
    server = make_server("--requirepass", "secret")
    subject = connect(f"redis://{login}127.0.0.1:{server.port}")
    with pytest.raises(DatabaseError, match="refuses the user name or the password") as caught:
        await subject.perform(OpenStore("shop", "ensure"))
    assert "wrong" not in str(caught.value)
    right = connect(f"redis://:secret@127.0.0.1:{server.port}")
    assert "secret" not in right.raw.name
    await right.perform(OpenStore("shop", "ensure"))


async def test_a_database_that_is_not_there(connect, make_server):
    server = make_server("--databases", "2")
    await connect(f"{server.url}/1").perform(OpenStore("shop", "create"))
    await connect(server.url).perform(OpenStore("shop", "create"))
    with pytest.raises(DatabaseError, match="no database of that number"):
        await connect(f"{server.url}/7").perform(OpenStore("shop", "ensure"))


async def test_a_replica_cannot_be_written(connect, make_server):
    primary = make_server()
    store = (await connect(primary.url).perform(OpenStore("shop", "create"))).id
    await connect(primary.url).perform(Commit(store, (Put("d", "k", b"1"),)))
    replica = make_server("--replicaof", f"127.0.0.1 {primary.port}", "--replica-serve-stale-data", "no")
    subject = connect(replica.url, timeout=20)
    (record,) = await subject.perform(GetMany(store, (Address("d", "k"),)))  # waits until it is in step
    assert record.value == b"1"
    with pytest.raises(ReadOnlyError, match="read-only replica"):
        await subject.perform(Commit(store, (Put("d", "k", b"2"),)))


async def test_a_server_without_memory_left(connect, make_server):
    server = make_server("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    subject = connect(server.url)
    store = (await subject.perform(OpenStore("shop", "create"))).id
    await subject.perform(Commit(store, (Put("d", "k", b"x" * 2_500_000),)))
    with server.client() as admin:
        admin.config_set("maxmemory", "2mb")
    with pytest.raises(DatabaseFullError, match="maxmemory"):
        await subject.perform(Commit(store, tuple(Put("d", f"{n}", b"1") for n in range(3))))
    witness = valkey.Witness(server.client())
    assert set(witness.entries()) == {("shop", "d", "k")}
    (record,) = await subject.perform(GetMany(store, (Address("d", "k"),)))
    assert len(record.value) == 2_500_000
    witness.client.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_throws_data_away_is_refused(connect, make_server, policy):
    server = make_server("--maxmemory-policy", policy)
    with pytest.raises(ConfigurationError, match=f"{policy}.*allow_eviction=true"):
        await connect(server.url).perform(OpenStore("shop", "ensure"))
    await connect(f"{server.url}?allow_eviction=true").perform(OpenStore("shop", "ensure"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "keeps nothing on disk"),
        (("--save", "60 1"), "appendonly no"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "about a second of writes"),
        (("--appendonly", "yes", "--appendfsync", "no"), "what the system had not written"),
        (valkey.DURABLE, None),
    ],
    ids=["nothing", "snapshots", "everysec", "never", "always"],
)
async def test_what_is_lost_is_said_once(connect, make_server, caplog, options, said):
    server = make_server(*options)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        subject = connect(server.url)
        for _ in range(2):
            await subject.perform(OpenStore("shop", "ensure"))
    assert [said in record.message for record in caplog.records] == ([] if said is None else [True])


async def test_what_a_failover_may_lose_is_said(connect, make_server, caplog):
    primary = make_server(*valkey.DURABLE, "--repl-diskless-sync-delay", "0")
    make_server("--replicaof", f"127.0.0.1 {primary.port}")
    with primary.client(socket_timeout=15) as admin:
        admin.set("k", 1)
        assert admin.wait(1, 10_000) == 1
    caplog.set_level(logging.WARNING)
    await connect(primary.url).perform(OpenStore("shop", "ensure"))
    assert ["a failover can lose writes" in record.message for record in caplog.records] == [True]


async def test_a_managed_server_where_configuration_is_forbidden(connect, make_server, caplog):
    server = make_server("--appendonly", "yes")
    with server.client() as admin:
        admin.execute_command("ACL SETUSER bot on >secret ~kv* ~{kv* &kv:* +@all -@dangerous")
    caplog.set_level(logging.WARNING)
    subject = connect(f"redis://bot:secret@127.0.0.1:{server.port}")
    store = (await subject.perform(OpenStore("shop", "ensure"))).id
    assert (await subject.perform(Commit(store, (Put("d", "k", b"1"),)))).is_committed
    assert "cannot be checked" in caplog.text
    assert "secret" not in caplog.text


async def test_a_user_who_may_not(connect, make_server):
    server = make_server()
    with server.client() as admin:
        admin.execute_command("ACL SETUSER bot on >secret ~other* +@all")
    with pytest.raises(DatabaseError, match="the user may not do this"):
        await connect(f"redis://bot:secret@127.0.0.1:{server.port}").perform(OpenStore("shop", "ensure"))


async def test_a_newer_format(connect, own_server, url):
    with own_server.client() as client:
        client.set(f"{{{url[-13:]}}}:format", 2)
    with pytest.raises(FormatVersionError, match="update it"):
        await connect(url).perform(OpenStore("shop", "ensure"))


async def test_a_cluster_that_is_none(connect, own_server):
    with pytest.raises(DatabaseError, match="cluster support disabled"):
        await connect(f"redis+cluster://127.0.0.1:{own_server.port}").perform(OpenStore("shop", "ensure"))


async def test_what_speaks_another_protocol(connect):
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        try:
            while True:
                client, _ = listener.accept()
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.close()
        except OSError:
            pass

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with pytest.raises(DatabaseError, match=r"127\.0\.0\.1"):
            await connect(f"redis://127.0.0.1:{listener.getsockname()[1]}").perform(OpenStore("shop", "ensure"), 0.5)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


async def test_tls_where_there_is_none(connect, own_server):
    with pytest.raises(DatabaseError):
        await connect(f"rediss://127.0.0.1:{own_server.port}").perform(OpenStore("shop", "ensure"), 0.5)


async def test_a_commit_that_is_too_large(connect, url, monkeypatch):
    subject = connect(url)
    store = (await subject.perform(OpenStore("shop", "ensure"))).id
    most = tuple(Put("d", f"{n}", b"1") for n in range(requests.MAX_STEPS))
    assert len((await subject.perform(Commit(store, most), 30)).versions) == requests.MAX_STEPS
    with pytest.raises(DatabaseError, match=r"at most 100000 .* commit it in parts"):
        await subject.perform(Commit(store, (*most, Put("d", "one more", b"1"))))
    monkeypatch.setattr(requests, "MAX_BYTES", 1 << 20)
    with pytest.raises(DatabaseError, match="1 MiB"):
        await subject.perform(Commit(store, (Put("d", "k", b"x" * (1 << 20)),)))
    assert await subject.perform(GetMany(store, (Address("d", "one more"), Address("d", "k")))) == (None, None)


# --- URLs ---


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/name",
        "redis://host/-1",
        "redis://host:70000",
        "redis://host:port",
        "redis://[::1",
        "redis://host?typo=1",
        "redis://host?prefix=a{b}",
        "redis://host?prefix=",
        "redis://host?max_connections=0",
        "redis://host?cluster=perhaps",
        "redis+cluster://host/1",
        "rediss://host?ssl_cert_reqs=maybe",
        "redis://host?ssl_cert_reqs=none",
    ],
)
@pytest.mark.parametrize("opens", [open_backend, open_async_backend])
def test_urls_that_make_no_sense(url, opens):
    with pytest.raises(ConfigurationError):
        opens(url.replace("://", "://user:secret@", 1))


@pytest.mark.parametrize(
    "password", ["s3/cret", "1/cret", "s3#cret", "s3?cret", "s3[cret", "s3/c@cret", "s3cret\u2100"]
)
@pytest.mark.parametrize("url", ["redis://:{}@host/0", "rediss+cluster://me:{}@host1,host2", "redis://me:{}"])
def test_a_password_that_tears_the_url_apart_is_not_shown(url, password):
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url.format(password))
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3" not in shown
    assert "cret" not in shown


def test_what_a_url_says():
    settings = parse("rediss+cluster://me:p%40ss@a:1,[::1]:2,c/0?prefix=shop&ssl_ca_certs=%2Fca.pem&max_connections=3")
    assert settings.name == "rediss+cluster://me@a:1,[::1]:2,c/0?prefix=shop"
    assert settings.seeds == (("a", 1), ("::1", 2), ("c", 6379))
    login = {"username": "me", "password": "p@ss", "db": 0}
    assert settings.options == {**login, "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True}
    assert (settings.is_tls, settings.is_cluster, settings.prefix, settings.max_connections) == (True, True, "shop", 3)
    assert not settings.allow_eviction
    assert "p@ss" not in repr(settings)
    assert parse("rediss://host?ssl_cert_reqs=none").options["ssl_check_hostname"] is False
    plain = parse("redis://")
    assert (plain.seeds, plain.is_cluster, plain.prefix) == ((("localhost", 6379),), None, "kv")


def test_a_missing_driver_names_the_extra():
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "from ptb_kvpersistence.backends.urls import open_backend, open_async_backend\n"
        "for opens in (open_backend, open_async_backend):\n"
        "    try: opens('redis://localhost')\n"
        "    except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count('pip install "ptb_kvpersistence[redis]"') == 2
