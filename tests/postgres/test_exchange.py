"""One round trip: what is sent together, what the server remembers of it, and what is left when something fails."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from ptb_kvpersistence.backends.postgres import exchange
from ptb_kvpersistence.backends.postgres.connection import connect, connect_async
from ptb_kvpersistence.backends.postgres.location import locate
from ptb_kvpersistence.backends.postgres.routines import REVISION
from ptb_kvpersistence.backends.postgres.schema import FORMAT
from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.model import Address, Commit, GetMany, OpenStore, Put, VersionCheck
from tests.servers.postgres import through

PREPARED = ("SELECT statement FROM pg_prepared_statements WHERE statement NOT LIKE '%%pg_prepared%%' ORDER BY name", ())


class Sync:
    def __init__(self, connection):
        self.connection = connection

    async def run(self, *statements):
        return await asyncio.to_thread(self.connection.run, list(statements))

    async def close(self):
        self.connection.close()


class Async(Sync):
    async def run(self, *statements):
        return await self.connection.run(list(statements))

    async def close(self):
        await self.connection.close()


@pytest.fixture(params=["sync", "async"])
async def connect_raw(request):
    """Connects as the backend does."""
    opened = []

    async def connect_one(url):
        parameters, deadline = locate(url).parameters, time.monotonic() + 20
        if request.param == "sync":
            opened.append(Sync(connect(parameters, deadline)))
        else:
            opened.append(Async(await connect_async(parameters, deadline)))
        return opened[-1]

    yield connect_one
    for one in opened:
        await one.close()


@pytest.fixture
async def raw(connect_raw, schema):
    return await connect_raw(schema.url)


async def test_each_statement_has_its_rows(raw):
    replies = await raw.run(
        ("SELECT %s::integer, %s::text", (1, "a%s%%")),
        ("BEGIN", ()),
        ("SELECT 1 WHERE false", ()),
        ("SELECT n, '%%' FROM generate_series(1, 3) n", ()),
        ("COMMIT", ()),
        ("SELECT NULL, true, '[1, 2]'::json", ()),
    )
    assert replies == [[(1, "a%s%%")], [], [], [(1, "%"), (2, "%"), (3, "%")], [], [(None, True, b"[1, 2]")]]


async def test_one_waits_for_the_other(raw):
    """As where a cancelled caller's request goes on, while his session is being ended."""
    slow = [("SELECT pg_sleep(0.05)", ()), *[("SELECT %s::integer", (number,)) for number in range(20)]]
    quick = [("SELECT 'quick'", ()), ("SELECT 'as well'", ())]
    replies = await asyncio.gather(raw.run(*slow), raw.run(*quick), raw.run(*slow), raw.run(*quick))
    assert replies[0][1:] == replies[2][1:] == [[(number,)] for number in range(20)]
    assert replies[1] == replies[3] == [[("quick",)], [("as well",)]]


async def test_a_connection_that_is_closed_meanwhile(raw):
    async def close_soon():
        await asyncio.sleep(0.1)
        await raw.close()

    with pytest.raises(psycopg.OperationalError):
        await asyncio.gather(raw.run(("SELECT pg_sleep(1)", ()), ("SELECT 1", ())), close_soon())


async def test_they_are_sent_together(connect_raw, schema, proxy):
    raw = await connect_raw(through(schema.url, proxy.port))
    proxy.matching = b"mark-7f3a"
    proxy.turns = 0
    await raw.run(*[(f"SELECT '{number} mark-7f3a'", ()) for number in range(20)])
    assert (proxy.turns, proxy.seen) == (1, 1)


async def test_what_follows_a_failure_is_not_run(raw, schema):
    schema._execute(f'CREATE SCHEMA "{schema.name}"')
    schema.rows("CREATE TABLE seen(n integer)")
    insert = f'INSERT INTO "{schema.name}".seen VALUES (%s)'
    with pytest.raises(psycopg.errors.DivisionByZero):
        await raw.run((insert, (1,)), ("SELECT 1 / %s", (0,)), (insert, (2,)), ("SELECT * FROM nothing", ()))
    assert await raw.run((insert, (3,)), ("SELECT 4", ())) == [[], [(4,)]]
    assert schema.rows("SELECT n FROM seen") == [(3,)]


async def test_what_cannot_be_sent_leaves_nothing_behind(raw):
    with pytest.raises(psycopg.DataError, match="NUL"):
        await raw.run(("SELECT 1", ()), ("SELECT %s", ("a\0b",)))
    assert await raw.run(("SELECT 2", ())) == [[(2,)]]


async def test_much_is_sent_while_much_is_answered(raw):
    texts = [str(number) * 2_000_000 for number in range(10)]
    assert await raw.run(*[("SELECT %s::text", (text,)) for text in texts]) == [[(text,)] for text in texts]


async def test_the_server_says_why_it_ends_a_connection(raw, schema):
    (((number,),),) = await raw.run(("SELECT pg_backend_pid()", ()))
    waiting = asyncio.ensure_future(raw.run(("SELECT 1", ()), ("SELECT pg_sleep(20)", ()), ("SELECT 2", ())))
    sleeping = f"SELECT 1 FROM pg_stat_activity WHERE pid = {number} AND wait_event = 'PgSleep'"
    while not schema.rows(sleeping):  # noqa: ASYNC110 - it is another process that goes on
        await asyncio.sleep(0.01)
    schema.rows(f"SELECT pg_terminate_backend({number})")
    with pytest.raises(psycopg.errors.AdminShutdown):
        await waiting
    with pytest.raises(psycopg.OperationalError):
        await raw.run(("SELECT 1", ()))


# --- what the server remembers ---


async def test_it_remembers_what_comes_often(raw):
    raw.connection.memory.is_used = True
    for number in range(8):
        replies = await raw.run(("SELECT %s::integer", (number,)), ("SELECT 'b'", ()))
        assert replies == [[(number,)], [("b",)]]
        names = await raw.run(PREPARED)
        assert len(names[0]) == (2 if number >= exchange.PREPARED_FROM - 1 else 0)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await raw.run(("BEGIN", ()), ("SELECT 1 / %s", (0,)))
    await raw.run(("ROLLBACK", ()))
    assert ("SELECT $1::integer",) in (await raw.run(PREPARED))[0]
    assert await raw.run(("SELECT %s::integer", (9,))) == [[(9,)]]


async def test_it_remembers_nothing_where_that_is_of_no_use(raw):
    for _ in range(8):
        await raw.run(("SELECT 'a'", ()))
    assert await raw.run(PREPARED) == [[]]


async def test_it_remembers_no_more_than_so_many(monkeypatch, raw):
    monkeypatch.setattr(exchange, "PREPARED_MOST", 3)
    raw.connection.memory.is_used = True
    for number in range(10):
        for _ in range(6):
            assert await raw.run((f"SELECT {number}", ())) == [[(number,)]]
    assert len((await raw.run(PREPARED))[0]) == 3


async def test_a_statement_that_failed_before_it_was_prepared_is_prepared_later(raw):
    raw.connection.memory.is_used = True
    for _ in range(exchange.PREPARED_FROM - 1):
        await raw.run(("SELECT 'a'", ()))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await raw.run(("SELECT 1 / %s", (0,)), ("SELECT 'a'", ()))
    for _ in range(2):
        assert await raw.run(("SELECT 'a'", ())) == [[("a",)]]
    assert (await raw.run(PREPARED))[0] == [("SELECT 'a'",)]


async def test_a_statement_is_another_one_with_other_types(raw):
    raw.connection.memory.is_used = True
    for _ in range(8):
        assert await raw.run(("SELECT %s AS a", (1,))) == [[(1,)]]
        assert await raw.run(("SELECT %s AS a", ("b",))) == [[("b",)]]
        assert await raw.run(("SELECT %s AS a", (2**40,))) == [[(2**40,)]]


# --- in use ---


def connections(backend):
    runner = backend.backend.runner if hasattr(backend, "backend") else next(iter(backend._loops.values())).runner
    return runner.pool.all()


async def run_on(connection, *statements):
    made = connection.run(list(statements))
    return await made if asyncio.iscoroutine(made) else made


async def test_what_the_server_forgot_is_said_anew(backend, store):
    for number in range(10):
        await backend.perform(Commit(store, (Put("d", "k", b"%d" % number),)))
    (connection,) = connections(backend)
    for number in (20, 30):
        assert any("kv_commit" in row[0] for row in (await run_on(connection, PREPARED))[0])
        await run_on(connection, ("DEALLOCATE ALL", ()))
        for _ in range(2):
            reply = await backend.perform(Commit(store, (Put("d", "k", b"%d" % number),)))
            assert reply.is_committed
        assert (await backend.perform(GetMany(store, (Address("d", "k"),))))[0].value == b"%d" % number
    assert connections(backend) == [connection]


async def test_what_it_remembers_is_found_in_tables_made_anew(backend, store, schema):
    async def use(store):
        for number in range(10):
            await backend.perform(Commit(store, (Put("d", "k", b"%d" % number),)))
            (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
            assert record.value == b"%d" % number

    await use(store)
    schema.drop()
    made = await backend.perform(OpenStore("shop", "create"))
    await use(made.id)


async def test_a_connection_outlives_what_was_refused_and_rolled_back(backend, store):
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    (connection,) = connections(backend)
    for refused in (b"[", b"\x00"):
        with pytest.raises(DatabaseError):
            await backend.perform(Commit(store, (Put("d", "k", refused),)))
    with pytest.raises(DatabaseError):
        await backend.perform(Commit(store, (Put("d", "a\0b", b"1"),), (), "an\0id"))
    session = await backend.exclusive(store, 5)
    assert (await session.perform(GetMany(store, (Address("d", "k"),))))[0].value == b"1"
    await session.end(None)
    await backend.perform(Commit(store, (Put("d", "k", b"2"),)))
    assert connections(backend) == [connection]
    assert not connection.closed


# --- functions that an older package made ---


async def test_functions_of_an_older_package_are_made_anew(connect_to, backend, store, schema):
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    for name in ("kv_commit_1", "kv_failed_1"):
        schema.rows(f"ALTER FUNCTION {name} RESET ALL")
    schema.rows("UPDATE kv_format SET revision = 1")
    plans = f"""SELECT count(*) FROM pg_proc WHERE pronamespace = '"{schema.name}"'::regnamespace
        AND proconfig @> ARRAY['plan_cache_mode=force_generic_plan', 'enable_seqscan=off']"""
    assert schema.rows(plans) == [(0,)]
    newer = connect_to(schema.url)
    assert (await newer.perform(OpenStore("shop", "open"))).id == store
    assert schema.rows(plans) == [(2,)]
    assert schema.rows("SELECT number, revision FROM kv_format") == [(FORMAT, REVISION)]
    for one in (newer, backend):
        (record,) = await one.perform(GetMany(store, (Address("d", "k"),)))
        assert (
            await one.perform(Commit(store, (Put("d", "k", b"2"),), (VersionCheck("d", "k", record.version),)))
        ).is_committed
