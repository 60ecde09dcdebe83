"""Leases of named locks: the requests, and commits that are fenced by them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import pytest

from ptb_kvpersistence.backends.base import LINE_PATIENCE
from ptb_kvpersistence.errors import LeaseLostError
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    Commit,
    Fence,
    GetMany,
    LeaseReply,
    OpenStore,
    Put,
    ReleaseLease,
    RenewLease,
    VersionCheck,
)
from ptb_kvpersistence.testing.faces import Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Connect, Suite


class Acquire(Protocol):
    """Asks for the lock."""

    def __call__(
        self,
        holder: str,
        name: str = "report",
        ttl: int = 30_000,
        *,
        waits: bool = False,
        of: Subject | None = None,
        at: int | None = None,
    ) -> Awaitable[LeaseReply]:
        """Ask by another backend (``of``), or in another store (``at``)."""
        ...


class Leases(Suite):
    """One holder, first come first served, tokens that only grow."""

    guarantee = "named locks"

    @pytest.fixture
    def acquire(self, backend: Subject, store: int) -> Acquire:
        """Ask for the lock."""

        async def ask(
            holder: str,
            name: str = "report",
            ttl: int = 30_000,
            *,
            waits: bool = False,
            of: Subject | None = None,
            at: int | None = None,
        ) -> LeaseReply:
            return await (of or backend).perform(AcquireLease(at or store, name, holder, ttl, waits))

        return ask

    async def test_a_lock_has_one_holder(self, connect: Connect, acquire: Acquire) -> None:
        first = await acquire("a")
        assert first.token is not None
        assert first.holder == "a"
        other = connect()
        assert await acquire("b", of=other) == (None, "a", 0)
        assert await acquire("a") == (None, "a", 0)
        assert (await acquire("b", "another lock")).token is not None

    async def test_a_lock_that_was_given_back_is_free_and_tokens_grow(
        self, backend: Subject, store: int, acquire: Acquire
    ) -> None:
        tokens = []
        for holder in "abcba":
            token = (await acquire(holder)).token or 0
            assert await backend.perform(ReleaseLease(store, "report", holder, token))
            assert not await backend.perform(ReleaseLease(store, "report", holder, token))
            tokens.append(token)
        assert tokens == sorted(set(tokens))

    async def test_a_lease_ends_unless_renewed(
        self, backend: Subject, store: int, acquire: Acquire, place: Place
    ) -> None:
        token = (await acquire("a", ttl=1_000_000)).token or 0
        place.pass_time(900)
        assert await backend.perform(RenewLease(store, "report", token, 1_000_000))
        place.pass_time(900)
        assert (await acquire("b")).token is None
        place.pass_time(100)
        assert not await backend.perform(RenewLease(store, "report", token, 1_000_000))
        later = await acquire("b")
        assert (later.token or 0) > token
        assert not await backend.perform(RenewLease(store, "report", token, 1_000_000))
        assert not await backend.perform(ReleaseLease(store, "report", "a", token))
        assert (await acquire("c")).holder == "b"

    async def test_a_fenced_commit_is_made_only_while_the_lease_is_held(
        self, backend: Subject, store: int, acquire: Acquire, witness: Witness, place: Place
    ) -> None:
        token = (await acquire("a", ttl=1_000_000)).token or 0
        fence = (Fence("report", token),)
        reply = await backend.perform(Commit(store, (Put("d", "k", b"1"),), fences=fence))
        assert reply.is_committed
        for wrong in (Fence("report", token - 1), Fence("report", token + 1), Fence("other", token)):
            with pytest.raises(LeaseLostError, match=wrong.name):
                await backend.perform(Commit(store, (Put("d", "k", b"2"),), fences=(*fence, wrong)))
        place.pass_time(1000)
        with pytest.raises(LeaseLostError):
            await backend.perform(Commit(store, (Put("d", "k", b"3"),), fences=fence))
        await acquire("b")
        with pytest.raises(LeaseLostError):
            await backend.perform(Commit(store, (Put("d", "k", b"4"),), (VersionCheck("d", "k", 0),), fences=fence))
        assert witness.entries() == {("shop", "d", "k"): b"1"}
        await backend.perform(Commit(store, (Put("d", "free", b"5"),)))

    async def test_a_fenced_commit_that_is_sent_again_after_the_lease_is_applied_once(
        self, backend: Subject, store: int, acquire: Acquire
    ) -> None:
        token = (await acquire("a")).token or 0
        commit = Commit(store, (Put("d", "k", b"1"),), id="same", fences=(Fence("report", token),))
        first = await backend.perform(commit)
        await backend.perform(ReleaseLease(store, "report", "a", token))
        again = await backend.perform(commit)
        assert first.is_committed
        assert again.applied_before
        (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
        assert record.version == first.versions[0]

    async def test_locks_of_different_stores_are_different(self, backend: Subject, acquire: Acquire) -> None:
        other = (await backend.perform(OpenStore("other", "create"))).id
        assert (await acquire("a")).token
        assert (await acquire("b", at=other)).token

    async def test_who_came_first_is_served_first(
        self, connect: Connect, backend: Subject, store: int, acquire: Acquire
    ) -> None:
        other = connect()

        async def queue(name: str) -> None:
            token = (await acquire("a", name)).token or 0
            assert (await acquire("b", name, waits=True)).ahead == 0
            assert (await acquire("c", name, waits=True, of=other)).ahead == 1
            assert (await acquire("d", name, waits=True)).ahead == 2
            await backend.perform(ReleaseLease(store, name, "a", token))
            assert await acquire("d", name, waits=True) == (None, None, 2)
            assert await acquire("new", name, waits=False) == (None, None, 3)
            await backend.perform(ReleaseLease(store, name, "b"))  # leaves the line
            assert await acquire("d", name, waits=True) == (None, None, 1)
            assert ((await acquire("c", name, waits=True)).token or 0) > token

        await in_time(queue)

    async def test_who_waits_but_does_not_ask_is_passed_over(
        self, backend: Subject, store: int, acquire: Acquire, place: Place
    ) -> None:
        async def queue(name: str) -> None:
            token = (await acquire("a", name)).token or 0
            await acquire("frozen", name, waits=True)
            await acquire("b", name, waits=True)
            await backend.perform(ReleaseLease(store, name, "a", token))
            assert (await acquire("b", name, waits=True)).token is None
            place.pass_time(LINE_PATIENCE / 1000)
            assert ((await acquire("b", name, waits=True)).token or 0) > token

        await in_time(queue)

    async def test_a_holder_that_left_the_line_does_not_hold_it_up(
        self, backend: Subject, store: int, acquire: Acquire
    ) -> None:
        token = (await acquire("a")).token or 0
        assert not await backend.perform(ReleaseLease(store, "report", "never asked"))
        assert await backend.perform(ReleaseLease(store, "report", "a", token))
        assert not await backend.perform(ReleaseLease(store, "report", "a", token))
        assert not await backend.perform(RenewLease(store, "report", token, 1000))
        assert (await acquire("b")).token


async def in_time(scenario: Callable[[str], Awaitable[Any]]) -> None:
    """Run what must be over before a waiter loses its place in line; again where the machine was too slow."""
    for attempt in range(10):
        started = time.monotonic()
        try:
            await scenario(f"lock {attempt}")
        except AssertionError:
            if time.monotonic() - started < 0.8 * LINE_PATIENCE / 1000:
                raise
        else:
            return
    raise AssertionError(f"ten attempts each took longer than {LINE_PATIENCE} ms")
