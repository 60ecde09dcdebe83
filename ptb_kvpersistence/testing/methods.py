"""Every method of Store and AsyncStore, each judged by what a witness finds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ptb_kvpersistence.errors import (
    ConflictError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    KeyExistsError,
    KeyNotFoundError,
)
from ptb_kvpersistence.model import Commit, KeyRange, OpenStore, Put
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import Subject, collect
from ptb_kvpersistence.testing.place import Place
from ptb_kvpersistence.testing.suite import Suite, on_async_face, on_sync_face


def root(place: Place, domain: str = "") -> dict[str, Any]:
    """Read the entries of a domain of "shop" by the witness."""
    entries = place.witness().entries()
    return {
        key: json.loads(value)
        for (store, within, key), value in sorted(entries.items())
        if (store, within) == ("shop", domain)
    }


class Methods(Suite):
    """The methods that both faces have."""

    guarantee = "store methods"

    async def test_set_get_delete(self, shop: AsyncStore, place: Place) -> None:
        first = await shop.set("k", 1)
        second = await shop.set("k", {"nested": [1, None]})
        assert second > first > 0
        assert root(place) == {"k": {"nested": [1, None]}}
        assert await shop.get("k") == {"nested": [1, None]}
        assert await shop.get("absent") is None
        assert await shop.get("absent", "default") == "default"
        await shop.set("null", None)
        assert await shop.get("null", "default") is None
        await shop.delete("k")
        assert root(place) == {"null": None}
        with pytest.raises(KeyNotFoundError):
            await shop.delete("k")
        assert await shop.discard("null") is True
        assert await shop.discard("null") is False
        assert root(place) == {}

    async def test_entry_and_if_version(self, shop: AsyncStore, place: Place) -> None:
        assert await shop.entry("k") is None
        version = await shop.set("k", 1, if_version=0)
        entry = await shop.entry("k")
        assert (entry.value, entry.version) == (1, version)
        with pytest.raises(ConflictError):
            await shop.set("k", 2, if_version=0)
        with pytest.raises(ConflictError):
            await shop.set("k", 2, if_version=version + 1)
        assert await shop.set("k", 3, if_version=version) > version
        assert root(place) == {"k": 3}

    async def test_many(self, shop: AsyncStore, place: Place) -> None:
        items = {f"k{number:03}": number for number in range(300)}
        await shop.set_many(items)
        assert root(place) == items
        assert await shop.get_many([*items, "absent"]) == items
        assert await shop.get_many([]) == {}
        with pytest.raises(EncodeError):
            await shop.set_many({"k000": 1, "bad": object()})
        assert root(place) == items
        await shop.clear()
        assert root(place) == {}

    async def test_update_and_popitem(self, shop: AsyncStore, place: Place) -> None:
        await shop.update({"b": 1, "c": 2}, c=3)
        await shop.update([("a", 0)])
        assert root(place) == {"a": 0, "b": 1, "c": 3}
        with pytest.raises(InvalidKeyError):
            await shop.update({"b": 5, "": 5})
        assert root(place) == {"a": 0, "b": 1, "c": 3}
        await shop.domain("other").set("0", 0)
        assert [await shop.popitem() for _ in range(3)] == [("a", 0), ("b", 1), ("c", 3)]
        with pytest.raises(KeyNotFoundError):
            await shop.popitem()
        assert root(place) == {}
        assert root(place, "other") == {"0": 0}

    async def test_add_replace_setdefault(self, shop: AsyncStore, place: Place) -> None:
        assert await shop.replace("k", 1) is False
        assert root(place) == {}
        assert await shop.add("k", 1) > 0
        with pytest.raises(KeyExistsError):
            await shop.add("k", 2)
        assert await shop.setdefault("k", 3) == 1
        assert await shop.setdefault("l", 3) == 3
        assert await shop.replace("k", 4) is True
        assert root(place) == {"k": 4, "l": 3}

    async def test_increment_append_pop(self, shop: AsyncStore, place: Place) -> None:
        assert await shop.increment("n") == 1
        assert await shop.increment("n", 2**60) == 2**60 + 1
        assert await shop.increment("n", -(2**60)) == 1
        assert await shop.increment("f", 0.5) == 0.5
        assert await shop.append("list", 1) == 1
        assert await shop.append("list", [2], None) == 3
        assert root(place) == {"f": 0.5, "list": [1, [2], None], "n": 1}
        for attempt in (shop.increment("list"), shop.append("n", 1)):
            with pytest.raises(TypeError):
                await attempt
        assert await shop.pop("n") == 1
        assert await shop.pop("n", "none") == "none"
        with pytest.raises(KeyNotFoundError):
            await shop.pop("n")
        assert root(place) == {"f": 0.5, "list": [1, [2], None]}

    async def test_edit(self, shop: AsyncStore, place: Place, rival: Store) -> None:
        async with shop.edit("cart", []) as cart:
            cart.append("tea")
        async with shop.edit("cart") as cart:
            cart.append("milk")
        assert root(place) == {"cart": ["tea", "milk"]}
        with pytest.raises(KeyNotFoundError):
            async with shop.edit("absent"):
                pytest.fail("there is nothing to edit")
        with pytest.raises(ConflictError):
            async with shop.edit("cart") as cart:
                cart.append("lost")
                rival["cart"] = ["theirs"]
        with pytest.raises(ZeroDivisionError):
            async with shop.edit("cart") as cart:
                cart.append("lost")
                raise ZeroDivisionError
        assert root(place) == {"cart": ["theirs"]}

    async def test_touch_changes_no_value(self, shop: AsyncStore, place: Place) -> None:
        await shop.set("k", [1])
        before = (await shop.entry("k")).version
        assert await shop.touch("k", ttl=60) is True
        assert await shop.touch("absent", ttl=60) is False
        entry = await shop.entry("k")
        assert (entry.value, entry.expires_at is None) == ([1], False)
        assert entry.version > before
        assert root(place) == {"k": [1]}

    async def test_listings(self, shop: AsyncStore) -> None:
        keys = ["a", "ab", "abc", "b", "é", "\uffff", "\U0001f600"]
        await shop.set_many({key: key.upper() for key in reversed(keys)})
        assert await collect(shop.keys()) == keys
        assert await collect(shop.values()) == [key.upper() for key in keys]
        assert await collect(shop.items(reverse=True)) == [(key, key.upper()) for key in reversed(keys)]
        assert await collect(shop.keys("ab")) == ["ab", "abc"]
        assert await collect(shop.keys(start="ab", stop="b")) == ["ab", "abc"]
        assert await collect(shop.items("a", start="abb", reverse=True)) == [("abc", "ABC")]
        assert await collect(shop.keys("nothing")) == []
        assert await shop.count() == len(keys)
        assert await shop.count("a") == 3
        assert await shop.count(start="b", stop="é") == 1
        assert [await shop.contains(key) for key in ("a", "absent")] == [True, False]

    async def test_a_listing_goes_on_over_many_pages(self, shop: AsyncStore) -> None:
        items = {f"{number:05}": number for number in range(2500)}
        await shop.set_many(items)
        assert dict(await collect(shop.items())) == items
        assert await collect(shop.keys(reverse=True)) == sorted(items, reverse=True)

    async def test_domains(self, shop: AsyncStore, place: Place) -> None:
        orders = shop.domain("orders")
        await orders.set("k", 1)
        await shop.set("k", 2)
        await shop.domain("é\u20ac").set("k", 3)
        assert (root(place), root(place, "orders"), root(place, "é\u20ac")) == ({"k": 2}, {"k": 1}, {"k": 3})
        await shop.clear()
        assert (root(place), root(place, "orders")) == ({}, {"k": 1})
        assert await collect(orders.items()) == [("k", 1)]
        assert await collect(shop.items()) == []

    async def test_names_of_stores_and_odd_keys(self, shop: AsyncStore, place: Place) -> None:
        assert shop.name == "shop"
        assert shop.backend.name
        long = "x" * 1024
        for key in (long, "{a}", "a:b", "'; --", "a\nb", "*", "\\"):
            await shop.set(key, key)
            assert await shop.get(key) == key
        assert root(place)[long] == long
        for key in ("", "a\0b", "\ud800", "x" * 1025):
            with pytest.raises(InvalidKeyError):
                await shop.set(key, 1)

    async def test_what_python_has_and_json_has_not(self, shop: AsyncStore) -> None:
        value = {1: (2**70, float("inf")), "set": {1, 2}, "bytes": b"\0", "\ud800": "\0"}
        await shop.set("k", value)
        assert await shop.get("k") == value
        with pytest.raises(EncodeError, match="lock"):
            await shop.set("k", {"lock": object()})
        assert await shop.get("k") == value

    async def test_what_cannot_be_read_says_where(self, shop: AsyncStore, backend: Subject) -> None:
        info = shop.handle.info
        assert info is not None
        await backend.perform(Commit(info.id, (Put("", "bad", b'{"$future": 1}'),)))
        with pytest.raises(DecodeError, match="bad"):
            await shop.get("bad")

    async def test_what_cannot_be_read_is_found_in_listings_when_its_value_is_due(
        self, shop: AsyncStore, backend: Subject
    ) -> None:
        info = shop.handle.info
        assert info is not None
        await shop.set("a", 1)
        await backend.perform(Commit(info.id, (Put("", "bad", b'{"$future": 1}'),)))
        assert [key async for key in shop.keys(start="a")] == ["a", "bad"]
        seen = []
        with pytest.raises(DecodeError, match="bad"):
            async for item in shop.items():
                seen.append(item)  # noqa: PERF401 - what came before the error counts
        assert seen == [("a", 1)]

    @on_async_face
    async def test_info(self, shop: AsyncStore, backend: Subject) -> None:
        assert await shop.info() == await backend.perform(OpenStore("shop"))

    async def test_run_gives_what_the_function_gives(self, shop: AsyncStore, place: Place) -> None:
        async def work(view: AsyncStore) -> int:
            await view.set("k", 1)
            return int(await view.increment("k"))

        assert await shop.run(work) == 2
        assert root(place) == {"k": 2}


class SyncMethods(Suite):
    """What the sync face has besides, being a MutableMapping."""

    guarantee = "store methods"

    @on_sync_face
    async def test_it_is_a_mapping(self, rival: Store, place: Place) -> None:
        rival["b"] = 2
        rival["a"] = 1
        rival.update({"c": 3})
        assert root(place) == {"a": 1, "b": 2, "c": 3}
        assert (len(rival), bool(rival), list(rival), list(reversed(rival))) == (
            3,
            True,
            ["a", "b", "c"],
            ["c", "b", "a"],
        )
        assert rival["a"] == 1
        assert "a" in rival
        assert "z" not in rival
        del rival["a"]
        with pytest.raises(KeyError):
            del rival["a"]
        with pytest.raises(KeyNotFoundError):
            rival["a"]
        assert dict(rival) == {"b": 2, "c": 3}
        assert rival == {"b": 2, "c": 3}
        assert rival.popitem() in {("b", 2), ("c", 3)}
        assert len(root(place)) == 1
        rival.clear()
        assert not rival
        assert root(place) == {}

    @on_sync_face
    async def test_views(self, rival: Store) -> None:
        rival.set_many({"a": 1, "ab": 2, "b": 3})
        assert (len(rival.keys("a")), len(rival.values()), len(rival.items(stop="b"))) == (2, 3, 2)
        assert "ab" in rival.keys("a")
        assert "b" not in rival.keys("a")
        assert 3 in rival.values()
        assert ("ab", 2) in rival.items()
        assert rival.keys() & {"a", "z"} == {"a"}
        assert list(rival.pages(KeyRange("", "a", "b"), reverse=True)) == [("ab", 2), ("a", 1)]

    @on_sync_face
    async def test_a_transaction_by_the_store_itself(self, rival: Store, place: Place) -> None:
        with rival.transaction() as view, view.edit("n", 0):
            rival["a"] = 1
            assert rival["a"] == view["a"] == 1
            assert root(place) == {}
        assert root(place) == {"a": 1, "n": 0}
