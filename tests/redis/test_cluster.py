"""A cluster: nodes that fail over, and slots that move while somebody writes."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.crc import key_slot

from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.model import Address, Changes, Commit, Count, GetMany, KeyRange, ListStores, OpenStore, Put
from tests.servers import valkey


@pytest.fixture
def cluster(tmp_path):
    cluster = valkey.Cluster(tmp_path, replicas=True, node_timeout=500)
    try:
        yield cluster.start()
    finally:
        cluster.kill()


async def test_any_node_is_enough_to_find_the_others(connect, valkey_cluster):
    for server in valkey_cluster.servers:
        subject = connect(f"redis://127.0.0.1:{server.port}?prefix=any")
        for name in ("a", "b", "c"):
            store = (await subject.perform(OpenStore(name, "ensure"))).id
            await subject.perform(Commit(store, (Put("d", "k", b"1"),)))
    assert [info.name for info in await subject.perform(ListStores())] == ["a", "b", "c"]
    assert len({valkey_cluster.owner(f"{{any:{info.id}}}").port for info in await subject.perform(ListStores())}) > 0
    with valkey_cluster.client() as client:
        valkey.remove(client, "any")


async def test_a_failover_under_load(connect, cluster):
    subject = connect(cluster.url, timeout=30)
    store = await subject.perform(OpenStore("shop", "create"))
    cursor = (await subject.perform(Commit(store.id, (Put("d", "first", b"1"),)))).versions[0]
    token = await settled(subject)
    victim = cluster.owner(f"{{kv:{store.id}}}")
    versions = [cursor]
    for number in range(60):
        if number == 20:
            victim.kill()
        reply = await subject.perform(Commit(store.id, (Put("d", f"{number}", b"1"),)))
        versions.append(reply.versions[0])
    assert versions == sorted(set(versions))
    assert cluster.owner(f"{{kv:{store.id}}}") is not victim
    after = await subject.perform(OpenStore("shop"))
    assert after.incarnation == store.incarnation
    reply = await subject.perform(Changes(store.id, cursor))
    # What was acknowledged just before the end may have died with the old master; everything later is there.
    assert [change.key for change in reply.changes][-40:] == [f"{number}" for number in range(20, 60)]
    assert await settled(subject) != token
    victim.start()
    await asyncio.sleep(1)
    assert (await subject.perform(Commit(store.id, (Put("d", "after", b"1"),)))).is_committed


async def settled(subject, max_age=0.3, timeout=10):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        token = subject.raw.peek(max_age)
        if token is not None:
            return token
        await asyncio.sleep(0.02)
    return None


async def test_a_master_without_a_replica_dies(connect, cluster):
    subject = connect(cluster.url)
    store = await subject.perform(OpenStore("shop", "create"))
    victim = cluster.owner(f"{{kv:{store.id}}}")
    index = cluster.servers.index(victim)
    cluster.servers[index + 3].kill()
    victim.kill()
    started = time.monotonic()
    with pytest.raises(DatabaseError):
        await subject.perform(Commit(store.id, (Put("d", "k", b"1"),)), 1.5)
    assert time.monotonic() - started < 4
    victim.start()
    assert (await subject.perform(Commit(store.id, (Put("d", "k", b"1"),)), 20)).is_committed


async def test_slots_that_move_while_somebody_writes(connect, valkey_cluster):
    subject = connect(f"{valkey_cluster.url}?prefix=move", timeout=20)
    store = (await subject.perform(OpenStore("shop", "create"))).id
    await subject.perform(Commit(store, tuple(Put("d", f"early {number}", b"1") for number in range(50))))
    session = subject.raw.exclusive(store, 5)
    session = await session if asyncio.iscoroutine(session) else session
    ended = session.end(Commit(store, (Put("d", "session", b"1"),)))
    if ended is not None:
        await ended
    tag = f"{{move:{store}}}"
    source = valkey_cluster.owner(tag)
    target = next(server for server in valkey_cluster.servers if server is not source)
    written = asyncio.create_task(write(subject, store))
    await asyncio.to_thread(move, valkey_cluster, tag, source, target)
    versions = await written
    assert versions == sorted(set(versions))
    assert valkey_cluster.owner(tag) is target
    assert await subject.perform(Count(store, KeyRange("d"))) == 50 + 1 + len(versions)
    (record,) = await subject.perform(GetMany(store, (Address("d", "k199"),)))
    assert record.version == versions[-1]
    move(valkey_cluster, tag, target, source)
    with valkey_cluster.client() as client:
        valkey.remove(client, "move")


async def write(subject, store):
    versions = []
    for number in range(200):
        versions.append((await subject.perform(Commit(store, (Put("d", f"k{number}", b"1"),)))).versions[0])
        await asyncio.sleep(0.002)
    return versions


def move(cluster, tag, source, target):
    """What redis-cli does to move a slot, slowly."""
    slot = key_slot(tag.encode())
    with source.client() as old, target.client() as new:
        old_id, new_id = (client.execute_command("CLUSTER", "MYID").decode() for client in (old, new))
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        time.sleep(0.1)
        while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 2):
            old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(0.02)
        for client in (new, old):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new_id)
    for server in cluster.servers:
        if server not in (source, target):
            with server.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new_id)


async def test_notifications_find_the_new_master_of_somebody_elses_store(connect, cluster):
    subject = connect(cluster.url, timeout=30)
    store = await subject.perform(OpenStore("shop", "create"))
    assert await settled(subject) is not None
    mine = {cluster.owner(f"{{kv:{store.id}}}"), cluster.owner("{kv}")}
    next(server for server in cluster.servers[:3] if server not in mine).kill()
    await asyncio.sleep(0.5)
    assert await settled(subject, timeout=15) is not None
