"""What is stored, as a program in another language finds it, and what time does to it."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.errors import StoreNotFoundError
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    AttachBot,
    Changes,
    Commit,
    Delete,
    DeleteStore,
    GetMany,
    ListBots,
    OpenStore,
    Put,
    SetDomain,
)
from tests.servers import valkey


@pytest.fixture
def prefix(url):
    return url.partition("prefix=")[2]


@pytest.fixture
def client(own_server):
    with own_server.client() as client:
        yield client


@pytest.fixture
async def shop(connect, url):
    subject = connect(url)
    return subject, (await subject.perform(OpenStore("shop", "create"))).id


async def test_the_documented_keys(shop, client, prefix):
    subject, store = shop
    commit = Commit(store, (Put("d", "a", b'{"n":[]}', 60_000), Put("", "b", b"1"), Put("d", "c", b"2")), (), "mine")
    first, second, third = (await subject.perform(commit)).versions
    (gone,) = (await subject.perform(Commit(store, (Delete("d", "c"),)))).versions
    await subject.perform(SetDomain(store, "d", 5000))
    tag = f"{{{prefix}:{store}}}:"
    meta = client.hgetall(tag + "meta")
    assert int(meta[b"head"]) == gone
    assert int(meta[b"horizon"]) < first
    entries = client.hgetall(tag + "entries")
    assert set(entries) == {b"d\0a", b"\0b"}
    header, value = entries[b"d\0a"].split(b"\n")
    version, updated_at, ttl, expires_at = map(int, header.split(b" "))
    assert (version, ttl, expires_at, value) == (first, 60_000, updated_at + 60_000, b'{"n":[]}')
    assert entries[b"\0b"].split(b"\n")[0].split(b" ")[2:] == [b"-", b"-"]
    assert client.zrange(tag + "index", 0, -1) == [b"\0b", b"d\0a"]
    assert client.zrange(tag + "feed", 0, -1, withscores=True) == [
        (b"d\0a", first),
        (b"\0b", second),
        (b"d\0c", gone),
    ]
    assert third < gone
    assert client.zrange(tag + "tombstones", 0, -1) == [b"d\0c"]
    assert client.zrange(tag + "expiry", 0, -1, withscores=True) == [(b"d\0a", expires_at)]
    assert client.hgetall(tag + "domains") == {b"d": b"5000"}
    assert client.zrange(tag + "commits", 0, -1) == [b"mine"]
    assert client.get(f"{{{prefix}}}:format") == b"1"
    assert client.hget(f"{{{prefix}}}:stores", "shop").split(b" ")[0] == b"%d" % store
    tags = {key.rpartition(b"}:")[0] + b"}:" for key in client.scan_iter(match=f"*{prefix}*")}
    assert tags == {tag.encode(), f"{{{prefix}}}:".encode()}


async def test_nothing_stays_of_a_deleted_store_but_that_it_was(shop, client, prefix):
    subject, store = shop
    await subject.perform(Commit(store, (Put("d", "a", b"1", 60_000), Put("d", "b", b"1")), (), "mine"))
    await subject.perform(Commit(store, (Delete("d", "b"),)))
    await subject.perform(SetDomain(store, "d", 5000))
    await subject.perform(AcquireLease(store, "report", "a", 30_000))
    await subject.perform(AcquireLease(store, "report", "b", 30_000))
    await subject.perform(AttachBot(store, "bot"))
    await subject.perform(DeleteStore("shop", force=True))
    left = {key.rpartition(b"}:")[2] for key in valkey.keys_of(client, f"{prefix}:{store}")}
    assert {name for name in left if not name.startswith(b"lane:")} == {b"meta"}
    assert all(client.pttl(key) > 0 for key in valkey.keys_of(client, f"{prefix}:{store}"))


async def test_who_died_between_two_steps_of_creating_and_deleting(shop, client, prefix):
    subject, store = shop
    client.delete(f"{{{prefix}:{store}}}:meta")  # on the list, and nothing more
    assert (await subject.perform(OpenStore("shop"))).id == store
    assert (await subject.perform(Commit(store, (Put("d", "a", b"1"),)))).is_committed
    listed = client.hgetall(f"{{{prefix}}}:stores")
    await subject.perform(DeleteStore("shop"))
    client.hset(f"{{{prefix}}}:stores", mapping=listed)  # doomed, and still on the list
    again = await subject.perform(OpenStore("shop", "create"))
    assert again.id > store
    assert await subject.perform(GetMany(again.id, (Address("d", "a"),))) == (None,)


async def test_a_commit_sweeps_once_in_a_while(shop, client, prefix):
    subject, store = shop
    await subject.perform(Commit(store, tuple(Put("d", f"{n}", b"1", 1000) for n in range(300))))
    witness = valkey.Witness(client, prefix)
    valkey.pass_time(client, 20, prefix)
    head = (await subject.perform(Commit(store, (Put("d", "k", b"1"),)))).versions[0]
    assert len(witness.entries()) == 301
    valkey.pass_time(client, 20, prefix)
    await subject.perform(Commit(store, (Put("d", "k", b"1"),)))
    assert len(witness.entries()) == 101
    assert len(witness.tombstones()) == 200
    reply = await subject.perform(Changes(store, head))
    assert len([change for change in reply.changes if change.value is None]) == 200


async def test_time_can_pass_for_tests(shop, client, prefix):
    subject, store = shop
    await subject.perform(Commit(store, (Put("d", "a", b"1", 5000), Put("d", "b", b"1"))))
    await subject.perform(AttachBot(store, "bot"))
    lease = await subject.perform(AcquireLease(store, "report", "a", 5000))
    assert (await subject.perform(AcquireLease(store, "report", "b", 5000))).token is None
    before = await subject.perform(GetMany(store, (Address("d", "a"), Address("d", "b"))))
    valkey.pass_time(client, 4, prefix)
    after = await subject.perform(GetMany(store, (Address("d", "a"), Address("d", "b"))))
    assert [record.updated_at + 4000 for record in after] == [record.updated_at for record in before]
    valkey.pass_time(client, 57, prefix)
    assert [record and record.value for record in await subject.perform(GetMany(store, (Address("d", "a"),)))] == [None]
    assert (await subject.perform(AcquireLease(store, "report", "c", 5000))).token > lease.token
    ((name, _, _, is_attached),) = await subject.perform(ListBots(store))
    assert (name, is_attached) == ("bot", False)


async def test_numbers_at_the_edge(shop, client, prefix):
    """Lua has doubles only: up to 2^53 they are exact, and none is ever written as 1.7e+15."""
    subject, store = shop
    client.hset(f"{{{prefix}:{store}}}:meta", "head", 2**53 - 5)
    reply = await subject.perform(Commit(store, (Put("d", "a", b"1"), Put("d", "b", b"9007199254740993"))))
    assert reply.versions == (2**53 - 4, 2**53 - 3)
    changes = (await subject.perform(Changes(store, 2**53 - 4))).changes
    assert [(change.key, change.version, change.value) for change in changes] == [("b", 2**53 - 3, b"9007199254740993")]


async def test_what_comes_after_a_lost_tail_has_later_versions_than_what_was_lost(connect, make_server):
    server = make_server("--save", "3600 1000000")
    subject = connect(server.url)
    store = await subject.perform(OpenStore("shop", "create"))
    await subject.perform(Commit(store.id, (Put("d", "kept", b"1"),)))
    with server.client() as client:
        client.save()
    (lost,) = (await subject.perform(Commit(store.id, (Put("d", "lost", b"1"),)))).versions
    server.restart()
    assert await subject.perform(GetMany(store.id, (Address("d", "lost"),))) == (None,)
    reply = await subject.perform(Commit(store.id, (Put("d", "after", b"1"),)))
    assert reply.versions[0] > lost
    seen = await subject.perform(Changes(store.id, lost))
    assert [change.key for change in seen.changes] == ["after"], "who had seen what was lost sees what came then"
    assert seen.incarnation == store.incarnation


async def test_who_had_seen_a_store_that_was_lost_knows_it_again_by_its_incarnation(connect, make_server):
    server = make_server()
    subject = connect(server.url)
    store = await subject.perform(OpenStore("shop", "ensure"))
    await subject.perform(Commit(store.id, (Put("d", "k", b"1"),)))
    server.restart()
    with pytest.raises(StoreNotFoundError):
        await subject.perform(Commit(store.id, (Put("d", "k", b"2"),)))
    again = await subject.perform(OpenStore("shop", "ensure"))
    assert again.incarnation != store.incarnation
