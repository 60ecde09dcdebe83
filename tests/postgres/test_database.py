"""What a database and its other users may have set up as they like: isolation, collation, idle transactions, time."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import psycopg
import pytest

from ptb_kvpersistence.backends.postgres import attempts
from ptb_kvpersistence.backends.postgres.routines import REVISION
from ptb_kvpersistence.backends.postgres.schema import FORMAT
from ptb_kvpersistence.model import Changes, Commit, GetMany, OpenStore, Put, Sweep, VersionCheck
from tests.servers.postgres import PostgresServer


async def test_keys_are_ordered_by_code_point_whatever_the_database_thinks(store, schema):
    """The server of the tests orders so by itself; others do not."""
    columns = schema.rows(
        "SELECT c.relname, a.attname, l.collname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_collation l ON l.oid = a.attcollation"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'i') AND a.attnum > 0"
    )
    free = {"incarnation", "holder"}  # only ever compared for being equal
    wrong = {(table, column) for table, column, collation in columns if collation != "C" and column not in free}
    assert wrong == set()
    assert {("kv_entries", "key"), ("kv_entries", "domain"), ("kv_stores", "name")} <= {row[:2] for row in columns}


@pytest.mark.parametrize("name", ["a\"b'c", "per%cent %s %%s", "{s} {t}", "back\\slash", "\u00e9" * 31])
async def test_a_schema_may_be_called_anything(connect_to, schema, name):
    url = schema.url.partition("?schema=")[0] + f"?schema={quote(name)}"
    schema.name = name.replace('"', '""')
    store = (await connect_to(url).perform(OpenStore("shop", "ensure"))).id
    assert (await connect_to(url).perform(Commit(store, (Put("", "k", b"1"),)))).is_committed
    (record,) = await connect_to(url).perform(GetMany(store, (("", "k"),)))
    assert record.value == b"1"
    assert schema.rows("SELECT key FROM kv_entries") == [("k",)]


async def test_another_isolation_by_default_changes_nothing(connect_to, schema, monkeypatch):
    """Serialisable transactions of PostgreSQL would fail where ours wait in line."""
    monkeypatch.setattr(attempts, "REPEATS", 0)
    backends = [
        connect_to(f"{schema.url}&options=-cdefault_transaction_isolation%3D{level}")
        for level in ("serializable", "repeatable%5C%20read")
    ]
    store = (await backends[0].perform(OpenStore("shop", "ensure"))).id

    async def count(backend):
        for _ in range(25):
            reply, at = None, 0
            while reply is None or not reply.is_committed:
                (record,) = await backend.perform(GetMany(store, (("d", "n"),)))
                at, value = (record.version, int(record.value)) if record else (0, 0)
                commit = Commit(store, (Put("d", "n", b"%d" % (value + 1)),), (VersionCheck("d", "n", at),))
                reply = await backend.perform(commit)

    await asyncio.gather(*(count(backend) for backend in backends for _ in range(2)))
    (record,) = await backends[0].perform(GetMany(store, (("d", "n"),)))
    assert record.value == b"100"
    ((isolation,),) = schema.rows("SHOW default_transaction_isolation")
    assert isolation == "read committed", "the others' own setting stays"


async def test_idle_transactions_of_others_hold_up_nothing(backend, store, schema):
    """Wherever they are: here, in another schema, and in another database."""
    schema.rows("CREATE DATABASE kv_other")
    cursor = (await backend.perform(Commit(store, (Put("d", "first", b"1"),)))).versions[0]
    places = [schema.server, psycopg.conninfo.make_conninfo(schema.server, dbname="kv_other")]
    idle = [psycopg.connect(place) for place in places]
    try:
        for connection in idle:
            connection.execute("SELECT txid_current()")  # it has an id, and is older than what comes
        await backend.perform(Commit(store, (Put("d", "second", b"2", 1),)))
        reply = await backend.perform(Changes(store, cursor))
        assert [change.key for change in reply.changes] == ["second"]
        await asyncio.sleep(0.01)
        assert await backend.perform(Sweep()) == 1
        reply = await backend.perform(Changes(store, cursor))
        assert [(change.key, change.value) for change in reply.changes] == [("second", None)]
    finally:
        for connection in idle:
            connection.close()
        schema.rows("DROP DATABASE kv_other")


async def test_time_goes_on_inside_a_transaction(connect_to, backend, store, schema):
    """Who waits for the lock, or has it, writes with the time at which he writes, and in order."""
    rival = connect_to(schema.url)
    session = await backend.exclusive(store, 5)
    waiting = asyncio.create_task(rival.perform(Commit(store, (Put("d", "waited", b"1"),))))
    await asyncio.sleep(0.5)
    ended_at = time.time() * 1000
    await session.end(Commit(store, (Put("d", "held", b"1"), Put("d", "short", b"1", 300))))
    await waiting
    held, waited, short = await backend.perform(GetMany(store, (("d", "held"), ("d", "waited"), ("d", "short"))))
    assert short is not None, "its time to live began when it was written"
    assert ended_at - 20 <= held.updated_at <= waited.updated_at
    assert held.version < waited.version


async def test_functions_of_an_earlier_revision_are_replaced_by_whoever_comes_first(connect_to, store, schema):
    schema.rows("UPDATE kv_format SET revision = revision - 1")
    schema.rows(f'DROP FUNCTION "{schema.name}".kv_sweep_1')
    backends = [connect_to(schema.url) for _ in range(6)]
    assert await asyncio.gather(*(backend.perform(Sweep()) for backend in backends)) == [0] * 6
    assert schema.rows("SELECT number, revision FROM kv_format") == [(FORMAT, REVISION)]
    assert (await backends[0].perform(Commit(store, (Put("d", "k", b"1"),)))).is_committed


async def test_functions_of_a_later_revision_stay(connect_to, store, schema):
    schema.rows("UPDATE kv_format SET revision = revision + 1")
    assert (await connect_to(schema.url).perform(Commit(store, (Put("d", "k", b"1"),)))).is_committed
    assert schema.rows("SELECT revision FROM kv_format") == [(REVISION + 1,)]


@pytest.fixture(scope="module")
def lazy_server():
    """A server that tells of a commit before it is on the disk, and takes its time with that."""
    server = PostgresServer({"synchronous_commit": "off", "wal_writer_delay": "10s", "autovacuum": "off"})
    yield server.start()
    server.remove()


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("how", ["commit", "session"])
async def test_who_wants_it_durable_waits_for_the_disk(connect_to, lazy_server, durable, how):
    backend = connect_to(lazy_server.url)
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    with psycopg.connect(lazy_server.url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        commit = Commit(store, (Put("d", "k", b"1"),), durable=durable)
        if how == "commit":
            await backend.perform(commit)
        else:
            await (await backend.exclusive(store, 5, durable=durable)).end(commit)
        on_disk = connection.execute("SELECT pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()").fetchone()
    assert on_disk == (durable,)
