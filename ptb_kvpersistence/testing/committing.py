"""Commit: versions, checks, all or nothing, and that it is applied once."""

from __future__ import annotations

from typing import Any

import pytest

from ptb_kvpersistence.errors import StoreNotFoundError
from ptb_kvpersistence.model import (
    Address,
    Changes,
    Commit,
    CommitReply,
    Count,
    Delete,
    GetMany,
    KeyRange,
    OpenStore,
    Put,
    RangeCheck,
    VersionCheck,
)
from ptb_kvpersistence.testing.faces import Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Connect, Head, Suite, Write, proves


class Committing(Suite):
    """All of a commit or nothing, and only if its checks hold."""

    guarantee = "atomic commit"

    async def test_versions_grow_and_are_never_used_twice(self, backend: Subject, store: int, put: Write) -> None:
        other = (await backend.perform(OpenStore("other", "create"))).id
        await backend.perform(Commit(other, (Put("d", "a", b"5"),)))
        seen = list(await put(a=b"1", b=b"2"))
        seen += (await backend.perform(Commit(store, (Put("d", "a", b"3"), Put("d", "a", b"4"))))).versions
        seen += (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
        seen += await put(a=b"6")
        assert seen == sorted(set(seen))
        assert seen[0] > 0
        (record,) = await backend.perform(GetMany(store, (Address("d", "a"),)))
        assert record is not None
        assert record.version == seen[-1]

    async def test_the_reply_has_a_version_per_mutation(self, backend: Subject, store: int, put: Write) -> None:
        (known,) = await put(a=b"1")
        reply = await backend.perform(
            Commit(store, (Put("d", "b", b"2"), Delete("d", "no"), Delete("d", "a"), Put("e", "a", b"3")))
        )
        assert reply.is_committed
        assert len(reply.versions) == 4
        assert reply.versions[1] == 0
        assert known < reply.versions[0] < reply.versions[2] < reply.versions[3]
        records = await backend.perform(GetMany(store, (Address("d", "b"), Address("e", "a"))))
        assert [record.version for record in records] == [reply.versions[0], reply.versions[3]]

    async def test_deleting_nothing_changes_nothing(
        self, backend: Subject, store: int, put: Write, head: Head, witness: Witness
    ) -> None:
        await put(a=b"1")
        await backend.perform(Commit(store, (Delete("d", "a"),)))
        before = await head()
        assert (await backend.perform(Commit(store, (Delete("d", "a"), Delete("d", "never"))))).versions == (0, 0)
        assert await head() == before
        assert witness.tombstones() == {("shop", "d", "a")}

    async def test_the_last_mutation_of_a_key_wins(self, backend: Subject, store: int, witness: Witness) -> None:
        mutations = (
            Put("d", "a", b"1"),
            Put("d", "a", b"2"),
            Put("d", "b", b"3"),
            Delete("d", "b"),
            Delete("d", "c"),
            Put("d", "c", b"4"),
        )
        await backend.perform(Commit(store, mutations))
        assert witness.entries() == {("shop", "d", "a"): b"2", ("shop", "d", "c"): b"4"}

    async def test_a_deleted_key_can_be_written_again(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        (first,) = await put(a=b"1")
        (gone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),)))
        assert reply.is_committed
        assert reply.versions[0] > gone > first
        assert witness.entries() == {("shop", "d", "a"): b"2"}
        assert witness.tombstones() == set()

    async def test_an_overwritten_entry_loses_its_lifetime(self, backend: Subject, store: int, place: Place) -> None:
        await backend.perform(Commit(store, (Put("d", "a", b"1", 10_000),)))
        await backend.perform(Commit(store, (Put("d", "a", b"2"),)))
        place.pass_time(100)
        (record,) = await backend.perform(GetMany(store, (Address("d", "a"),)))
        assert (record.value, record.ttl, record.expires_at) == (b"2", None, None)

    async def test_checks_that_hold(self, backend: Subject, store: int, put: Write) -> None:
        first, second = await put(a=b"1", b=b"2")
        checks = (
            VersionCheck("d", "a", first),
            VersionCheck("d", "b", second),
            VersionCheck("d", "new", 0),
            RangeCheck(KeyRange("d"), second),
        )
        reply = await backend.perform(Commit(store, (Put("d", "a", b"3"),), checks))
        assert reply.is_committed
        assert not reply.applied_before

    @pytest.mark.parametrize("count", [1, 2, 700])
    async def test_one_check_that_fails_stops_everything(
        self, backend: Subject, store: int, witness: Witness, count: Any
    ) -> None:
        keys = [f"k{number}" for number in range(count)]
        versions = (await backend.perform(Commit(store, tuple(Put("d", key, b"0") for key in keys)))).versions
        await backend.perform(Commit(store, (Put("d", keys[-1], b"1"),)))
        before = witness.entries()
        checks = tuple(VersionCheck("d", key, version) for key, version in zip(keys, versions, strict=True))
        reply = await backend.perform(Commit(store, tuple(Put("d", key, b"2") for key in keys), checks))
        assert not reply.is_committed
        assert reply.versions == ()
        assert {address: record.value for address, record in reply.conflicts.items()} == {Address("d", keys[-1]): b"1"}
        assert witness.entries() == before

    async def test_conflicts_give_the_current_records(
        self, backend: Subject, store: int, put: Write, head: Head
    ) -> None:
        first, second = await put(a=b"1", b=b"2")
        await backend.perform(Commit(store, (Delete("d", "b"), Put("d", "c", b"3"))))
        before = await head()
        checks = tuple(
            VersionCheck("d", key, version) for key, version in (("a", first), ("b", second), ("c", 0), ("no", 7))
        )
        reply = await backend.perform(Commit(store, (Put("d", "a", b"9"),), checks))
        assert not reply.is_committed
        assert {address.key: record and record.value for address, record in reply.conflicts.items()} == {
            "b": None,
            "c": b"3",
            "no": None,
        }
        assert await head() == before

    async def test_the_version_of_another_entry_is_not_enough(self, backend: Subject, store: int, put: Write) -> None:
        first, second = await put(a=b"1", b=b"2")
        (elsewhere,) = await put("e", a=b"3")
        for check in (
            VersionCheck("d", "b", first),
            VersionCheck("d", "no", second),
            VersionCheck("d", "a", elsewhere),
        ):
            reply = await backend.perform(Commit(store, (Put("d", "b", b"9"),), (check,)))
            assert list(reply.conflicts) == [Address(check.domain, check.key)]

    async def test_the_version_of_another_store_is_not_enough(self, backend: Subject, store: int) -> None:
        other = (await backend.perform(OpenStore("other", "create"))).id
        (version,) = (await backend.perform(Commit(other, (Put("d", "a", b"1"),)))).versions
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),)))
        assert reply.conflicts == {Address("d", "a"): None}

    async def test_an_old_version_is_not_enough(self, backend: Subject, store: int, put: Write) -> None:
        (first,) = await put(a=b"1")
        (second,) = await put(a=b"1")
        assert (await backend.perform(Commit(store, (), (VersionCheck("d", "a", first),)))).conflicts
        assert (await backend.perform(Commit(store, (), (VersionCheck("d", "a", second),)))).is_committed

    async def test_the_version_of_a_deletion_is_no_version(self, backend: Subject, store: int, put: Write) -> None:
        await put(a=b"1")
        (tombstone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", tombstone),)))
        assert reply.conflicts == {Address("d", "a"): None}

    async def test_an_expired_entry_counts_as_absent(self, backend: Subject, store: int, place: Place) -> None:
        (version,) = (await backend.perform(Commit(store, (Put("d", "a", b"1", 10_000),)))).versions
        place.pass_time(10)
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),)))
        assert reply.conflicts == {Address("d", "a"): None}
        assert (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions == (0,)
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),)))
        assert reply.is_committed

    @pytest.mark.parametrize("change", ["write", "overwrite", "delete", "expire"])
    async def test_a_range_check_sees_every_kind_of_change(
        self, backend: Subject, store: int, place: Place, witness: Witness, change: Any
    ) -> None:
        await backend.perform(Commit(store, (Put("d", "b", b"1"), Put("d", "c", b"1", 10_000), Put("d", "x", b"1"))))
        since = (await backend.perform(Changes(store, 0))).head
        check = RangeCheck(KeyRange("d", "b", "d"), since)
        assert (await backend.perform(Commit(store, (Put("d", "x", b"2"), Put("e", "b", b"2")), (check,)))).is_committed
        if change == "write":
            await backend.perform(Commit(store, (Put("d", "bb", b"3"),)))
        elif change == "overwrite":
            await backend.perform(Commit(store, (Put("d", "b", b"3"),)))
        elif change == "delete":
            await backend.perform(Commit(store, (Delete("d", "b"),)))
        else:
            place.pass_time(10)
        before = witness.entries()
        reply = await backend.perform(Commit(store, (Put("d", "x", b"4"),), (check,)))
        assert reply.range_conflict
        assert not reply.is_committed
        assert witness.entries() == before

    async def test_a_store_that_does_not_exist(self, backend: Subject, store: int, witness: Witness) -> None:
        with pytest.raises(StoreNotFoundError, match="open or create"):
            await backend.perform(Commit(store + 1000, (Put("d", "a", b"1"),), (), "id-1"))
        assert witness.commits() == set()
        assert witness.entries() == {}

    @proves("largest commit")
    async def test_a_large_commit(self, backend: Subject, store: int, witness: Witness) -> None:
        puts = tuple(Put("d", f"{number:05}", b"%d" % number) for number in range(5000))
        reply = await backend.perform(Commit(store, puts))
        assert len(set(reply.versions)) == 5000
        assert await backend.perform(Count(store, KeyRange("d"))) == 5000
        assert len(witness.entries()) == 5000
        deletes = tuple(Delete("d", put.key) for put in puts[1:])
        checks = tuple(VersionCheck("d", put.key, version) for put, version in zip(puts, reply.versions, strict=True))
        assert (await backend.perform(Commit(store, deletes, checks))).is_committed
        assert set(witness.entries()) == {("shop", "d", "00000")}


class CommittingOnce(Suite):
    """The outcome after a cut connection: the same commit sent again."""

    guarantee = "commit once"

    async def test_a_commit_that_is_sent_twice_is_applied_once(
        self, connect: Connect, backend: Subject, store: int, witness: Witness
    ) -> None:
        commit = Commit(store, (Put("d", "a", b"1"),), (), "id-1")
        first = await backend.perform(commit)
        assert not first.applied_before
        await backend.perform(Commit(store, (Put("d", "a", b"2"),)))
        for again in (backend, connect()):
            reply = await again.perform(commit)
            assert reply.applied_before
            assert reply.is_committed
            assert reply.versions == ()
        assert witness.entries() == {("shop", "d", "a"): b"2"}

    async def test_an_applied_id_is_found_though_its_checks_would_fail_now(self, backend: Subject, store: int) -> None:
        commit = Commit(store, (Put("d", "a", b"1"),), (VersionCheck("d", "a", 0),), "id-1")
        assert (await backend.perform(commit)).is_committed
        assert (await backend.perform(commit)).applied_before

    async def test_an_empty_commit_claims_the_id(self, backend: Subject, store: int, witness: Witness) -> None:
        assert (await backend.perform(Commit(store, (), (), "id-1"))) == CommitReply()
        assert (await backend.perform(Commit(store, (Put("d", "a", b"1"),), (), "id-1"))).applied_before
        assert witness.entries() == {}
        assert witness.commits() == {"id-1"}

    async def test_a_commit_that_failed_its_checks_does_not_use_up_the_id(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        (version,) = await put(a=b"1")
        refused = Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),), "id-1")
        assert not (await backend.perform(refused)).is_committed
        assert witness.commits() == set()
        reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),), "id-1"))
        assert reply.is_committed
        assert not reply.applied_before
