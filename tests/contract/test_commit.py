"""Commit: all or nothing, checks, versions, ids."""

from __future__ import annotations

import random

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
    Page,
    Put,
    RangeCheck,
    VersionCheck,
)


async def test_versions_grow_and_are_never_used_twice(backend, store, put):
    other = (await backend.perform(OpenStore("other", "create"))).id
    seen = list(await put(a=b"1", b=b"2"))
    seen += (await backend.perform(Commit(store, (Put("d", "a", b"3"), Put("d", "a", b"4"))))).versions
    seen += (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
    seen += (await backend.perform(Commit(other, (Put("d", "a", b"5"),)))).versions
    seen += await put(a=b"6")
    assert seen == sorted(set(seen))
    assert seen[0] > 0
    (record,) = await backend.perform(GetMany(store, (Address("d", "a"),)))
    assert record.version == seen[-1]


async def test_the_reply_has_a_version_per_mutation(backend, store, put):
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


async def test_deleting_nothing_changes_nothing(backend, store, put, head, witness):
    await put(a=b"1")
    await backend.perform(Commit(store, (Delete("d", "a"),)))
    before = await head()
    assert (await backend.perform(Commit(store, (Delete("d", "a"), Delete("d", "never"))))).versions == (0, 0)
    assert await head() == before
    assert witness.tombstones() == {("shop", "d", "a")}


async def test_the_last_mutation_of_a_key_wins(backend, store, witness):
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


async def test_a_deleted_key_can_be_written_again(backend, store, put, witness):
    (first,) = await put(a=b"1")
    await backend.perform(Commit(store, (Delete("d", "a"),)))
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),)))
    assert reply.is_committed
    assert reply.versions[0] > first
    assert witness.entries() == {("shop", "d", "a"): b"2"}
    assert witness.tombstones() == set()


async def test_an_overwritten_entry_loses_its_lifetime(backend, store, clock):
    await backend.perform(Commit(store, (Put("d", "a", b"1", 10, clock.now + 10),)))
    await backend.perform(Commit(store, (Put("d", "a", b"2"),)))
    clock.now += 100
    (record,) = await backend.perform(GetMany(store, (Address("d", "a"),)))
    assert (record.value, record.ttl, record.expires_at) == (b"2", None, None)


# --- checks ---


async def test_checks_that_hold(backend, store, put):
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
async def test_one_check_that_fails_stops_everything(backend, store, witness, count):
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


async def test_conflicts_give_the_current_records(backend, store, put, head):
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


async def test_the_version_of_another_entry_is_not_enough(backend, store, put):
    first, second = await put(a=b"1", b=b"2")
    (elsewhere,) = await put("e", a=b"3")
    for check in (VersionCheck("d", "b", first), VersionCheck("d", "no", second), VersionCheck("d", "a", elsewhere)):
        reply = await backend.perform(Commit(store, (Put("d", "b", b"9"),), (check,)))
        assert list(reply.conflicts) == [Address(check.domain, check.key)]


async def test_the_version_of_another_store_is_not_enough(backend, store):
    other = (await backend.perform(OpenStore("other", "create"))).id
    (version,) = (await backend.perform(Commit(other, (Put("d", "a", b"1"),)))).versions
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),)))
    assert reply.conflicts == {Address("d", "a"): None}


async def test_an_old_version_is_not_enough(backend, store, put):
    (first,) = await put(a=b"1")
    (second,) = await put(a=b"1")
    assert (await backend.perform(Commit(store, (), (VersionCheck("d", "a", first),)))).conflicts
    assert (await backend.perform(Commit(store, (), (VersionCheck("d", "a", second),)))).is_committed


async def test_the_version_of_a_deletion_is_no_version(backend, store, put):
    await put(a=b"1")
    (tombstone,) = (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", tombstone),)))
    assert reply.conflicts == {Address("d", "a"): None}


async def test_an_expired_entry_counts_as_absent(backend, store, clock):
    (version,) = (await backend.perform(Commit(store, (Put("d", "a", b"1", 10, clock.now + 10),)))).versions
    clock.now += 10
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),)))
    assert reply.conflicts == {Address("d", "a"): None}
    assert (await backend.perform(Commit(store, (Delete("d", "a"),)))).versions == (0,)
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),)))
    assert reply.is_committed


@pytest.mark.parametrize("change", ["write", "overwrite", "delete", "expire"])
async def test_a_range_check_sees_every_kind_of_change(backend, store, clock, witness, change):
    await backend.perform(
        Commit(store, (Put("d", "b", b"1"), Put("d", "c", b"1", 10, clock.now + 10), Put("d", "x", b"1")))
    )
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
        clock.now += 10
    before = witness.entries()
    reply = await backend.perform(Commit(store, (Put("d", "x", b"4"),), (check,)))
    assert reply.range_conflict
    assert not reply.is_committed
    assert witness.entries() == before


# --- ids ---


async def test_a_commit_that_is_sent_twice_is_applied_once(place, backend, store, witness):
    commit = Commit(store, (Put("d", "a", b"1"),), (), "id-1")
    first = await backend.perform(commit)
    assert not first.applied_before
    await backend.perform(Commit(store, (Put("d", "a", b"2"),)))
    for again in (backend, place.open()):
        reply = await again.perform(commit)
        assert reply.applied_before
        assert reply.is_committed
        assert reply.versions == ()
    assert witness.entries() == {("shop", "d", "a"): b"2"}


async def test_an_applied_id_is_found_though_its_checks_would_fail_now(backend, store):
    commit = Commit(store, (Put("d", "a", b"1"),), (VersionCheck("d", "a", 0),), "id-1")
    assert (await backend.perform(commit)).is_committed
    assert (await backend.perform(commit)).applied_before


async def test_an_empty_commit_claims_the_id(backend, store, witness):
    assert (await backend.perform(Commit(store, (), (), "id-1"))) == CommitReply()
    assert (await backend.perform(Commit(store, (Put("d", "a", b"1"),), (), "id-1"))).applied_before
    assert witness.entries() == {}
    assert witness.commits() == {"id-1"}


async def test_a_commit_that_failed_its_checks_does_not_use_up_the_id(backend, store, put, witness):
    (version,) = await put(a=b"1")
    refused = Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", 0),), "id-1")
    assert not (await backend.perform(refused)).is_committed
    assert witness.commits() == set()
    reply = await backend.perform(Commit(store, (Put("d", "a", b"2"),), (VersionCheck("d", "a", version),), "id-1"))
    assert reply.is_committed
    assert not reply.applied_before


async def test_a_store_that_does_not_exist(backend, store, witness):
    with pytest.raises(StoreNotFoundError, match="open or create"):
        await backend.perform(Commit(store + 1000, (Put("d", "a", b"1"),), (), "id-1"))
    assert witness.commits() == set()
    assert witness.entries() == {}


async def test_a_large_commit(backend, store, witness):
    puts = tuple(Put("d", f"{number:05}", b"%d" % number) for number in range(5000))
    reply = await backend.perform(Commit(store, puts))
    assert len(set(reply.versions)) == 5000
    assert await backend.perform(Count(store, KeyRange("d"))) == 5000
    assert len(witness.entries()) == 5000
    deletes = tuple(Delete("d", put.key) for put in puts[1:])
    checks = tuple(VersionCheck("d", put.key, version) for put, version in zip(puts, reply.versions, strict=True))
    assert (await backend.perform(Commit(store, deletes, checks))).is_committed
    assert set(witness.entries()) == {("shop", "d", "00000")}


# --- against a model ---


class Model:
    """What the port's docstrings say, in the fewest words, without versions of its own."""

    def __init__(self):
        self.entries = {}
        self.changed = {}
        self.ids = set()

    def commit(self, commit, reply):
        if commit.id in self.ids:
            assert reply == CommitReply(applied_before=True)
            return
        wrong, is_range = set(), False
        for check in commit.checks:
            if isinstance(check, VersionCheck):
                if self.entries.get(check[:2], (None, 0))[1] != check.version:
                    wrong.add(check[:2])
            else:
                inside = (change for place, change in self.changed.items() if self.is_inside(place, check.range))
                is_range |= any(change > check.since for change in inside)
        if wrong or is_range:
            assert not reply.is_committed
            assert reply.range_conflict is is_range or wrong
            if not reply.range_conflict:
                assert {place: record and record[:2] for place, record in reply.conflicts.items()} == {
                    place: self.entries.get(place) for place in wrong
                }
            return
        assert reply.is_committed
        self.ids |= {commit.id} - {None}
        for mutation, version in zip(commit.mutations, reply.versions, strict=True):
            place = (mutation.domain, mutation.key)
            if isinstance(mutation, Put):
                self.entries[place] = (mutation.value, version)
            else:
                assert (self.entries.pop(place, None) is not None) is bool(version)
            if version:
                assert version > max(self.changed.values(), default=0)
                self.changed[place] = version

    @staticmethod
    def is_inside(place, keys):
        return place[0] == keys.domain and keys.start <= place[1] and (keys.stop is None or place[1] < keys.stop)


@pytest.mark.parametrize("seed", range(5))
async def test_random_commits_agree_with_a_model(place, backend, store, witness, seed):
    chance, model = random.Random(seed), Model()
    others = [backend, place.open()]

    def address():
        return chance.choice("de"), chance.choice("abc")

    def mutation():
        return Put(*address(), b"%d" % chance.randrange(100)) if chance.random() < 0.7 else Delete(*address())

    def check():
        if chance.random() < 0.2:
            start, stop = chance.choice(["", "a", "b"]), chance.choice([None, "b", "c"])
            return RangeCheck(
                KeyRange(chance.choice("de"), start, stop),
                max(model.changed.values(), default=0) - chance.choice([0, 0, 1, 3]),
            )
        where = address()
        return VersionCheck(*where, model.entries.get(where, (None, 0))[1] + (chance.random() < 0.1))

    for _ in range(150):
        commit = Commit(
            store,
            tuple(mutation() for _ in range(chance.randrange(4))),
            tuple(check() for _ in range(chance.choice([0, 0, 1, 2]))),
            chance.choice([None, f"id-{chance.randrange(60)}"]),
            chance.random() < 0.5,
        )
        model.commit(commit, await chance.choice(others).perform(commit))
    assert {place[1:]: value for place, value in witness.entries().items()} == {
        place: value for place, (value, _) in model.entries.items()
    }
    for domain in "de":
        reply = await backend.perform(Page(store, KeyRange(domain), 100))
        assert [(key, record[:2]) for key, record in reply.items] == sorted(
            (key, entry) for (where, key), entry in model.entries.items() if where == domain
        )
    changes = (await backend.perform(Changes(store, 0))).changes
    assert [(change[:2], change.version) for change in changes] == sorted(
        model.changed.items(), key=lambda item: item[1]
    )
