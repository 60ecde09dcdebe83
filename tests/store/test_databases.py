"""Database and AsyncDatabase: names, renaming, deleting, and who is attached."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import InvalidKeyError, StoreExistsError, StoreInUseError, StoreNotFoundError
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.operations import drive, drive_async


def test_a_deleted_store_leaves_no_rows(tmp_path):
    path = tmp_path / "shop.db"
    with connect(path) as database:
        shop, neighbour = database.create("shop"), database.create("neighbour")
        shop.domain("d", keep=60)["a"] = 1
        neighbour["a"] = 1
        database.delete("shop")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT DISTINCT store FROM entries").fetchall() == [(neighbour.handle.info.id,)]
            assert connection.execute("SELECT count(*) FROM domains").fetchone() == (0,)


# --- both faces ---


@pytest.fixture(params=["file", "memory"])
def location(request, tmp_path):
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


def test_a_store_outlives_the_connections(tmp_path):
    for number in range(3):
        with connect(tmp_path / "shop.db") as database:
            store = database.store("shop", create=True)
            assert store.get("n", 0) == number
            store["n"] = number + 1


async def test_attaching_while_a_store_is_deleted(tmp_path):
    """Either the deletion sees the bot, or the bot sees the deletion."""
    path = tmp_path / "shop.db"
    for _ in range(20):
        async with connect_async(path) as database, connect_async(path) as other:
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
