"""What a server that refuses says to users: which error, in which words, and never a password."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from traceback import format_exception
from urllib.parse import urlsplit

import pytest

from ptb_kvpersistence.backends.postgres.location import locate
from ptb_kvpersistence.backends.urls import open_async_backend, open_backend
from ptb_kvpersistence.errors import (
    BusyError,
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailableError,
    FormatVersionError,
    ReadOnlyError,
    StoreClosedError,
)
from ptb_kvpersistence.model import Address, Commit, GetMany, ListStores, OpenStore, Put
from tests.servers.ports import free_port
from tests.servers.postgres import through


async def refused(connect_to, url, request=None, **options):
    """Give the error of a first request, which must come soon and must not show the password."""
    backend = connect_to(url, **options)
    started = time.monotonic()
    with pytest.raises(DatabaseError) as caught:
        await backend.perform(request or ListStores())
    assert time.monotonic() - started < 3
    assert "s3cret" not in str(caught.value)
    return caught.value


async def test_a_wrong_password(connect_to, schema):
    error = await refused(connect_to, schema.url.replace(":s3cret@", ":wrong@"))
    assert "password authentication failed" in str(error)
    assert "in the URL" in str(error)


async def test_a_database_that_is_not_there(connect_to, schema):
    error = await refused(connect_to, schema.url.replace("/postgres?", "/nowhere?"))
    assert 'database "nowhere" does not exist' in str(error)


async def test_nobody_listens(connect_to, schema):
    error = await refused(connect_to, through(schema.url, free_port()))
    assert isinstance(error, DatabaseUnavailableError)
    assert "refused" in str(error)
    assert "check that the server runs" in str(error)


async def test_a_server_that_accepts_and_says_nothing(connect_to, schema, proxy):
    proxy.is_deaf = True
    started = time.monotonic()
    backend = connect_to(through(schema.url, proxy.port), timeout=1)
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        await backend.perform(ListStores())
    assert 1 <= time.monotonic() - started < 2.5


async def test_a_silent_one_of_several_hosts_leaves_time_for_the_others(connect_to, schema, proxy):
    proxy.is_deaf = True
    port = urlsplit(schema.server).port
    url = schema.url.replace(f":{port}/", f":{proxy.port},127.0.0.1:{port}/")
    for timeout in (3, 10):
        started = time.monotonic()
        assert await connect_to(url, timeout=timeout).perform(ListStores()) == ()
        assert time.monotonic() - started < timeout


async def test_a_read_only_server_can_be_read(connect_to, backend, store, schema):
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    reader = connect_to(schema.url + "&options=-cdefault_transaction_read_only%3Don")
    (record,) = await reader.perform(GetMany(store, (Address("d", "k"),)))
    assert record.value == b"1"
    for request in (Commit(store, (Put("d", "k", b"2"),)), OpenStore("new", "create")):
        with pytest.raises(ReadOnlyError, match="read-only"):
            await reader.perform(request)
    (record,) = await reader.perform(GetMany(store, (Address("d", "k"),)))
    assert record.value == b"1"


async def test_a_read_only_server_without_tables(connect_to, schema):
    error = await refused(connect_to, schema.url + "&options=-cdefault_transaction_read_only%3Don")
    assert isinstance(error, ReadOnlyError)


async def test_a_user_who_may_not(connect_to, backend, store, schema):
    role = f"reader_{schema.name[-12:]}"
    schema.rows(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    try:
        error = await refused(connect_to, schema.url.replace("postgres:s3cret", f"{role}:s3cret"))
        assert isinstance(error, ReadOnlyError)
        assert "grant it" in str(error)
    finally:
        schema.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
@pytest.mark.parametrize("then", ["read", "write"])
async def test_a_transaction_that_the_server_ends(connect_to, own_server, setting, then):
    backend = connect_to(f"{own_server.url}?options=-c{setting}%3D1000")
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    session = await backend.exclusive(store, 2)
    await asyncio.sleep(1.3)
    said = rf"ended the transaction, .* than {setting} allows; nothing was written, .* for this role"
    if then == "read":
        with pytest.raises(DatabaseError, match=said):
            await session.perform(GetMany(store, (Address("", "k"),)))
        await session.end(None)
    else:
        with pytest.raises(DatabaseError, match=said):
            await session.end(Commit(store, (Put("", "k", b"1"),)))
    assert await backend.perform(GetMany(store, (Address("", "k"),))) == (None,)
    assert (await backend.perform(Commit(store, (Put("", "k", b"1"),)))).is_committed


@pytest.mark.parametrize("is_over", [True, False], ids=["once", "always"])
async def test_connections_that_are_ended_while_they_are_made(connect_to, own_server, is_over):
    """As happens when a server is stopped; a trigger at login gives the time for it."""
    import psycopg

    with psycopg.connect(own_server.url, autocommit=True) as admin:
        admin.execute("""CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('application_name') = 'ptb_kvpersistence' THEN PERFORM pg_sleep(60); END IF; END $$""")
        admin.execute("CREATE EVENT TRIGGER waiting ON login EXECUTE FUNCTION wait()")
        backend = connect_to(own_server.url, timeout=5)
        request = asyncio.ensure_future(backend.perform(ListStores()))
        ended = 0
        while not (request.done() or (ended and is_over)):
            await asyncio.sleep(0.05)
            ended += len(
                admin.execute("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'ptb_kvpersistence' AND wait_event = 'PgSleep'""").fetchall()
            )
        if is_over:
            admin.execute("ALTER EVENT TRIGGER waiting DISABLE")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            assert await request == ()
        else:
            with pytest.raises(DatabaseUnavailableError, match=r"no connections just now \(terminating .*try again$"):
                await request
            assert ended > 2


async def test_a_newer_format(connect_to, backend, store, schema):
    schema.rows("UPDATE kv_format SET number = number + 1")
    error = await refused(connect_to, schema.url)
    assert isinstance(error, FormatVersionError)
    assert "update the package" in str(error)


async def test_another_encoding(connect_to, schema):
    schema.rows("CREATE DATABASE kv_latin1 ENCODING 'LATIN1' TEMPLATE template0")
    try:
        error = await refused(connect_to, schema.url.replace("/postgres?", "/kv_latin1?"))
        assert "UTF8" in str(error)
        await connect_to.close()
    finally:
        schema.rows("DROP DATABASE kv_latin1 WITH (FORCE)")


async def test_tables_that_were_dropped_are_made_anew(backend, store, schema):
    schema.rows(f'DROP SCHEMA "{schema.name}" CASCADE')
    assert await backend.perform(ListStores()) == ()
    assert await backend.perform(OpenStore("shop", "create"))


async def test_what_is_no_json_is_refused(backend, store):
    with pytest.raises(DatabaseError, match="json") as caught:
        await backend.perform(Commit(store, (Put("d", "k", b"[topsecret"),)))
    assert "topsecret" not in str(caught.value)
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))


@pytest.mark.parametrize("count", [30])
async def test_more_requests_than_connections(connect_to, schema, count):
    backend = connect_to(schema.url)
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    commits = (backend.perform(Commit(store, (Put("d", f"{n}", b"1"),))) for n in range(count))
    reads = (backend.perform(GetMany(store, (Address("d", f"{n}"),))) for n in range(count))
    replies = await asyncio.gather(*commits, *reads)
    assert sum(len(reply.versions) for reply in replies[:count]) == count
    ((used,),) = schema.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ptb_kvpersistence'")
    assert used <= 12


async def test_requests_that_get_no_connection_say_so_in_time(connect_to, schema):
    backend = connect_to(schema.url)
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    rival = connect_to(schema.url)
    session = await rival.exclusive(store, 5)
    started = time.monotonic()
    results = await asyncio.gather(
        *(backend.perform(Commit(store, (Put("d", f"{n}", b"1"),)), timeout=0.4) for n in range(10)),
        backend.perform(GetMany(store, (Address("d", "0"),)), timeout=0.4),
        return_exceptions=True,
    )
    assert time.monotonic() - started < 2
    assert [type(result) for result in results] == [BusyError] * 10 + [tuple]
    other = await backend.perform(OpenStore("other", "ensure"))
    assert (await backend.perform(Commit(other.id, (Put("d", "k", b"1"),)), timeout=0.4)).is_committed
    await session.end(None)
    assert (await backend.perform(Commit(store, (Put("d", "k", b"1"),)))).is_committed


async def test_too_many_connections_for_the_server(connect_to, own_server):
    import psycopg

    own_server.stop()
    own_server._settings["max_connections"] = "8"
    own_server.start()
    taken = []
    with contextlib.suppress(psycopg.OperationalError):
        while len(taken) < 20:
            taken.append(psycopg.connect(own_server.url))
    backend = connect_to(own_server.url, timeout=0.5)
    with pytest.raises(DatabaseUnavailableError, match=r"too many|slots"):
        await backend.perform(ListStores())
    asyncio.get_running_loop().call_later(0.3, lambda: [connection.close() for connection in taken])
    assert await backend.perform(ListStores(), timeout=5) == ()


def test_closed_is_closed(schema):
    backend = open_backend(schema.url)
    backend.perform(ListStores())
    backend.close()
    with pytest.raises(StoreClosedError):
        backend.perform(ListStores())
    with pytest.raises(StoreClosedError):
        backend.exclusive(1, 1)


# --- locations ---


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:s3cret@db.example:5433/bots", "postgresql://db.example:5433/bots"),
        ("postgres://db.example/bots", "postgresql://db.example/bots"),
        ("postgresql:///bots?host=/run/postgresql", "postgresql://%2Frun%2Fpostgresql/bots"),
        ("postgresql://a:1,b:2/bots?sslmode=require&schema=my%20bots", "postgresql://a:1,b:2/bots?schema=my%20bots"),
        ("postgresql://[::1]:5433/bots", "postgresql://[::1]:5433/bots"),
        ("postgresql://db.example/bots?password=s3cret&sslpassword=s3cret", "postgresql://db.example/bots"),
    ],
)
def test_names(url, name):
    location = locate(url)
    assert location.name == name
    assert open_backend(url).name == open_async_backend(url).name == name


def test_parameters_reach_libpq():
    url = "postgresql://me:p%40ss@db/bots?sslmode=verify-full&options=-c%20search_path%3Da&schema=x&keepalives_idle=3"
    parameters = locate(url).parameters
    assert parameters["password"] == "p@ss"
    assert parameters["options"] == "-c search_path=a"
    assert (parameters["sslmode"], parameters["keepalives_idle"]) == ("verify-full", "3")
    assert "schema" not in parameters
    assert (parameters["keepalives_interval"], parameters["keepalives_count"]) == (5, 3), "a vanished server is noticed"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3%cret@db/bots",
        "postgresql://me:s3/cret@db/bots",
        "postgresql://me:1/cret@db/bots",
        "postgresql://me:s3#cret@db/bots",
        "postgresql://me:s3?cret@db/bots",
        "postgresql://me:s3[cret@db/bots",
        "postgresql://me:s3cret\u2100@db/bots",
        "postgresql://me:s3cret@db:99999/bots",
        "postgresql://me:s3cret@db:port/bots",
        "postgresql://me:s3cret/bots",
        "postgresql://me:s3cret@[::1/bots",
        "postgresql://me:s3cret@db/bots?nonsense=1",
        "postgresql://db/x?schema=",
        f"postgresql://db/x?schema={'s' * 64}",
    ],
)
def test_wrong_urls(url):
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url)
    shown = "".join(format_exception(caught.value))
    assert "s3" not in shown
    assert "cret" not in shown


def test_without_the_driver_the_extra_is_named():
    script = """
import sys
sys.modules["psycopg"] = None
from ptb_kvpersistence import connect
from ptb_kvpersistence.errors import ConfigurationError
try:
    connect("postgresql://me:s3cret@db/bots")
except ConfigurationError as error:
    assert 'pip install "ptb_kvpersistence[postgres]"' in str(error), error
    assert "s3cret" not in str(error)
    print("named")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "named\n"


def test_the_search_path_decides_without_a_schema(schema, connect_to):
    schema.rows(f'CREATE SCHEMA "{schema.name}"')
    options = f"options=-csearch_path%3D%22{schema.name.replace(' ', '%5C%20')}%22"
    backend = open_backend(f"{schema.server}?{options}")
    backend.perform(OpenStore("shop", "create"))
    backend.close()
    assert schema.rows("SELECT name FROM kv_stores") == [("shop",)]


async def test_a_search_path_that_leads_nowhere(connect_to, schema):
    error = await refused(connect_to, f"{schema.server}?options=-csearch_path%3Dnowhere")
    assert "?schema=" in str(error)
