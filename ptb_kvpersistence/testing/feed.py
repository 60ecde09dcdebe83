"""Changes and Sweep: the feed, its horizon, and what time takes away."""

from __future__ import annotations

import asyncio

import pytest

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.errors import StoreNotFoundError
from ptb_kvpersistence.model import Changes, Commit, Count, Delete, KeyRange, OpenStore, Put, Sweep
from ptb_kvpersistence.testing.faces import Face, Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Connect, Head, Suite, Write, proves

LIFETIME = TOMBSTONE_LIFETIME / 1000


class Feed(Suite):
    """The latest change of each key in version order, from any version above the horizon."""

    guarantee = "change feed"

    async def test_the_feed_gives_the_latest_change_of_each_key_in_version_order(
        self, backend: Subject, store: int, put: Write
    ) -> None:
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

    async def test_only_what_came_after_the_cursor(self, backend: Subject, store: int, put: Write) -> None:
        first, second = await put(a=b"1", b=b"2")
        assert [change.key for change in (await backend.perform(Changes(store, first))).changes] == ["b"]
        reply = await backend.perform(Changes(store, second))
        assert reply.changes == []
        assert reply.head >= second
        (third,) = await put(c=b"3")
        assert [change.version for change in (await backend.perform(Changes(store, reply.head))).changes] == [third]

    async def test_pages_of_the_feed_miss_nothing(self, backend: Subject, store: int) -> None:
        keys = [f"k{number}" for number in range(25)]
        for key in keys:
            await backend.perform(Commit(store, (Put("d", key, b"0"), Put("other", key, b"0"))))
        for domains in (None, ("d",), ("d", "nowhere"), ("other", "d")):
            seen: list[tuple[str, str]] = []
            cursor, more = 0, True
            while more:
                reply = await backend.perform(Changes(store, cursor, domains, 4))
                assert len(reply.changes) == 4 or not reply.more
                if reply.more:
                    assert reply.head == reply.changes[-1].version
                seen.extend((change.domain, change.key) for change in reply.changes)
                cursor, more = reply.head, reply.more
            wanted = ("d", "other") if domains is None else domains
            assert seen == [(domain, key) for key in keys for domain in ("d", "other") if domain in wanted]

    async def test_other_domains_move_the_head_all_the_same(self, backend: Subject, store: int, put: Write) -> None:
        await put("e", a=b"1")
        (version,) = await put("f", a=b"2")
        reply = await backend.perform(Changes(store, 0, ("d",)))
        assert reply.changes == []
        assert reply.head >= version
        assert (await backend.perform(Changes(store, 0, ()))).changes == []

    async def test_a_store_sees_only_its_own_changes(self, backend: Subject, store: int, put: Write) -> None:
        other = await backend.perform(OpenStore("other", "create"))
        await put(a=b"1")
        reply = await backend.perform(Changes(other.id, 0))
        assert reply.changes == []
        assert reply.incarnation == other.incarnation
        cursor = reply.head
        await put(b=b"1")
        await backend.perform(Commit(other.id, (Put("d", "c", b"2"),)))
        assert [change.key for change in (await backend.perform(Changes(other.id, cursor))).changes] == ["c"]

    async def test_changes_of_an_unknown_store(self, backend: Subject, store: int) -> None:
        with pytest.raises(StoreNotFoundError):
            await backend.perform(Changes(store + 1000, 0))

    @proves("expiry")
    async def test_sweep_turns_expired_entries_into_deletions(
        self, backend: Subject, store: int, place: Place, head: Head, witness: Witness
    ) -> None:
        await backend.perform(
            Commit(
                store,
                (Put("d", "a", b"1", 10_000), Put("d", "b", b"2", 20_000), Put("d", "c", b"3")),
            )
        )
        before = await head()
        assert await backend.perform(Sweep()) == 0
        assert await head() == before
        place.pass_time(10)
        assert await backend.perform(Sweep()) == 1
        (change,) = (await backend.perform(Changes(store, before))).changes
        assert (change.key, change.value) == ("a", None)
        assert witness.tombstones() == {("shop", "d", "a")}
        assert witness.entries() == {("shop", "d", "b"): b"2", ("shop", "d", "c"): b"3"}
        assert await backend.perform(Sweep()) == 0

    @proves("expiry")
    async def test_sweep_takes_at_most_so_many(
        self, backend: Subject, store: int, place: Place, witness: Witness
    ) -> None:
        await backend.perform(Commit(store, tuple(Put("d", f"{number}", b"0", 1_000) for number in range(5))))
        place.pass_time(1)
        assert await backend.perform(Sweep(2)) == 2
        assert len(witness.entries()) == 3
        assert await backend.perform(Sweep(2)) == 2
        assert await backend.perform(Sweep(2)) == 1

    async def test_the_feed_says_how_long_an_entry_lives(self, backend: Subject, store: int) -> None:
        await backend.perform(Commit(store, (Put("d", "a", b"1", 10_000),)))
        (change,) = (await backend.perform(Changes(store, 0))).changes
        assert (change.ttl, change.expires_at) == (10_000, change.updated_at + 10_000)

    async def test_old_tombstones_go_and_the_horizon_tells(
        self, backend: Subject, store: int, put: Write, place: Place, witness: Witness
    ) -> None:
        first, _ = await put(a=b"1", b=b"2")
        (gone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
        place.pass_time(LIFETIME - 3600)
        (later,) = (await backend.perform(Commit(store, (Delete("d", "b"),)))).versions
        assert await backend.perform(Sweep()) == 0
        assert (await backend.perform(Changes(store, 0))).horizon < first
        place.pass_time(3601)
        assert await backend.perform(Sweep()) == 1
        assert witness.tombstones() == {("shop", "d", "b")}
        reply = await backend.perform(Changes(store, 0))
        assert gone <= reply.horizon < later
        assert [change.version for change in reply.changes] == [later]
        place.pass_time(LIFETIME)
        await backend.perform(Sweep())
        reply = await backend.perform(Changes(store, gone))
        assert reply.changes == []
        assert reply.horizon >= later
        assert reply.head >= later

    async def test_pages_below_the_horizon_miss_nothing_that_is_there(
        self, backend: Subject, store: int, put: Write, place: Place
    ) -> None:
        """Who reads a store from its beginning goes through versions below the horizon."""
        for number in range(9):
            await put("d", **{f"k{number}": b"1"})
        await backend.perform(Commit(store, (Delete("d", "k3"),)))
        place.pass_time(LIFETIME + 1)
        await backend.perform(Sweep())
        seen: list[str] = []
        cursor, more = 0, True
        while more:
            reply = await backend.perform(Changes(store, cursor, None, 3))
            assert not reply.more or reply.head == reply.changes[-1].version
            seen.extend(change.key for change in reply.changes)
            cursor, more = reply.head, reply.more
        assert seen == [f"k{number}" for number in range(9) if number != 3]
        assert cursor >= reply.horizon

    async def test_versions_go_on_after_everything_was_forgotten(
        self, backend: Subject, store: int, put: Write, place: Place
    ) -> None:
        await put(a=b"1")
        (gone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
        place.pass_time(LIFETIME + 1)
        await backend.perform(Sweep())
        assert await backend.perform(Count(store, KeyRange("d"))) == 0
        (version,) = await put(a=b"2")
        assert version > gone

    @proves("commit once")
    async def test_ids_are_remembered_for_a_week_and_then_forgotten(
        self, backend: Subject, store: int, place: Place, witness: Witness
    ) -> None:
        old = Commit(store, (Put("d", "a", b"1"),), (), "old")
        await backend.perform(old)
        place.pass_time(LIFETIME - 3600)
        await backend.perform(Commit(store, (Put("d", "a", b"2"),), (), "new"))
        await backend.perform(Sweep())
        assert (await backend.perform(old)).applied_before
        place.pass_time(3601)
        await backend.perform(Sweep())
        assert witness.commits() == {"new"}

    async def test_a_reader_beside_writers_misses_nothing(
        self, face: Face, connect: Connect, backend: Subject, store: int
    ) -> None:
        """What is read up to the head is all there ever will be up to there, whoever commits when."""
        writers, done, seen = [connect() for _ in range(3)], 0, set()

        async def write(number: int) -> None:
            nonlocal done
            for count in range(30):
                puts = tuple(Put("d", f"{number}-{count}-{part}", b"1") for part in range(2))
                await writers[number].perform(Commit(store, puts))
            done += 1

        jobs = [face.start(lambda number=number: write(number)) for number in range(3)]  # type: ignore[misc]
        cursor = 0
        while True:
            last = done == len(writers)
            reply = await backend.perform(Changes(store, cursor))
            for change in reply.changes:
                assert change.version > cursor
                seen.add(change.key)
            cursor = max(cursor, reply.head)
            if last and not reply.changes:
                break
            await asyncio.sleep(0)
        await asyncio.gather(*jobs)
        assert len(seen) == 180
