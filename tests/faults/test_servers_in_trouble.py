"""Bots whose server dies, is cut off, falls silent or refuses: they answer from memory, and save when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid

import pytest

from ptb_kvpersistence import DatabaseError, KVPersistence
from ptb_kvpersistence.errors import DatabaseUnavailableError, ReadOnlyError
from ptb_kvpersistence.persistence.sight import LOOK_TIMEOUT
from tests.faults import processes
from tests.faults.talking import OPTIONS, PROMPT, USERS, Talk, assert_all_there, begin, saved, saving
from tests.ptb.offline import OfflineBot
from tests.servers import valkey
from tests.servers.ports import free_port

pytestmark = pytest.mark.slow


async def test_killed_and_started_again_under_load(remote, start_there):
    bot = await start_there(**OPTIONS)
    talk = Talk(bot)
    async with saving(bot):
        await talk.during(0.3)
        for _ in range(2):
            before = talk.count
            await asyncio.gather(talk.during(2), asyncio.to_thread(remote.kill))
            assert talk.count > before + 10
            await asyncio.to_thread(remote.start)
            await talk.during(0.5)
        await saved(bot)
    await assert_all_there(bot, talk, remote.witness())
    seconds = talk.times.seconds()
    assert sum(each > PROMPT for each in seconds) <= 6, seconds
    assert max(seconds) < LOOK_TIMEOUT + PROMPT


async def test_a_dead_server_holds_up_one_update_and_is_told_once(remote, start_there, caplog):
    bot = await start_there(**OPTIONS)
    talk = Talk(bot)
    await talk.once()
    await asyncio.to_thread(remote.kill)
    await talk.during(3)
    talk.assert_prompt()
    assert talk.count > 50
    assert len([record for record in caplog.records if "memory has to do" in record.getMessage()]) == 1
    assert not bot.errors
    await asyncio.to_thread(remote.start)
    witness = remote.witness()
    witness.put("ptb:chat_data:1001", "7", {"seen": True})
    deadline = time.monotonic() + 10
    while bot.app.chat_data[7] != {"seen": True}:
        assert time.monotonic() < deadline
        await talk.once()
        await asyncio.sleep(0.02)
    await assert_all_there(bot, talk, witness)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "until the deadline"])
async def test_cut_off_at_the_flush(remote, start_there, when, times):
    bot = await start_there(**OPTIONS)
    talk = Talk(bot)
    other = KVPersistence(remote.place.location, bot="other", **OPTIONS)
    await talk.once()
    await bot.save()
    mark = f"mark-{uuid.uuid4().hex}"
    bot.app.user_data[42]["mark"] = mark
    await talk.once()
    remote.cut(when, mark, times)
    await bot.save()
    assert remote.proxy.cuts >= 1
    if times == 1:
        assert (bot.persistence.pending, bot.errors) == (0, [])
    else:
        assert bot.persistence.pending
        assert len(bot.errors) == 1
        # Meanwhile everybody goes on.
        await talk.once()
        (data,) = (await other.get_user_data()).values()
        assert data["n"] == (2 if when == "after" else 1)
        await other.update_user_data(42, {**data, "n": data["n"] + 100})
        remote.cut(when, mark, 0)
    await saved(bot)
    await bot.save()
    await other.flush()
    data = remote.witness().values(USERS)["42"]
    assert data["n"] == talk.count + (100 if times > 1 else 0)
    assert data["log"] == list(range(talk.count))


async def test_a_server_that_falls_silent(remote, start_there):
    bot, talk = await begin(start_there)
    remote.freeze()
    try:
        async with saving(bot):
            await talk.during(7)  # longer than a commit waits
        assert bot.persistence.pending
        talk.assert_prompt()
        assert talk.count > 100
    finally:
        remote.thaw()
    await saved(bot)
    await assert_all_there(bot, talk, remote.witness())


async def test_a_server_that_is_slow(remote, start_there):
    bot, talk = await begin(start_there)
    witness = remote.witness()
    remote.proxy.delay = 0.7
    witness.put("ptb:chat_data:1001", "7", {"seen": True})
    deadline = time.monotonic() + 30
    async with saving(bot):
        await talk.during(2)
        # What others write is seen, and what is ours is saved; only later.
        while bot.app.chat_data[7] != {"seen": True} or witness.values(USERS)["42"]["n"] < 2:
            assert time.monotonic() < deadline
            await talk.during(0.2)
    talk.assert_prompt()
    remote.proxy.delay = 0.0
    await assert_all_there(bot, talk, witness)
    assert bot.errors == []


async def test_a_server_that_only_reads(remote, start_there):
    bot, talk = await begin(start_there)
    witness = remote.witness()
    with read_only(remote):
        await talk.during(0.3)
        await bot.save()
        assert {type(error) for error in bot.errors} == {ReadOnlyError}
        assert bot.persistence.pending == 1
        await talk.during(0.3)
        talk.assert_prompt()
    await saved(bot)
    await assert_all_there(bot, talk, witness)


@contextlib.contextmanager
def read_only(remote):
    if remote.kind == "postgres":
        table = "kv_entries"
        remote.place.schema.rows(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'a hot standby' USING ERRCODE = 'read_only_sql_transaction'; END $$"
        )
        remote.place.schema.rows(
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
        yield
        remote.place.schema.rows(f"DROP TRIGGER refuse ON {table}")
    else:
        with remote.server.client() as client:
            client.replicaof("127.0.0.1", free_port())
            yield
            client.replicaof("NO", "ONE")


# --- at the start ---


def wrong_places(remote):
    location, port = remote.location, f":{remote.proxy.port}"
    yield location.replace(port, f":{free_port()}"), "refused|check that it runs"
    if remote.kind == "postgres":
        yield location.replace(":s3cret@", ":wr0ng@"), "password"
        yield location.replace("/postgres?", "/nowhere?"), "nowhere"
    else:
        yield location.replace("//", "//:wr0ng@"), "password"
        yield location.replace("?", "/99?"), "99"


async def test_what_is_wrong_at_the_start_is_said_at_once(remote):
    for location, word in wrong_places(remote):
        bot = OfflineBot(KVPersistence(location))
        began = time.monotonic()
        with pytest.raises(DatabaseError, match=word) as caught:
            await bot.start()
        assert time.monotonic() - began < 7
        assert "wr0ng" not in str(caught.value)
        bot.app.persistence = None
        await bot.app.shutdown()


async def test_a_silent_server_at_the_start_has_a_deadline(remote):
    remote.freeze()
    bot = OfflineBot(KVPersistence(remote.location))
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await bot.start()
        assert time.monotonic() - began < 8
    finally:
        remote.thaw()
    bot.app.persistence = None
    await bot.app.shutdown()


# --- at the very end ---


def told(process, text):
    """Send a bot a message and wait for its answer."""
    process.stdin.write(f"{text}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.strip() == text:
            return
    pytest.fail("the bot has ended")


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
def test_a_process_that_ends_without_its_server_leaves_a_rescue_file(remote, tmp_path, trouble):
    process = processes.start("bots", "bot", remote.location, folder=tmp_path)
    witness = remote.witness()
    try:
        told(process, "one")
        deadline = time.monotonic() + 20
        while witness.values("ptb:user_data:4711") != {"1": {"texts": ["one"]}}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        remote.kill() if trouble == "killed" else remote.freeze()
        told(process, "two")
        told(process, "stop")
        began = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - began < 15
    finally:
        processes.end(process)
    assert process.returncode == 1, "run_polling() passes on what flush() has raised"
    files = list((tmp_path / "state" / "ptb_kvpersistence").iterdir())
    assert [file.name.endswith(".rescue.json") for file in files] == [True]
    remote.start() if trouble == "killed" else remote.thaw()
    for _ in range(2):
        ended = processes.run("bots", "read_all", remote.location, folder=tmp_path)
        assert ended.output.splitlines()[-1] == "{1: {'texts': ['one', 'two', 'stop']}}", ended.output
    assert not any(file.exists() for file in files)
    assert remote.witness().values("ptb:user_data:4711") == {"1": {"texts": ["one", "two", "stop"]}}


# --- a cluster ---


async def test_a_node_of_a_cluster_fails_over(tmp_path):
    cluster = valkey.Cluster(tmp_path, replicas=True, node_timeout=500)
    try:
        cluster.start()
        bot = await OfflineBot(KVPersistence(cluster.url, **OPTIONS)).start()
        talk = Talk(bot)
        await talk.once()
        await bot.save()
        store = bot.persistence._keeper.replica.store
        victim = cluster.owner(f"{{kv:{store}}}")
        await asyncio.sleep(0.5)  # what was acknowledged reaches the replica
        async with saving(bot):
            victim.kill()
            await talk.during(4)
            await saved(bot, 30)
        assert max(talk.times.seconds()) < LOOK_TIMEOUT + PROMPT
        assert sum(talk.times.seconds()) < 4, "answers come from memory"
        await bot.save()
        await saved(bot)
        assert cluster.owner(f"{{kv:{store}}}") is not victim
        with cluster.client() as client:
            entries = valkey.Witness(client, "kv").entries()
        other = KVPersistence(cluster.url, bot="other", **OPTIONS)
        assert (await other.get_user_data())[42] == bot.app.user_data[42]
        assert ("default", USERS, "42") in entries
        assert bot.app.user_data[42]["n"] == talk.count
        await other.flush()
        await bot.stop()
    finally:
        cluster.kill()
