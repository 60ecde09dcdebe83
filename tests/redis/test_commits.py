"""Commits of many keys, which take shortcuts: they must judge and leave behind what commits of one key do."""

from __future__ import annotations

import asyncio
import random

import pytest

from ptb_kvpersistence import connect_async
from ptb_kvpersistence.backends.memory import MemoryBackend, MemoryEngine
from ptb_kvpersistence.backends.redis.layout import record
from ptb_kvpersistence.model import (
    Address,
    Checked,
    Commit,
    Delete,
    GetMany,
    KeyRange,
    OpenStore,
    Page,
    Put,
    SetDomain,
    VersionCheck,
)

PAST, FUTURE = 1000, 4_000_000_000_000
MORE_THAN_ONE_CALL = 9000
"""Lua gives a command some 8000 arguments at most."""


@pytest.fixture
async def shop(connect, url):
    subject = connect(url)
    return subject, (await subject.perform(OpenStore("shop", "create"))).id


@pytest.fixture
def stored(own_server, url):
    """Read one of the documented keys of a store."""
    with own_server.client() as client:

        def read(store, what):
            key = f"{{{url.partition('prefix=')[2]}:{store}}}:{what}"
            if what == "entries":
                return {member: record(raw) for member, raw in client.hgetall(key).items()}
            return {member: int(score) for member, score in client.zrange(key, 0, -1, withscores=True)}

        yield read


async def put_all(subject, store, keys, **options):
    reply = await subject.perform(Commit(store, tuple(Put("d", key, b"1", **options) for key in keys)))
    return dict(zip(keys, reply.versions, strict=True))


async def checked(shop, versions):
    """Check versions by key, in a commit and in a read; give the keys of those that are wrong."""
    subject, store = shop
    checks = tuple(VersionCheck("d", key, version) for key, version in versions.items())
    reply = await subject.perform(Commit(store, (), checks))
    assert reply.is_committed is (not reply.conflicts)
    read = await subject.perform(Checked(store, GetMany(store, ()), checks))
    assert read.is_current is reply.is_committed
    return reply.conflicts


async def test_many_checks(shop):
    versions = {**await put_all(*shop, "abcdefgh"), "absent": 0}
    assert await checked(shop, versions) == {}
    wrong = {**versions, "b": versions["c"], "g": 0, "absent": versions["a"]}
    found = await checked(shop, wrong)
    assert {key: record and record.version for (_, key), record in found.items()} == {
        "b": versions["b"],
        "g": versions["g"],
        "absent": None,
    }


async def test_many_checks_and_a_deletion(shop):
    subject, store = shop
    versions = await put_all(subject, store, "abcdefgh")
    (deletion,) = (await subject.perform(Commit(store, (Delete("d", "c"),)))).versions
    for version in (versions["c"], deletion):
        assert await checked(shop, {**versions, "c": version}) == {Address("d", "c"): None}
    assert await checked(shop, {**versions, "c": 0}) == {}
    assert await checked(shop, {key: 0 for key in versions if key != "c"} | {"x": 0}) != {}


async def test_many_checks_and_an_entry_that_has_ended(shop):
    subject, store = shop
    versions = await put_all(subject, store, "abcdefgh")
    ended = await put_all(subject, store, "x", expires_at=PAST)
    lives = await put_all(subject, store, "y", expires_at=FUTURE)
    assert await checked(shop, {**versions, **ended, **lives}) == {Address("d", "x"): None}
    assert await checked(shop, {**versions, "x": 0, **lives}) == {}
    places = tuple(Address("d", key) for key in "abxcdefy")
    found = await subject.perform(GetMany(store, places))
    assert [place.key for place, record in zip(places, found, strict=True) if record is None] == ["x"]
    page = await subject.perform(Page(store, KeyRange("d"), 100))
    assert [key for key, _ in page.items] == [*"abcdefgh", "y"]


async def test_more_checks_than_one_call_takes(shop):
    keys = [f"{number}" for number in range(MORE_THAN_ONE_CALL)]
    versions = await put_all(*shop, keys)
    assert await checked(shop, versions) == {}
    for key in ("0", "3999", "4000", "7999", "8000", "8999"):
        assert set(await checked(shop, {**versions, key: 1})) == {("d", key)}
    subject, store = shop
    (end,) = (await subject.perform(Commit(store, (Put("d", "end", b"1", None, PAST),)))).versions
    wrong = {**versions, "0": 1, "4000": 1, "8999": 1, "end": end}
    assert {key for _, key in await checked(shop, wrong)} == {"0", "4000", "8999", "end"}


@pytest.mark.parametrize("seed", range(4))
async def test_any_mutations_leave_what_they_leave_in_memory(shop, stored, seed):
    chance = random.Random(seed)
    memory = MemoryBackend(engine=MemoryEngine("memory:twin"))
    subject, store = shop
    twin = memory.perform(OpenStore("shop", "create")).id

    def mutation():
        address = chance.choice("de"), chance.choice("abcdefgh")
        if chance.random() < 0.3:
            return Delete(*address)
        ttl, expires_at = chance.choice([(None, None)] * 6 + [(10**8, None), (None, FUTURE), (None, PAST), (7, FUTURE)])
        return Put(*address, b"%d" % chance.randrange(1000), ttl, expires_at)

    for turn in range(60):
        if turn == 30:  # up to here nothing has a lifetime by itself
            await subject.perform(SetDomain(store, "e", 10**9))
            memory.perform(SetDomain(twin, "e", 10**9))
        mutations = tuple(mutation() for _ in range(chance.choice([1, 2, 12])))
        ours = await subject.perform(Commit(store, mutations))
        theirs = memory.perform(Commit(twin, mutations))
        assert list(map(bool, ours.versions)) == list(map(bool, theirs.versions))
        check_that_keys_are_in_step(store, stored)
        for domain in "de":
            pages = (
                await subject.perform(Page(store, KeyRange(domain), 100)),
                memory.perform(Page(twin, KeyRange(domain), 100)),
            )
            ours, theirs = ([(key, told(record)) for key, record in page.items] for page in pages)
            assert ours == theirs
    memory.close()


def told(record):
    """What does not depend on when exactly it was written."""
    return record.value, record.ttl, record.expires_at if record.expires_at in {None, FUTURE} else "after its ttl"


def check_that_keys_are_in_step(store, stored):
    entries, tombstones = stored(store, "entries"), stored(store, "tombstones")
    assert set(stored(store, "index")) == set(entries)
    ends = {member: record.expires_at for member, record in entries.items() if record.expires_at is not None}
    assert stored(store, "expiry") == ends
    feed = stored(store, "feed")
    assert set(feed) == {*entries, *tombstones}
    assert not set(entries) & set(tombstones)
    assert all(feed[member] == record.version for member, record in entries.items())


async def test_many_tasks_count_in_one_key(url):
    """Each round of so many lets one of them win, so the last one has lost 149 times."""
    async with connect_async(url) as database:
        store = await database.create("shop")
        counted = await asyncio.gather(*(store.increment("n") for _ in range(150)))
        assert sorted(counted) == list(range(1, 151))
        assert await store.get("n") == 150
