"""Servers that no longer let a running bot in, take its writes or answer, and those that take over from them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid

import psycopg
import pytest

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.errors import OutcomeUnknownError, ReadOnlyError
from ptb_kvpersistence.persistence.sight import LOOK_TIMEOUT
from tests.faults.talking import OPTIONS, PROMPT, USERS, Talk, assert_all_there, begin, saved, saving
from tests.ptb.offline import OfflineBot
from tests.ptb.places import PostgresPlace, ValkeyPlace, ValkeyWitness
from tests.servers import valkey
from tests.servers.postgres import PostgresServer, through

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def another_password(remote):
    """Change the password while the bot runs, and end the sessions that were begun with the old one."""
    if remote.kind == "postgres":
        with psycopg.connect(remote.server.url, autocommit=True) as admin:
            admin.execute("ALTER ROLE bot PASSWORD 'changed'")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'")
            yield
            admin.execute("ALTER ROLE bot PASSWORD 's3cret'")
    else:
        with remote.server.client() as admin:
            admin.execute_command("ACL SETUSER bot resetpass >changed")
            admin.execute_command("CLIENT KILL USER bot")
            yield
            admin.execute_command("ACL SETUSER bot resetpass >s3cret")


@pytest.fixture
def guarded(remote):
    """The location of a user with a password."""
    if remote.kind == "postgres":
        remote.place.schema.rows("DROP ROLE IF EXISTS bot")
        remote.place.schema.rows("CREATE ROLE bot LOGIN PASSWORD 's3cret'")
        remote.place.schema.rows("GRANT CREATE ON DATABASE postgres TO bot")
        yield remote.location.replace("postgres:s3cret@", "bot:s3cret@")
        remote.place.schema.rows("DROP OWNED BY bot CASCADE")
        remote.place.schema.rows("DROP ROLE bot")
    else:
        with remote.server.client() as admin:
            admin.execute_command("ACL SETUSER bot on >s3cret ~* &* +@all")
            yield remote.location.replace("redis://", "redis://bot:s3cret@")
            admin.execute_command("ACL DELUSER bot")


async def refused(bot, talk, text):
    """Talk while the server refuses; gives the kinds of errors that were told."""
    async with saving(bot):
        await talk.during(3)
    assert bot.persistence.pending
    talk.assert_prompt()
    assert talk.count > 100
    assert bot.errors
    assert all(re.search(text, str(error)) for error in bot.errors), bot.errors
    assert not any("s3cret" in str(error) for error in bot.errors)
    return {type(error) for error in bot.errors}


async def test_a_password_that_was_changed(remote, guarded, start_there):
    bot = await start_there(guarded, **OPTIONS)
    talk = Talk(bot)
    await talk.once()
    await bot.save()
    with another_password(remote):
        await refused(bot, talk, "password|broke")
    await saved(bot)
    await assert_all_there(bot, talk, remote.witness())


async def test_a_database_that_is_missing_for_a_while():
    """On PostgreSQL alone: those of Redis have numbers, and are always there."""
    server = PostgresServer().start()
    try:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE DATABASE bots")
            place = PostgresPlace(server)
            place.schema.server = place.schema.server.removesuffix("postgres") + "bots"
            bot = OfflineBot(KVPersistence(place.location.replace("/postgres?", "/bots?"), **OPTIONS))
            await bot.start()
            talk = Talk(bot)
            await talk.once()
            await bot.save()
            admin.execute("ALTER DATABASE bots ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'bots'")
            admin.execute("ALTER DATABASE bots RENAME TO away")
            await refused(bot, talk, "bots|broke")
            assert any('database "bots" does not exist' in str(error) for error in bot.errors)
            admin.execute("ALTER DATABASE away RENAME TO bots")
            admin.execute("ALTER DATABASE bots ALLOW_CONNECTIONS true")
        await saved(bot)
        place.location = place.schema.url = place.location.replace("/postgres?", "/bots?")
        await assert_all_there(bot, talk, place.witness())
        await bot.stop()
        place.close()
    finally:
        server.remove()


async def test_a_server_that_hears_and_is_not_heard(remote, start_there):
    """What it was told is done, and told again under the same id; it is done once."""
    bot, talk = await begin(start_there)
    witness = remote.witness()
    other = KVPersistence(remote.place.location, bot="other", **OPTIONS)
    mark = uuid.uuid4().hex
    remote.proxy.is_deaf = True
    bot.app.user_data[42]["mark"] = mark
    bot.app.mark_data_for_update_persistence(user_ids=42)
    async with saving(bot):
        # An update's look would take, and lose, the connection on which the server can still hear.
        heard_by = time.monotonic() + 5
        while witness.values(USERS)["42"].get("mark") != mark:
            assert time.monotonic() < heard_by, "the server has not heard"
            await asyncio.sleep(0.01)
        await talk.during(7)
    assert bot.persistence.pending
    assert OutcomeUnknownError in {type(error) for error in bot.errors}
    talk.assert_prompt()
    (data,) = (await other.get_user_data()).values()
    await other.update_user_data(42, {**data, "n": data["n"] + 1000})
    remote.proxy.is_deaf = False
    await saved(bot)
    await bot.save()
    await other.flush()
    data = witness.values(USERS)["42"]
    assert data["n"] == talk.count + 1000
    assert data["log"] == list(range(talk.count))


# --- replicas; a cluster's are in test_servers_in_trouble ---


class PostgresPair:
    """A server and its replica."""

    def __init__(self, _folder):
        self.primary = PostgresServer().start()
        self.replica = self.primary.replica()
        self.place = PostgresPlace(self.primary)
        self.replica_location = through(self.place.location, self.replica.port)

    def wait_until_in_step(self):
        with psycopg.connect(self.primary.url) as connection:
            (end,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        deadline = time.monotonic() + 10
        with psycopg.connect(self.replica.url, autocommit=True) as connection:
            while connection.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (end,)).fetchone() != (True,):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def promote(self):
        self.replica.promote()

    def witness(self):
        """Look at the replica."""
        self.place.schema.server = self.replica.url
        self.place.schema.url = self.replica_location
        return self.place.witness()

    def close(self):
        self.replica.remove()
        self.primary.remove()


class ValkeyPair:
    def __init__(self, folder):
        self.primary = valkey.Server(folder / "primary", *valkey.DURABLE, "--repl-diskless-sync-delay", "0").start()
        follows = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self.replica = valkey.Server(folder / "replica", *valkey.DURABLE, *follows).start()
        self.place = ValkeyPlace(self.primary)
        self.replica_location = self.place.location.replace(f":{self.primary.port}", f":{self.replica.port}")

    def wait_until_in_step(self):
        with self.primary.client(socket_timeout=15) as client:
            client.set("written", 1)
            assert client.wait(1, 10_000) == 1

    def promote(self):
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")

    def witness(self):
        return ValkeyWitness(self.replica_location, self.replica.client(), self.place.location.partition("prefix=")[2])

    def close(self):
        self.replica.kill()
        self.primary.kill()


@pytest.fixture
def postgres_pair(tmp_path):
    pair = PostgresPair(tmp_path)
    yield pair
    pair.close()


@pytest.mark.parametrize("make", [PostgresPair, ValkeyPair])
async def test_a_replica_is_read_until_it_is_promoted(make, tmp_path):
    pair = make(tmp_path)
    try:
        first = await OfflineBot(KVPersistence(pair.place.location, **OPTIONS)).start()
        talk = Talk(first)
        for _ in range(3):
            await talk.once()
        await first.stop()
        pair.wait_until_in_step()
        bot = await OfflineBot(KVPersistence(pair.replica_location, **OPTIONS)).start()
        assert bot.app.user_data[42] == {"n": 3, "log": [0, 1, 2]}
        talk.bot = bot
        talk.times.forget()
        async with saving(bot):
            await talk.during(2)
        assert {type(error) for error in bot.errors} == {ReadOnlyError}
        assert bot.persistence.pending
        talk.assert_prompt()
        assert talk.count > 50
        pair.promote()
        await saved(bot)
        witness = pair.witness()
        await assert_all_there(bot, talk, witness)
        witness.close()
        await bot.stop()
    finally:
        pair.close()


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_replica_takes_over(postgres_pair, trouble):
    """By the URL alone: libpq looks for the one of several hosts that takes writes."""
    pair, primary = postgres_pair, postgres_pair.primary
    hosts = f":{primary.port},127.0.0.1:{pair.replica.port}/"
    location = f"{pair.place.location}&target_session_attrs=read-write".replace(f":{primary.port}/", hosts)
    bot = await OfflineBot(KVPersistence(location, **OPTIONS)).start()
    talk = Talk(bot)
    async with saving(bot):
        await talk.during(0.3)
    await bot.save()
    pair.wait_until_in_step()
    primary.kill() if trouble == "killed" else primary.freeze()
    try:
        async with saving(bot):
            await talk.during(2)
            await asyncio.to_thread(pair.promote)
            await talk.during(1)
            await saved(bot, 30)
        assert max(talk.times.seconds()) < LOOK_TIMEOUT + PROMPT
        await assert_all_there(bot, talk, pair.witness())
    finally:
        if trouble == "frozen":
            primary.thaw()
    await bot.stop()
