"""Transactions as if nobody else were there: what conflicts, what does not, and trying again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ptb_kvpersistence.errors import ConflictError
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import collect
from ptb_kvpersistence.testing.suite import Suite

Read = Callable[[AsyncStore], Awaitable[None]]
Act = Callable[[Store], Any]


async def get(shop: AsyncStore) -> None:
    await shop.get("k")


async def get_absent(shop: AsyncStore) -> None:
    await shop.get("absent")


async def contains_absent(shop: AsyncStore) -> None:
    assert not await shop.contains("absent")


async def get_many(shop: AsyncStore) -> None:
    await shop.get_many(["k", "absent"])


async def entry(shop: AsyncStore) -> None:
    await shop.entry("k")


async def listing(shop: AsyncStore) -> None:
    await collect(shop.keys())


async def reverse_listing(shop: AsyncStore) -> None:
    await collect(shop.items(reverse=True))


async def prefix_listing(shop: AsyncStore) -> None:
    await collect(shop.values("ab"))


async def range_listing(shop: AsyncStore) -> None:
    await collect(shop.keys(start="a", stop="m"))


async def count(shop: AsyncStore) -> None:
    await shop.count()


async def prefix_count(shop: AsyncStore) -> None:
    await shop.count("ab")


async def clear(shop: AsyncStore) -> None:
    await shop.clear()


async def write_own_then_count(shop: AsyncStore) -> None:
    await shop.set("absent", 1)
    await shop.count("a")


def change(key: str) -> Act:
    def act(rival: Store) -> None:
        rival[key] = "changed"

    return act


def delete(key: str) -> Act:
    def act(rival: Store) -> None:
        del rival[key]

    return act


def delete_and_write_again(rival: Store) -> None:
    value = rival.pop("k")
    rival["k"] = value


CONFLICTS: list[tuple[Read, Act]] = [
    (get, change("k")),
    (get, delete("k")),
    (get, delete_and_write_again),
    (get_absent, change("absent")),
    (contains_absent, change("absent")),
    (get_many, change("k")),
    (get_many, change("absent")),
    (entry, change("k")),
    (listing, change("phantom")),
    (listing, change("k")),
    (listing, delete("k")),
    (reverse_listing, change("phantom")),
    (prefix_listing, change("abc")),
    (range_listing, change("lzz")),
    (count, change("phantom")),
    (count, delete("k")),
    (prefix_count, change("ab")),
    (clear, change("phantom")),
    (clear, change("k")),
    (write_own_then_count, change("az")),
]

HARMLESS: list[tuple[Read, Act]] = [
    (get, change("other")),
    (get_absent, change("k")),
    (prefix_listing, change("aa")),
    (prefix_listing, change("ac")),
    (range_listing, change("m")),
    (prefix_count, change("b")),
    (listing, lambda rival: rival.domain("elsewhere").set("k", 1)),
]

READS: list[Read] = [get, listing, count, prefix_listing, get_many]


class Serialisable(Suite):
    """Keys and ranges that were read are as they were, or the transaction conflicts."""

    guarantee = "serialisable transaction"

    async def test_what_a_failed_inner_one_read_still_counts(self, shop: AsyncStore, rival: Store) -> None:
        rival["stock"] = 1
        with pytest.raises(ConflictError):
            async with shop.transaction():
                with contextlib.suppress(ValueError):
                    async with shop.transaction():
                        if await shop.get("stock"):
                            raise ValueError
                rival["stock"] = 0
                await shop.set("decision", "made from the stock")
        assert dict(rival) == {"stock": 0}

    async def test_a_read_in_another_domain_counts(self, shop: AsyncStore, rival: Store) -> None:
        rival.domain("ptb:user_data").set("42", {"banned": False})
        with pytest.raises(ConflictError):
            async with shop.transaction():
                assert not (await shop.domain("ptb:user_data").get("42"))["banned"]
                rival.domain("ptb:user_data").set("42", {"banned": True})
                await shop.domain("orders").add("PO-1", "tea")
        assert not len(rival.domain("orders"))

    @pytest.mark.parametrize(
        ("read", "act"), CONFLICTS, ids=[f"{read.__name__}{n}" for n, (read, _) in enumerate(CONFLICTS)]
    )
    async def test_what_was_read_has_been_changed(self, shop: AsyncStore, rival: Store, read: Any, act: Any) -> None:
        rival.set_many({"k": 1, "ab": 1})
        with pytest.raises(ConflictError, match="run"):
            async with shop.transaction():
                await read(shop)
                act(rival)
                await shop.set("result", 1)
        assert "result" not in rival
        assert "k" in rival or act is not change

    @pytest.mark.parametrize(
        ("read", "act"), HARMLESS, ids=[f"{read.__name__}{n}" for n, (read, _) in enumerate(HARMLESS)]
    )
    async def test_what_was_not_read_may_change(self, shop: AsyncStore, rival: Store, read: Any, act: Any) -> None:
        rival.set_many({"k": 1, "ab": 1})
        async with shop.transaction():
            await read(shop)
            act(rival)
            await shop.set("result", 1)
        assert rival["result"] == 1

    async def test_blind_writes_do_not_conflict(self, shop: AsyncStore, rival: Store) -> None:
        rival["deleted"] = 1
        async with shop.transaction():
            await shop.set("k", "ours")
            await shop.set_many({"l": 1, "m": 2})
            rival["k"] = "theirs"
        assert rival["k"] == "ours"

    async def test_only_reading_conflicts_at_the_next_read(self, shop: AsyncStore, rival: Store) -> None:
        rival.set_many({"a": 1, "b": 1})
        async with shop.transaction():
            assert await shop.get("a") == 1
            rival.set_many({"a": 2, "b": 2})
            with pytest.raises(ConflictError):
                await shop.get("b")

    async def test_repeated_reads_give_the_same(self, shop: AsyncStore, rival: Store) -> None:
        rival["a"] = 1
        async with shop.transaction():
            assert await shop.get("a") == 1
            rival["a"] = 2
            assert await shop.get("a") == 1

    async def test_no_two_states_are_seen(self, shop: AsyncStore, rival: Store) -> None:
        """A rival moves an amount from k to ab1 between any two reads; a sum taken inside is never another."""
        for first, second in itertools.product(READS, READS):
            rival.clear()
            rival.set_many({"k": 10, "ab1": 10})
            async with shop.transaction():
                await first(shop)
                rival.run(lambda view: view.set_many({"k": 5, "ab1": 15, "ab2": 0}))
                with contextlib.suppress(ConflictError):
                    await second(shop)
                    found = await shop.get_many(["k", "ab1"])
                    assert set(found.values()) in ({10}, {5, 15}), (first, second)
                    assert sorted(await collect(shop.values())) in ([10, 10], [0, 5, 15]), (first, second)

    async def test_no_booking_yet_so_book(self, shop: AsyncStore, rival: Store) -> None:
        async def book(view: AsyncStore, who: str) -> None:
            bookings = view.domain("table 4")
            if await bookings.count("friday") == 0:
                await bookings.set(f"friday {who}", who)

        with pytest.raises(ConflictError):
            async with shop.transaction() as view:
                await book(view, "Ann")
                rival.domain("table 4").set("friday Bob", "Bob")
        assert list(rival.domain("table 4").values()) == ["Bob"]

    async def test_write_skew(self, shop: AsyncStore, rival: Store) -> None:
        """Two doctors on call; each may leave if the other stays."""
        rival.set_many({"alice": "on call", "bob": "on call"})
        with pytest.raises(ConflictError):
            async with shop.transaction():
                on_call = [name for name, state in await collect(shop.items()) if state == "on call"]
                assert len(on_call) == 2

                def bob_leaves(view: Store) -> None:
                    assert list(view.values()).count("on call") == 2
                    view["bob"] = "home"

                rival.run(bob_leaves)
                await shop.set("alice", "home")
        assert dict(rival) == {"alice": "on call", "bob": "home"}

    async def test_run_starts_again_until_nothing_conflicts(self, shop: AsyncStore, rival: Store) -> None:
        rival["n"] = 0
        calls: list[Any] = []

        async def add_one(view: AsyncStore) -> int:
            value = await view.get("n")
            calls.append(value)
            if len(calls) < 4:
                rival["n"] = value + 10
            await view.set("n", value + 1)
            return int(value) + 1

        assert await shop.run(add_one) == 31
        assert calls == [0, 10, 20, 30]
        assert rival["n"] == 31

    async def test_run_lets_other_errors_through(self, shop: AsyncStore, rival: Store) -> None:
        async def fail(view: AsyncStore) -> None:
            await view.set("n", 1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await shop.run(fail)
        assert not rival

    async def test_run_inside_a_transaction_leaves_the_retry_to_the_outermost(
        self, shop: AsyncStore, rival: Store
    ) -> None:
        rival["n"] = 0
        calls: list[Any] = []

        async def inner(view: AsyncStore) -> None:
            calls.append(await view.get("n"))
            if len(calls) == 1:
                rival["n"] = 10
            await view.set("n", await view.get("n") + 1)
            await view.get("other")

        async def outer(view: AsyncStore) -> None:
            await view.run(inner)

        await shop.run(outer)
        assert calls == [0, 10]
        assert rival["n"] == 11

    async def test_an_entry_that_expires_counts_as_changed(self, shop: AsyncStore, rival: Store) -> None:
        for look in (lambda: shop.contains("hold"), shop.count):
            rival.set("hold", 1, ttl=0.3)
            with pytest.raises(ConflictError):
                async with shop.transaction():
                    assert await look()
                    await asyncio.sleep(0.35)  # its own time: it remembers when it looked
                    await shop.set("relied on it", 1)
        assert not rival

    async def test_run_gives_up_in_the_end(
        self, shop: AsyncStore, rival: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ptb_kvpersistence.store.transaction.RUN_ATTEMPTS", 5)
        monkeypatch.setattr("ptb_kvpersistence.store.aio_transaction.RUN_ATTEMPTS", 5)
        calls: list[Any] = []

        async def lose(view: AsyncStore) -> None:
            calls.append(await view.get("n"))
            rival["n"] = len(calls)
            await view.set("n", "ours")

        with pytest.raises(ConflictError):
            await shop.run(lose)
        assert rival["n"] == len(calls) == 5
