"""Changes and Sweep: the feed, its horizon, and what time takes away."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.errors import StoreNotFoundError
from ptb_kvpersistence.model import Changes, Commit, Count, Delete, KeyRange, OpenStore, Put, Sweep


async def test_the_latest_change_of_each_key_in_version_order(backend, store, put):
    first, _ = await put(a=b"1", b=b"2")
    await put("e", a=b"3")
    await put(a=b"4")
    await backend.perform(Commit(store, (Delete("d", "b"),)))
    reply = await backend.perform(Changes(store, 0))
    assert [(change.domain, change.key, change.value) for change in reply.changes] == [
        ("e", "a", b"3"),
        ("d", "a", b"4"),
        ("d", "b", None),
    ]
    versions = [change.version for change in reply.changes]
    assert versions == sorted(versions)
    assert reply.head == versions[-1]
    assert reply.horizon < first
    assert not reply.more


async def test_only_what_came_after_the_cursor(backend, store, put):
    first, second = await put(a=b"1", b=b"2")
    assert [change.key for change in (await backend.perform(Changes(store, first))).changes] == ["b"]
    reply = await backend.perform(Changes(store, second))
    assert reply.changes == []
    assert reply.head >= second
    (third,) = await put(c=b"3")
    assert [change.version for change in (await backend.perform(Changes(store, reply.head))).changes] == [third]


async def test_pages_of_the_feed_miss_nothing(backend, store):
    keys = [f"k{number}" for number in range(25)]
    for key in keys:
        await backend.perform(Commit(store, (Put("d", key, b"0"), Put("other", key, b"0"))))
    for domains in (None, ("d",), ("d", "nowhere"), ("other", "d")):
        seen, cursor, more = [], 0, True
        while more:
            reply = await backend.perform(Changes(store, cursor, domains, 4))
            assert len(reply.changes) == 4 or not reply.more
            if reply.more:
                assert reply.head == reply.changes[-1].version
            seen.extend((change.domain, change.key) for change in reply.changes)
            cursor, more = reply.head, reply.more
        wanted = ("d", "other") if domains is None else domains
        assert seen == [(domain, key) for key in keys for domain in ("d", "other") if domain in wanted]


async def test_other_domains_move_the_head_all_the_same(backend, store, put):
    await put("e", a=b"1")
    (version,) = await put("f", a=b"2")
    reply = await backend.perform(Changes(store, 0, ("d",)))
    assert reply.changes == []
    assert reply.head >= version
    assert (await backend.perform(Changes(store, 0, ()))).changes == []


async def test_a_store_sees_only_its_own_changes(backend, store, put):
    other = await backend.perform(OpenStore("other", "create"))
    await put(a=b"1")
    reply = await backend.perform(Changes(other.id, 0))
    assert reply.changes == []
    assert reply.incarnation == other.incarnation
    cursor = reply.head
    await put(b=b"1")
    await backend.perform(Commit(other.id, (Put("d", "c", b"2"),)))
    assert [change.key for change in (await backend.perform(Changes(other.id, cursor))).changes] == ["c"]


async def test_changes_of_an_unknown_store(backend, store):
    with pytest.raises(StoreNotFoundError):
        await backend.perform(Changes(store + 1000, 0))


async def test_the_feed_says_how_long_an_entry_lives(backend, store, clock):
    await backend.perform(Commit(store, (Put("d", "a", b"1", 10, clock.now + 10),)))
    (change,) = (await backend.perform(Changes(store, 0))).changes
    assert (change.updated_at, change.ttl, change.expires_at) == (clock.now, 10, clock.now + 10)


async def test_sweep_turns_expired_entries_into_deletions(backend, store, clock, head, witness):
    await backend.perform(
        Commit(
            store,
            (Put("d", "a", b"1", 10, clock.now + 10), Put("d", "b", b"2", 20, clock.now + 20), Put("d", "c", b"3")),
        )
    )
    before = await head()
    assert await backend.perform(Sweep()) == 0
    assert await head() == before
    clock.now += 10
    assert await backend.perform(Sweep()) == 1
    (change,) = (await backend.perform(Changes(store, before))).changes
    assert (change.key, change.value) == ("a", None)
    assert witness.tombstones() == {("shop", "d", "a")}
    assert witness.entries() == {("shop", "d", "b"): b"2", ("shop", "d", "c"): b"3"}
    assert await backend.perform(Sweep()) == 0


async def test_sweep_takes_at_most_so_many(backend, store, clock, witness):
    await backend.perform(Commit(store, tuple(Put("d", f"{number}", b"0", 1, clock.now + 1) for number in range(5))))
    clock.now += 1
    assert await backend.perform(Sweep(2)) == 2
    assert len(witness.entries()) == 3
    assert await backend.perform(Sweep(2)) == 2
    assert await backend.perform(Sweep(2)) == 1


async def test_old_tombstones_go_and_the_horizon_tells(backend, store, put, clock, witness):
    first, _ = await put(a=b"1", b=b"2")
    (gone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
    clock.now += TOMBSTONE_LIFETIME
    (later,) = (await backend.perform(Commit(store, (Delete("d", "b"),)))).versions
    assert await backend.perform(Sweep()) == 0
    assert (await backend.perform(Changes(store, 0))).horizon < first
    clock.now += 1
    assert await backend.perform(Sweep()) == 1
    assert witness.tombstones() == {("shop", "d", "b")}
    reply = await backend.perform(Changes(store, 0))
    assert reply.horizon == gone
    assert [change.version for change in reply.changes] == [later]
    clock.now += TOMBSTONE_LIFETIME
    await backend.perform(Sweep())
    reply = await backend.perform(Changes(store, gone))
    assert (reply.changes, reply.horizon) == ([], later)
    assert reply.head >= later


async def test_versions_go_on_after_everything_was_forgotten(backend, store, put, clock):
    await put(a=b"1")
    (gone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
    clock.now += TOMBSTONE_LIFETIME + 1
    await backend.perform(Sweep())
    assert await backend.perform(Count(store, KeyRange("d"))) == 0
    (version,) = await put(a=b"2")
    assert version > gone


async def test_old_commit_ids_are_forgotten(backend, store, clock, witness):
    await backend.perform(Commit(store, (Put("d", "a", b"1"),), (), "old"))
    clock.now += TOMBSTONE_LIFETIME
    await backend.perform(Commit(store, (Put("d", "a", b"2"),), (), "new"))
    clock.now += 1
    await backend.perform(Sweep())
    assert witness.commits() == {"new"}
