"""Transactions: all or nothing, and what is seen inside and outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ptb_kvpersistence.errors import ConflictError
from ptb_kvpersistence.model import ListDomains, SetDomain
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import Subject, collect
from ptb_kvpersistence.testing.suite import Suite

FAILURES = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
LOCKS = pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])


async def contents(shop: AsyncStore) -> dict[str, Any]:
    """Read the whole of a domain."""
    return dict(await collect(shop.items()))


class Transactions(Suite):
    """All is written at the end, and what was written is seen inside."""

    guarantee = "read-your-writes"

    @LOCKS
    async def test_all_is_written_at_the_end(self, shop: AsyncStore, rival: Store, lock: Any) -> None:
        rival["old"] = 1
        async with shop.transaction(lock=lock) as view:
            await shop.set("a", 1)
            await view.set("b", 2)
            await shop.delete("old")
            assert dict(rival) == {"old": 1}
            assert await contents(shop) == await contents(view) == {"a": 1, "b": 2}
            assert await shop.count() == 2
            assert not await shop.contains("old")
            assert await view.get_many(["a", "b", "old"]) == {"a": 1, "b": 2}
        assert dict(rival) == {"a": 1, "b": 2}

    @LOCKS
    async def test_a_transaction_of_a_domain_is_one_of_the_store(
        self, shop: AsyncStore, rival: Store, lock: Any
    ) -> None:
        orders = shop.domain("orders")
        async with orders.transaction(lock=lock) as view:
            await view.set("a", 1)
            async with orders.transaction() as inner:
                await inner.set("b", 2)
            async with shop.transaction() as root:
                await root.set("root", await view.get("b"))
            assert (await contents(view), len(rival.domain("orders"))) == ({"a": 1, "b": 2}, 0)
        assert (dict(rival), dict(rival.domain("orders"))) == ({"root": 2}, {"a": 1, "b": 2})

    @LOCKS
    @pytest.mark.parametrize("failure", FAILURES)
    async def test_any_exception_rolls_back(self, shop: AsyncStore, rival: Store, lock: Any, failure: Any) -> None:
        rival["kept"] = 1
        with pytest.raises(failure):
            async with shop.transaction(lock=lock):
                await shop.set("new", 1)
                await shop.clear()
                await shop.domain("other").set("new", 1)
                raise failure
        assert dict(rival) == {"kept": 1}
        assert len(rival.domain("other")) == 0
        rival["free"] = "the lock is free"
        await shop.set("outside", "the transaction is over")
        assert len(rival) == 3

    async def test_an_error_inside_that_is_caught_spoils_nothing(self, shop: AsyncStore, rival: Store) -> None:
        async with shop.transaction():
            await shop.set("a", 1)
            with pytest.raises(TypeError):
                await shop.set("b", object())
            with pytest.raises(KeyError):
                await shop.delete("absent")
        assert dict(rival) == {"a": 1}

    async def test_a_failed_inner_one_rolls_back_alone(self, shop: AsyncStore, rival: Store) -> None:
        async with shop.transaction():
            await shop.set("outer", 1)
            async with shop.transaction():
                await shop.set("kept", 1)
                with pytest.raises(ValueError, match="innermost"):
                    async with shop.transaction() as innermost:
                        await innermost.set("kept", 2)
                        await shop.delete("outer")
                        await innermost.set("lost", 1)
                        raise ValueError("innermost")
                assert await contents(shop) == {"outer": 1, "kept": 1}
            with pytest.raises(KeyError):
                async with shop.transaction():
                    await shop.set("kept", 3)
                    async with shop.transaction():
                        await shop.set("committed inside", 1)
                    raise KeyError
        assert dict(rival) == {"outer": 1, "kept": 1}

    async def test_the_outer_one_takes_the_inner_ones_with_it(self, shop: AsyncStore, rival: Store) -> None:
        with pytest.raises(ZeroDivisionError):
            async with shop.transaction():
                async with shop.transaction():
                    await shop.set("inner", 1)
                raise ZeroDivisionError
        assert not rival

    async def test_every_operation_inside_sees_the_writes_before_it(self, shop: AsyncStore, rival: Store) -> None:
        rival.set_many({"n": 1, "list": [1], "gone": 1, "x1": 1, "x2": 2})
        async with shop.transaction():
            assert await shop.increment("n") == 2
            assert await shop.increment("n") == 3
            assert await shop.append("list", 2) == 2
            assert await shop.append("list", 3) == 3
            assert await shop.pop("gone") == 1
            assert await shop.pop("gone", "none") == "none"
            await shop.add("gone", 2)
            with pytest.raises(KeyError):
                await shop.add("gone", 3)
            assert await shop.replace("gone", 4) is True
            assert await shop.setdefault("gone", 5) == 4
            assert await shop.setdefault("fresh", 6) == 6
            async with shop.edit("list") as value:
                value.append(4)
            assert await shop.discard("x1") is True
            assert await shop.discard("x1") is False
            entry = await shop.entry("n")
            await shop.set("n", 10, if_version=entry.version)
            with pytest.raises(ConflictError):
                await shop.set("n", 11, if_version=entry.version)
            assert await collect(shop.keys("x")) == ["x2"]
            assert await shop.count("x") == 1
            assert await collect(shop.keys(reverse=True)) == ["x2", "n", "list", "gone", "fresh"]
            inside = await contents(shop)
        assert dict(rival) == inside == {"n": 10, "list": [1, 2, 3, 4], "gone": 4, "fresh": 6, "x2": 2}

    @LOCKS
    async def test_one_transaction_spans_domains(self, shop: AsyncStore, rival: Store, lock: Any) -> None:
        rival.domain("ptb:user_data").set("42", {"coins": 5})
        orders, users = shop.domain("orders"), shop.domain("ptb:user_data")
        with pytest.raises(ValueError, match="too late"):
            async with shop.transaction(lock=lock):
                await orders.add("PO-1", "tea")
                async with users.edit("42") as user:
                    user["coins"] -= 5
                raise ValueError("too late")
        assert rival.domain("ptb:user_data")["42"] == {"coins": 5}
        async with orders.transaction(lock=lock):
            await orders.add("PO-1", "tea")
            async with users.edit("42") as user:
                user["coins"] -= 5
            await shop.set("root", 1)
        assert (dict(rival.domain("orders")), dict(rival)) == ({"PO-1": "tea"}, {"root": 1})
        assert rival.domain("ptb:user_data")["42"] == {"coins": 0}

    async def test_the_view_of_a_domain_is_that_domain(self, shop: AsyncStore, rival: Store) -> None:
        async with shop.domain("orders").transaction() as view:
            await view.set("a", 1)
            async with shop.transaction() as inner:
                await inner.set("b", 1)
        assert (dict(rival), dict(rival.domain("orders"))) == ({"b": 1}, {"a": 1})

    @LOCKS
    async def test_a_domain_keeps_its_setting_though_it_was_first_used_in_a_failed_transaction(
        self, shop: AsyncStore, rival: Store, lock: Any
    ) -> None:
        orders = shop.domain("orders", keep=60)
        with pytest.raises(ValueError, match="no"):
            async with shop.transaction(lock=lock):
                await orders.set("a", 1)
                raise ValueError("no")
        await orders.set("b", 1)
        assert rival.domain("orders").entry("b").expires_at is not None

    @LOCKS
    async def test_a_domain_setting_works_inside_too(self, shop: AsyncStore, rival: Store, lock: Any) -> None:
        orders = shop.domain("orders", keep=60)
        async with shop.transaction(lock=lock):
            await orders.set("a", 1)
            await orders.set("b", 1)
        assert rival.domain("orders").entry("a").expires_at is not None
        async with shop.transaction(lock=lock), shop.domain("more", keep=60).transaction() as view:
            await view.set("c", 1)
        assert rival.domain("more").entry("c").expires_at is not None

    @LOCKS
    @pytest.mark.parametrize("before", [None, 20_000])
    async def test_a_domain_setting_is_rolled_back_too(
        self, store: int, shop: AsyncStore, rival: Store, backend: Subject, lock: Any, before: int | None
    ) -> None:
        await backend.perform(SetDomain(store, "orders", before))
        unchanged = () if before is None else (("orders", before),)
        with pytest.raises(ValueError, match="no"):
            async with shop.transaction(lock=lock):
                await shop.domain("orders", keep=60).set("a", 1)
                raise ValueError("no")
        assert await backend.perform(ListDomains(store)) == unchanged
        async with shop.transaction(lock=lock):
            await shop.set("root", 1)
            with pytest.raises(ValueError, match="no"):
                async with shop.transaction():
                    await shop.domain("orders", keep=60).set("a", 1)
                    raise ValueError("no")
            await shop.domain("orders").set("b", 1)
        assert await backend.perform(ListDomains(store)) == unchanged
        assert (rival.domain("orders").entry("b").expires_at is None) is (before is None)
        assert "a" not in rival.domain("orders")

    @LOCKS
    async def test_a_domain_setting_that_was_rolled_back_inside_is_stored_later(
        self, store: int, shop: AsyncStore, backend: Subject, lock: Any
    ) -> None:
        orders = shop.domain("orders", keep=60)
        async with shop.transaction(lock=lock):
            await shop.domain("more", keep=60).set("a", 1)
            with pytest.raises(ValueError, match="no"):
                async with shop.transaction():
                    await orders.set("a", 1)
                    raise ValueError("no")
        assert await backend.perform(ListDomains(store)) == (("more", 60_000),)
        await orders.set("a", 1)
        assert await backend.perform(ListDomains(store)) == (("more", 60_000), ("orders", 60_000))

    async def test_a_transaction_that_conflicts_sets_nothing(
        self, store: int, shop: AsyncStore, rival: Store, backend: Subject
    ) -> None:
        with pytest.raises(ConflictError):
            async with shop.transaction():
                await shop.domain("orders", keep=60).set("a", await shop.get("k"))
                rival["k"] = 1
        assert await backend.perform(ListDomains(store)) == ()

    @LOCKS
    async def test_a_domain_setting_is_stored_with_the_commit(
        self, store: int, shop: AsyncStore, rival: Store, backend: Subject, lock: Any
    ) -> None:
        async with shop.transaction(lock=lock):
            await shop.domain("orders").set("before", 1)
            await shop.domain("orders", keep=120).set("longer", 1)
            async with shop.transaction():
                await shop.domain("orders", keep=60).set("a", 1)
            await shop.domain("orders").set("own", 1, ttl=600)
            assert await backend.perform(ListDomains(store)) == ()
        assert await backend.perform(ListDomains(store)) == (("orders", 60_000),)
        for key, life in {"before": 60_000, "longer": 60_000, "a": 60_000, "own": 600_000}.items():
            entry = rival.domain("orders").entry(key)
            assert entry.expires_at == entry.updated_at + life
        async with shop.transaction(lock=lock):
            assert await shop.domain("only read", keep=60).get("k") is None
        assert await backend.perform(ListDomains(store)) == (("only read", 60_000), ("orders", 60_000))

    async def test_a_listing_inside_is_whole_over_many_pages(self, shop: AsyncStore, rival: Store) -> None:
        rival.set_many({f"k{n:04}": n for n in range(1200)})
        gone = [f"k{n:04}" for n in (0, 499, 500, 501, 999, 1000, 1199)]
        async with shop.transaction():
            for key in gone:
                await shop.delete(key)
            await shop.set_many({"k": "first", "k0500x": "between", "z": "last"})
            expected = sorted({*rival, "k", "k0500x", "z"} - {*gone})
            assert await collect(shop.keys()) == expected
            assert await collect(shop.keys(reverse=True)) == expected[::-1]
            found = await collect(shop.keys("k0", start="k0498", stop="k0503"))
            assert found == ["k0498", "k0500x", "k0502"]
        assert list(rival) == expected
