"""Administration of stores: names, renaming, deleting, and who is attached; the requests and both faces."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends import base
from ptb_kvpersistence.errors import InvalidKeyError, StoreExistsError, StoreInUseError, StoreNotFoundError
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    AttachBot,
    Changes,
    Checked,
    Commit,
    Count,
    Delete,
    DeleteStore,
    DetachBot,
    GetMany,
    KeyRange,
    ListBots,
    ListStores,
    OpenStore,
    Page,
    Put,
    RenameStore,
    SetDomain,
)
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive, drive_async


@pytest.fixture
def lease_clock(monkeypatch, clock):
    monkeypatch.setattr("ptb_kvpersistence.backends.memory.leases.now_ms", clock)
    monkeypatch.setattr("ptb_kvpersistence.backends.sqlite.leases.now_ms", clock)
    return clock


# --- deleting ---


async def test_a_deleted_store_is_gone_with_all_its_entries(place, backend, store, put, witness):
    await put(a=b"1", b=b"2")
    await put("other", c=b"3")
    await backend.perform(Commit(store, (Delete("d", "b"),)))
    await backend.perform(SetDomain(store, "d", 1000))
    neighbour = (await backend.perform(OpenStore("neighbour", "create"))).id
    await backend.perform(Commit(neighbour, (Put("d", "a", b"4"),)))
    await backend.perform(DeleteStore("shop"))
    assert witness.stores() == {"neighbour"}
    assert witness.entries() == {("neighbour", "d", "a"): b"4"}
    assert witness.tombstones() == set()
    if "sqlite" in place.kind:
        with closing(sqlite3.connect(place._path)) as connection:
            assert connection.execute("SELECT DISTINCT store FROM entries").fetchall() == [(neighbour,)]
            assert connection.execute("SELECT count(*) FROM domains").fetchone() == (0,)


READS = {
    "get": lambda store: GetMany(store, (Address("d", "a"),)),
    "get none": lambda store: GetMany(store, (Address("d", "never"),)),
    "get two": lambda store: GetMany(store, (Address("d", "a"), Address("d", "never"))),
    "page": lambda store: Page(store, KeyRange("d"), 10),
    "count": lambda store: Count(store, KeyRange("d")),
    "changes": lambda store: Changes(store, 0),
    "checked": lambda store: Checked(store, GetMany(store, (Address("d", "a"),))),
    "put": lambda store: Commit(store, (Put("d", "a", b"1"),)),
    "delete": lambda store: Commit(store, (Delete("d", "a"),)),
    "set domain": lambda store: SetDomain(store, "d", 1000),
}


@pytest.mark.parametrize("request_name", READS)
async def test_who_has_a_deleted_store_open_is_told(place, backend, store, put, witness, request_name):
    await put(a=b"1")
    other = place.open()
    await other.perform(READS[request_name](store))
    await backend.perform(DeleteStore("shop"))
    again = (await backend.perform(OpenStore("shop", "create"))).id
    assert again != store
    for each in (backend, other):
        with pytest.raises(StoreNotFoundError, match="deleted"):
            await each.perform(READS[request_name](store))
    assert witness.entries() == {}


async def test_a_store_made_anew_is_another_one(backend, store, put):
    before = await backend.perform(OpenStore("shop"))
    await put(a=b"1")
    head = (await backend.perform(Changes(store, 0))).head
    await backend.perform(DeleteStore("shop"))
    after = await backend.perform(OpenStore("shop", "create"))
    assert after.incarnation != before.incarnation
    reply = await backend.perform(Changes(after.id, 0))
    assert reply.changes == []
    assert reply.incarnation == after.incarnation
    (version,) = (await backend.perform(Commit(after.id, (Put("d", "a", b"2"),)))).versions
    assert version > head


@pytest.mark.parametrize(
    "request_", [DeleteStore("nobody"), RenameStore("nobody", "somebody")], ids=["delete", "rename"]
)
async def test_a_store_that_is_not_there(backend, store, request_):
    with pytest.raises(StoreNotFoundError, match="nobody"):
        await backend.perform(request_)


async def test_locks_end_with_their_store(backend, store):
    await backend.perform(AcquireLease(store, "report", "a", 30_000))
    await backend.perform(DeleteStore("shop"))
    assert (await backend.perform(AcquireLease(store, "report", "b", 30_000))).token is not None


async def test_peek_sees_a_deletion(place, backend, store):
    other = place.open()
    await backend.perform(ListStores())
    before = backend.backend.peek()
    await other.perform(DeleteStore("shop"))
    assert before is None or backend.backend.peek() != before


# --- renaming ---


async def test_a_renamed_store_is_the_same_store(place, backend, store, put, witness):
    await put(a=b"1")
    before = await backend.perform(OpenStore("shop"))
    await place.open().perform(RenameStore("shop", "market"))
    after = await backend.perform(OpenStore("market"))
    assert (after.id, after.incarnation) == (before.id, before.incarnation)
    with pytest.raises(StoreNotFoundError):
        await backend.perform(OpenStore("shop"))
    await put(b=b"2")  # by the handle of before
    assert witness.entries() == {("market", "d", "a"): b"1", ("market", "d", "b"): b"2"}
    fresh = await backend.perform(OpenStore("shop", "create"))
    assert fresh.id != store


async def test_a_name_that_is_taken(backend, store, witness):
    await backend.perform(OpenStore("market", "create"))
    for new in ("market", "shop"):
        with pytest.raises(StoreExistsError, match=new):
            await backend.perform(RenameStore("shop", new))
    assert witness.stores() == {"shop", "market"}


# --- bots ---


async def test_who_is_attached_and_when_last_seen(place, backend, store, lease_clock):
    start = lease_clock.now
    await backend.perform(AttachBot(store, "b"))
    lease_clock.now += 1000
    await place.open().perform(AttachBot(store, "a"))
    await backend.perform(AttachBot(store, "b"))
    other_store = (await backend.perform(OpenStore("other", "create"))).id
    await backend.perform(AttachBot(other_store, "c"))
    assert await backend.perform(ListBots(store)) == (
        ("a", start + 1000, start + 1000, True),
        ("b", start, start + 1000, True),
    )
    lease_clock.now += 1000
    await backend.perform(DetachBot(store, "b"))
    await backend.perform(DetachBot(store, "never attached"))
    assert await backend.perform(ListBots(store)) == (
        ("a", start + 1000, start + 1000, True),
        ("b", start, start + 2000, False),
    )
    lease_clock.now += 1000
    await backend.perform(AttachBot(store, "b"))
    assert (await backend.perform(ListBots(store)))[1] == ("b", start + 3000, start + 3000, True)


@pytest.mark.parametrize(
    "admin", [DeleteStore, lambda name, **options: RenameStore(name, "market", **options)], ids=["delete", "rename"]
)
async def test_a_store_in_use_is_kept(place, backend, store, put, lease_clock, admin, witness):
    await put(a=b"1")
    for bot in ("bot 2", "bot 1"):
        await backend.perform(AttachBot(store, bot))
    with pytest.raises(StoreInUseError, match="'bot 1', 'bot 2'") as caught:
        await place.open().perform(admin("shop"))
    assert caught.value.bots == ("bot 1", "bot 2")
    assert witness.entries() == {("shop", "d", "a"): b"1"}
    await put(b=b"2")
    await backend.perform(DetachBot(store, "bot 1"))
    with pytest.raises(StoreInUseError, match="'bot 2'"):
        await place.open().perform(admin("shop"))
    lease_clock.now += base.ATTACHED_FOR
    await place.open().perform(admin("shop"))
    assert "shop" not in witness.stores()


async def test_force_does_it_all_the_same(backend, store, witness):
    await backend.perform(AttachBot(store, "bot"))
    await backend.perform(RenameStore("shop", "market", force=True))
    with pytest.raises(StoreInUseError):
        await backend.perform(DeleteStore("market"))
    await backend.perform(DeleteStore("market", force=True))
    assert witness.stores() == set()
    assert await backend.perform(ListBots(store)) == ()


# --- both faces ---


@pytest.fixture(params=["file", "memory", "postgres"])
def location(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("schema").url
    return str(tmp_path / "shop.db") if request.param == "file" else f"memory:{tmp_path.name}"


def test_stores_of_the_sync_face(location):
    with connect(location) as database, connect(location) as other:
        shop = database.create("shop")
        shop["a"] = 1
        with pytest.raises(StoreExistsError):
            other.create("shop")
        with pytest.raises(StoreNotFoundError):
            other.store("nobody")
        drive(administration.attach(shop.handle, "bot"), shop.backend.perform)
        (bot,) = other.bots("shop")
        assert (bot.name, bot.is_attached) == ("bot", True)
        assert bot.attached_at <= bot.last_seen
        for refused in (lambda: other.delete("shop"), lambda: other.rename("shop", "market")):
            with pytest.raises(StoreInUseError):
                refused()
        drive(administration.detach(shop.handle, "bot"), shop.backend.perform)
        other.rename("shop", "market")
        assert database.names() == ["market"]
        assert shop["a"] == other.store("market")["a"] == 1
        other.delete("market")
        assert database.names() == []
        with pytest.raises(StoreNotFoundError):
            _ = shop["a"]
        with pytest.raises(StoreNotFoundError):
            shop["b"] = 2
        with pytest.raises(StoreNotFoundError):
            other.bots("shop")
        again = database.create("market")
        assert dict(again) == {}
        with pytest.raises(StoreNotFoundError):
            drive(administration.attach(shop.handle, "bot"), shop.backend.perform)
        assert other.bots("market") == []


async def test_stores_of_the_async_face(location):
    async with connect_async(location) as database, connect_async(location) as other:
        shop = await database.create("shop")
        await shop.set("a", 1)
        await drive_async(administration.attach(shop.handle, "bot"), shop.backend.perform)
        (bot,) = await other.bots("shop")
        assert (bot.name, bot.is_attached) == ("bot", True)
        with pytest.raises(StoreInUseError):
            await other.delete("shop")
        with pytest.raises(StoreInUseError):
            await other.rename("shop", "market")
        await other.rename("shop", "market", force=True)
        assert await database.names() == ["market"]
        assert await shop.get("a") == 1
        await drive_async(administration.detach(shop.handle, "bot"), shop.backend.perform)
        await other.delete("market")
        with pytest.raises(StoreNotFoundError):
            await shop.get("a")
        with pytest.raises(StoreNotFoundError):
            async with shop.transaction():
                await shop.set("a", 1)
        with pytest.raises(StoreNotFoundError):
            await drive_async(administration.attach(shop.handle, "bot"), shop.backend.perform)


@pytest.mark.parametrize("name", ["", "a\0b", 3, None, "\ud800", "x" * 2000])
def test_names_that_cannot_be_used(location, name):
    with connect(location) as database:
        database.create("shop")
        for attempt in (
            lambda: database.create(name),
            lambda: database.rename("shop", name),
            lambda: database.delete(name),
            lambda: database.bots(name),
        ):
            with pytest.raises(InvalidKeyError):
                attempt()
        assert database.names() == ["shop"]


def test_several_stores_in_one_database_are_independent(location):
    with connect(location) as database:
        stores = {name: database.create(name) for name in ("b", "a", "ü", "A")}
        assert database.names() == ["A", "a", "b", "ü"]
        for name, store in stores.items():
            store["name"] = name
            store.domain("d")["name"] = name
        stores["a"].clear()
        assert {name: store.get("name") for name, store in stores.items()} == {"b": "b", "a": None, "ü": "ü", "A": "A"}
        assert stores["a"].domain("d")["name"] == "a"
        database.delete("a")
        assert stores["b"].domain("d")["name"] == "b"


def test_a_store_made_anew_does_not_join_the_transaction_of_the_old_one(location):
    with connect(location) as database:
        old = database.create("shop")
        database.delete("shop")
        new = database.create("shop")
        with new.transaction():
            with pytest.raises(StoreNotFoundError):
                old["a"] = 1
            new["a"] = 2
        assert dict(new) == {"a": 2}


@pytest.fixture(params=["file", "postgres"])
def lasting(request, tmp_path):
    """A location that outlives those who use it."""
    return request.getfixturevalue("schema").url if request.param == "postgres" else tmp_path / "shop.db"


def test_a_store_outlives_the_connections(lasting):
    for number in range(3):
        with connect(lasting) as database:
            store = database.store("shop", create=True)
            assert store.get("n", 0) == number
            store["n"] = number + 1


async def test_attaching_while_a_store_is_deleted(lasting):
    """Either the deletion sees the bot, or the bot sees the deletion."""
    for _ in range(20):
        async with connect_async(lasting) as database, connect_async(lasting) as other:
            shop = await database.create("shop")
            results = await asyncio.gather(
                drive_async(administration.attach(shop.handle, "bot"), shop.backend.perform),
                other.delete("shop"),
                return_exceptions=True,
            )
            assert [type(result) for result in results] in (
                [type(None), StoreInUseError],
                [StoreNotFoundError, type(None)],
            )
            if await database.names():
                await database.delete("shop", force=True)
