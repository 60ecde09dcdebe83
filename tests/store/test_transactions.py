"""Transactions: all or nothing, and as if nobody else were there; on both backends and both faces."""

# A transaction is a block; where in it the error comes is part of what is tested.
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from ptb_kvpersistence.errors import ConflictError
from tests.store.faces import collect

FAILURES = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


async def contents(store):
    return dict(await collect(store.items()))


# --- all or nothing ---


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_all_is_written_at_the_end(store, rival, lock):
    rival["old"] = 1
    async with store.transaction(lock=lock) as view:
        await store.set("a", 1)
        await view.set("b", 2)
        await store.delete("old")
        assert dict(rival) == {"old": 1}
        assert await contents(store) == await contents(view) == {"a": 1, "b": 2}
        assert await store.count() == 2
        assert not await store.contains("old")
        assert await view.get_many(["a", "b", "old"]) == {"a": 1, "b": 2}
    assert dict(rival) == {"a": 1, "b": 2}


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_any_exception_rolls_back(store, rival, lock, failure):
    rival["kept"] = 1
    with pytest.raises(failure):
        async with store.transaction(lock=lock):
            await store.set("new", 1)
            await store.clear()
            await store.domain("other").set("new", 1)
            raise failure
    assert dict(rival) == {"kept": 1}
    assert len(rival.domain("other")) == 0
    rival["free"] = "the lock is free"
    await store.set("outside", "the transaction is over")
    assert len(rival) == 3


async def test_an_error_inside_that_is_caught_spoils_nothing(store, rival):
    async with store.transaction():
        await store.set("a", 1)
        with pytest.raises(TypeError):
            await store.set("b", object())
        with pytest.raises(KeyError):
            await store.delete("absent")
    assert dict(rival) == {"a": 1}


async def test_a_failed_inner_one_rolls_back_alone(store, rival):
    async with store.transaction():
        await store.set("outer", 1)
        async with store.transaction():
            await store.set("kept", 1)
            with pytest.raises(ValueError, match="innermost"):
                async with store.transaction() as innermost:
                    await innermost.set("kept", 2)
                    await store.delete("outer")
                    await innermost.set("lost", 1)
                    raise ValueError("innermost")
            assert await contents(store) == {"outer": 1, "kept": 1}
        with pytest.raises(KeyError):
            async with store.transaction():
                await store.set("kept", 3)
                async with store.transaction():
                    await store.set("committed inside", 1)
                raise KeyError
    assert dict(rival) == {"outer": 1, "kept": 1}


async def test_the_outer_one_takes_the_inner_ones_with_it(store, rival):
    with pytest.raises(ZeroDivisionError):
        async with store.transaction():
            async with store.transaction():
                await store.set("inner", 1)
            raise ZeroDivisionError
    assert not rival


async def test_what_a_failed_inner_one_read_still_counts(store, rival):
    rival["stock"] = 1
    with pytest.raises(ConflictError):
        async with store.transaction():
            with contextlib.suppress(ValueError):
                async with store.transaction():
                    if await store.get("stock"):
                        raise ValueError
            rival["stock"] = 0
            await store.set("decision", "made from the stock")
    assert dict(rival) == {"stock": 0}


async def test_every_operation_inside_sees_the_writes_before_it(store, rival):
    rival.set_many({"n": 1, "list": [1], "gone": 1, "x1": 1, "x2": 2})
    async with store.transaction():
        assert await store.increment("n") == 2
        assert await store.increment("n") == 3
        assert await store.append("list", 2) == 2
        assert await store.append("list", 3) == 3
        assert await store.pop("gone") == 1
        assert await store.pop("gone", "none") == "none"
        await store.add("gone", 2)
        with pytest.raises(KeyError):
            await store.add("gone", 3)
        assert await store.replace("gone", 4) is True
        assert await store.setdefault("gone", 5) == 4
        assert await store.setdefault("fresh", 6) == 6
        async with store.edit("list") as value:
            value.append(4)
        assert await store.discard("x1") is True
        assert await store.discard("x1") is False
        entry = await store.entry("n")
        await store.set("n", 10, if_version=entry.version)
        with pytest.raises(ConflictError):
            await store.set("n", 11, if_version=entry.version)
        assert await collect(store.keys("x")) == ["x2"]
        assert await store.count("x") == 1
        assert await collect(store.keys(reverse=True)) == ["x2", "n", "list", "gone", "fresh"]
        inside = await contents(store)
    assert dict(rival) == inside == {"n": 10, "list": [1, 2, 3, 4], "gone": 4, "fresh": 6, "x2": 2}


async def test_a_listing_inside_is_whole_over_many_pages(store, rival, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.operations.PAGE", 3)
    rival.set_many({f"k{n:02}": n for n in range(10)})
    async with store.transaction():
        for n in (0, 3, 4, 5, 9):
            await store.delete(f"k{n:02}")
        await store.set_many({"k": "first", "k015": "between", "z": "last"})
        expected = ["k", "k01", "k015", "k02", "k06", "k07", "k08", "z"]
        assert await collect(store.keys()) == expected
        assert await collect(store.keys(reverse=True)) == expected[::-1]
        assert await collect(store.keys("k0", start="k015", stop="k08")) == ["k015", "k02", "k06", "k07"]
    assert list(rival) == expected


# --- over domains, those of bots too ---


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_one_transaction_spans_domains(store, rival, lock):
    rival.domain("ptb:user_data").set("42", {"coins": 5})
    orders, users = store.domain("orders"), store.domain("ptb:user_data")
    with pytest.raises(ValueError, match="too late"):
        async with store.transaction(lock=lock):
            await orders.add("PO-1", "tea")
            async with users.edit("42") as user:
                user["coins"] -= 5
            raise ValueError("too late")
    assert rival.domain("ptb:user_data")["42"] == {"coins": 5}
    async with orders.transaction(lock=lock):
        await orders.add("PO-1", "tea")
        async with users.edit("42") as user:
            user["coins"] -= 5
        await store.set("root", 1)
    assert (dict(rival.domain("orders")), dict(rival)) == ({"PO-1": "tea"}, {"root": 1})
    assert rival.domain("ptb:user_data")["42"] == {"coins": 0}


async def test_the_view_of_a_domain_is_that_domain(store, rival):
    async with store.domain("orders").transaction() as view:
        await view.set("a", 1)
        async with store.transaction() as inner:
            await inner.set("b", 1)
    assert (dict(rival), dict(rival.domain("orders"))) == ({"b": 1}, {"a": 1})


async def test_a_read_in_another_domain_counts(store, rival):
    rival.domain("ptb:user_data").set("42", {"banned": False})
    with pytest.raises(ConflictError):
        async with store.transaction():
            assert not (await store.domain("ptb:user_data").get("42"))["banned"]
            rival.domain("ptb:user_data").set("42", {"banned": True})
            await store.domain("orders").add("PO-1", "tea")
    assert not len(rival.domain("orders"))


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_a_domain_keeps_its_setting_though_it_was_first_used_in_a_failed_transaction(store, rival, lock):
    orders = store.domain("orders", keep=60)
    with pytest.raises(ValueError, match="no"):
        async with store.transaction(lock=lock):
            await orders.set("a", 1)
            raise ValueError("no")
    await orders.set("b", 1)
    assert rival.domain("orders").entry("b").expires_at is not None


@pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
async def test_a_domain_setting_works_inside_too(store, rival, lock):
    orders = store.domain("orders", keep=60)
    async with store.transaction(lock=lock):
        await orders.set("a", 1)
        await orders.set("b", 1)
    assert rival.domain("orders").entry("a").expires_at is not None
    async with store.transaction(lock=lock), store.domain("more", keep=60).transaction() as view:
        await view.set("c", 1)
    assert rival.domain("more").entry("c").expires_at is not None


# --- what conflicts ---


async def get(store):
    await store.get("k")


async def get_absent(store):
    await store.get("absent")


async def contains_absent(store):
    assert not await store.contains("absent")


async def get_many(store):
    await store.get_many(["k", "absent"])


async def entry(store):
    await store.entry("k")


async def listing(store):
    await collect(store.keys())


async def reverse_listing(store):
    await collect(store.items(reverse=True))


async def prefix_listing(store):
    await collect(store.values("ab"))


async def range_listing(store):
    await collect(store.keys(start="a", stop="m"))


async def count(store):
    await store.count()


async def prefix_count(store):
    await store.count("ab")


async def clear(store):
    await store.clear()


async def write_own_then_count(store):
    await store.set("absent", 1)
    await store.count("a")


def change(key):
    def act(rival):
        rival[key] = "changed"

    return act


def delete(key):
    def act(rival):
        del rival[key]

    return act


def delete_and_write_again(rival):
    value = rival.pop("k")
    rival["k"] = value


CONFLICTS = [
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


@pytest.mark.parametrize(
    ("read", "act"), CONFLICTS, ids=[f"{read.__name__}{n}" for n, (read, _) in enumerate(CONFLICTS)]
)
async def test_what_was_read_has_been_changed(store, rival, read, act):
    rival.set_many({"k": 1, "ab": 1})
    with pytest.raises(ConflictError, match="run"):
        async with store.transaction():
            await read(store)
            act(rival)
            await store.set("result", 1)
    assert "result" not in rival
    assert "k" in rival or act is not change


HARMLESS = [
    (get, change("other")),
    (get_absent, change("k")),
    (prefix_listing, change("aa")),
    (prefix_listing, change("ac")),
    (range_listing, change("m")),
    (prefix_count, change("b")),
    (listing, lambda rival: rival.domain("elsewhere").set("k", 1)),
]


@pytest.mark.parametrize(("read", "act"), HARMLESS, ids=[f"{read.__name__}{n}" for n, (read, _) in enumerate(HARMLESS)])
async def test_what_was_not_read_may_change(store, rival, read, act):
    rival.set_many({"k": 1, "ab": 1})
    async with store.transaction():
        await read(store)
        act(rival)
        await store.set("result", 1)
    assert rival["result"] == 1


async def test_blind_writes_do_not_conflict(store, rival):
    rival["deleted"] = 1
    async with store.transaction():
        await store.set("k", "ours")
        await store.set_many({"l": 1, "m": 2})
        rival["k"] = "theirs"
    assert rival["k"] == "ours"


async def test_only_reading_conflicts_at_the_next_read(store, rival):
    rival.set_many({"a": 1, "b": 1})
    async with store.transaction():
        assert await store.get("a") == 1
        rival.set_many({"a": 2, "b": 2})
        with pytest.raises(ConflictError):
            await store.get("b")


async def test_repeated_reads_give_the_same(store, rival):
    rival["a"] = 1
    async with store.transaction():
        assert await store.get("a") == 1
        rival["a"] = 2
        assert await store.get("a") == 1


READS = [get, listing, count, prefix_listing, get_many]


async def test_no_two_states_are_seen(store, rival):
    """A rival moves an amount from k to ab1 between any two reads; a sum taken inside is never another."""
    for first, second in itertools.product(READS, READS):
        rival.clear()
        rival.set_many({"k": 10, "ab1": 10})
        async with store.transaction():
            await first(store)
            rival.run(lambda view: view.set_many({"k": 5, "ab1": 15, "ab2": 0}))
            with contextlib.suppress(ConflictError):
                await second(store)
                found = await store.get_many(["k", "ab1"])
                assert set(found.values()) in ({10}, {5, 15}), (first, second)
                assert sorted(await collect(store.values())) in ([10, 10], [0, 5, 15]), (first, second)


async def test_no_booking_yet_so_book(store, rival):
    async def book(view, who):
        bookings = view.domain("table 4")
        if await bookings.count("friday") == 0:
            await bookings.set(f"friday {who}", who)

    with pytest.raises(ConflictError):
        async with store.transaction() as view:
            await book(view, "Ann")
            rival.domain("table 4").set("friday Bob", "Bob")
    assert list(rival.domain("table 4").values()) == ["Bob"]


async def test_write_skew(store, rival):
    """Two doctors on call; each may leave if the other stays."""
    rival.set_many({"alice": "on call", "bob": "on call"})
    with pytest.raises(ConflictError):
        async with store.transaction():
            on_call = [name for name, state in await collect(store.items()) if state == "on call"]
            assert len(on_call) == 2

            def bob_leaves(view):
                assert list(view.values()).count("on call") == 2
                view["bob"] = "home"

            rival.run(bob_leaves)
            await store.set("alice", "home")
    assert dict(rival) == {"alice": "on call", "bob": "home"}


async def test_an_entry_that_expires_counts_as_changed(store, rival, clock):
    rival.set("hold", 1, ttl=10)
    with pytest.raises(ConflictError):
        async with store.transaction():
            assert await store.contains("hold")
            clock.advance(11)
            await store.set("relied on it", 1)
    rival.set("hold", 1, ttl=10)
    with pytest.raises(ConflictError):
        async with store.transaction():
            assert await store.count() == 1
            clock.advance(11)
            await store.set("relied on it", 1)
    assert not rival


# --- run ---


async def test_run_starts_again_until_nothing_conflicts(store, rival):
    rival["n"] = 0
    calls = []

    async def add_one(view):
        value = await view.get("n")
        calls.append(value)
        if len(calls) < 4:
            rival["n"] = value + 10
        await view.set("n", value + 1)
        return value + 1

    assert await store.run(add_one) == 31
    assert calls == [0, 10, 20, 30]
    assert rival["n"] == 31


async def test_run_gives_up_in_the_end(store, rival, monkeypatch):
    monkeypatch.setattr("ptb_kvpersistence.store.transaction.RUN_ATTEMPTS", 5)
    monkeypatch.setattr("ptb_kvpersistence.store.aio_transaction.RUN_ATTEMPTS", 5)
    calls = []

    async def lose(view):
        calls.append(await view.get("n"))
        rival["n"] = len(calls)
        await view.set("n", "ours")

    with pytest.raises(ConflictError):
        await store.run(lose)
    assert len(calls) == 5
    assert rival["n"] == 5


async def test_run_lets_other_errors_through(store, rival):
    async def fail(view):
        await view.set("n", 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.run(fail)
    assert not rival


async def test_run_inside_a_transaction_leaves_the_retry_to_the_outermost(store, rival):
    rival["n"] = 0
    calls = []

    async def inner(view):
        calls.append(await view.get("n"))
        if len(calls) == 1:
            rival["n"] = 10
        await view.set("n", await view.get("n") + 1)
        await view.get("other")

    async def outer(view):
        await view.run(inner)

    await store.run(outer)
    assert calls == [0, 10]
    assert rival["n"] == 11
