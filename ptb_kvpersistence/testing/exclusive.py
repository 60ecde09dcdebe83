"""Exclusive sessions and transactions: who waits, who is refused, and that the lock is always given back."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from ptb_kvpersistence.errors import BusyError, ConflictError, LeaseLostError, LockTimeoutError, ReentryError
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    AttachBot,
    Changes,
    Commit,
    Count,
    Fence,
    GetMany,
    KeyRange,
    ListBots,
    OpenStore,
    Page,
    Put,
    ReleaseLease,
    RenewLease,
    VersionCheck,
)
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import Face, Subject, collect
from ptb_kvpersistence.testing.place import Witness
from ptb_kvpersistence.testing.suite import Connect, Suite, Write


class Sessions(Suite):
    """The port's exclusive sessions."""

    guarantee = "exclusive transaction"

    async def test_a_session_reads_and_commits(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        (version,) = await put(a=b"1")
        session = await backend.exclusive(store)
        (record,) = await session.perform(GetMany(store, (Address("d", "a"),)))
        assert (record.value, record.version) == (b"1", version)
        assert await session.perform(Count(store, KeyRange("d"))) == 1
        assert [key for key, _ in (await session.perform(Page(store, KeyRange("d"), 9))).items] == ["a"]
        await session.end(Commit(store, (Put("d", "a", b"2"), Put("d", "b", b"3"))))
        assert witness.entries() == {("shop", "d", "a"): b"2", ("shop", "d", "b"): b"3"}
        changes = (await backend.perform(Changes(store, version))).changes
        assert [change.key for change in changes] == ["a", "b"]

    @pytest.mark.parametrize("durable", [True, False])
    async def test_a_session_without_a_commit_writes_nothing(
        self, backend: Subject, store: int, put: Write, witness: Witness, durable: bool
    ) -> None:
        session = await backend.exclusive(store, durable=durable)
        await session.end(None)
        assert witness.entries() == {}
        await put(a=b"1")
        await (await backend.exclusive(store, 0)).end(None)

    async def test_a_commit_at_the_end_that_was_applied_before_is_not_applied_again(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        commit = Commit(store, (Put("d", "a", b"1"),), id="same")
        await (await backend.exclusive(store)).end(commit)
        await put(a=b"2")
        await (await backend.exclusive(store)).end(commit)
        assert (await backend.perform(commit)).applied_before
        assert witness.entries() == {("shop", "d", "a"): b"2"}
        assert witness.commits() == {"same"}

    async def test_a_fence_that_is_broken_writes_nothing_and_frees_the_store(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        token = (await backend.perform(AcquireLease(store, "report", "a", 30_000))).token or 0
        session = await backend.exclusive(store)
        with pytest.raises(LeaseLostError, match="report"):
            await session.end(Commit(store, (Put("d", "a", b"1"),), fences=(Fence("report", token + 1),)))
        assert witness.entries() == {}
        session = await backend.exclusive(store, 1)
        await session.end(Commit(store, (Put("d", "a", b"1"),), fences=(Fence("report", token),)))
        await put(b=b"2")
        assert len(witness.entries()) == 2

    async def test_others_wait_and_are_told_when_it_takes_too_long(
        self, face: Face, connect: Connect, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        await put(a=b"1")
        other = connect(0.2)
        await other.perform(Count(store, KeyRange("d")))
        session = await backend.exclusive(store)

        async def rival() -> list[float]:
            waits = []
            for timeout in (None, 0.3):
                started = time.monotonic()
                with pytest.raises(BusyError):
                    await other.perform(Commit(store, (Put("d", "a", b"2"),)), timeout)
                waits.append(time.monotonic() - started)
            for limit in (0.0, 0.2):
                started = time.monotonic()
                with pytest.raises(LockTimeoutError):
                    await other.exclusive(store, limit)
                assert limit - 0.02 <= time.monotonic() - started < 5
            (record,) = await other.perform(GetMany(store, (Address("d", "a"),)))
            assert record.value == b"1"
            return waits

        first, second = await face.elsewhere(rival)
        assert 0.15 <= first < 5
        assert 0.25 <= second < 5
        await session.end(None)
        await face.elsewhere(lambda: other.perform(Commit(store, (Put("d", "a", b"3"),)), 5))
        assert witness.entries() == {("shop", "d", "a"): b"3"}

    async def test_a_checked_commit_waits_too_and_is_judged_by_what_the_session_wrote(
        self, face: Face, connect: Connect, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        (version,) = await put(a=b"1")
        session, other = await backend.exclusive(store), connect()
        check = (VersionCheck("d", "a", version),)
        waiting = face.start(lambda: other.perform(Commit(store, (Put("d", "a", b'"theirs"'),), check)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await session.end(Commit(store, (Put("d", "a", b'"ours"'),)))
        assert not (await waiting).is_committed
        assert witness.entries() == {("shop", "d", "a"): b'"ours"'}

    async def test_locks_and_bots_do_not_wait_for_it(
        self, face: Face, connect: Connect, backend: Subject, store: int
    ) -> None:
        other = connect()
        session = await backend.exclusive(store)

        async def work() -> None:
            token = (await other.perform(AcquireLease(store, "report", "a", 30_000))).token or 0
            assert await other.perform(RenewLease(store, "report", token, 30_000))
            assert await other.perform(ReleaseLease(store, "report", "a", token))
            await other.perform(AttachBot(store, "bot"))
            assert [bot.name for bot in await other.perform(ListBots(store))] == ["bot"]
            await other.perform(Changes(store, 0))
            await other.perform(OpenStore("shop"))

        started = time.monotonic()
        await face.elsewhere(work)
        assert time.monotonic() - started < 3
        await session.end(None)

    async def test_who_would_wait_for_himself_is_told_at_once(self, backend: Subject, store: int, put: Write) -> None:
        session = await backend.exclusive(store)
        started = time.monotonic()
        with pytest.raises(ReentryError):
            await backend.exclusive(store, 30)
        with pytest.raises(ReentryError):
            await backend.perform(Commit(store, (Put("d", "a", b"1"),)), 30)
        assert time.monotonic() - started < 3
        await session.end(None)
        await put(a=b"1")


class Exclusive(Suite):
    """Transactions with ``lock=True``."""

    guarantee = "exclusive transaction"

    async def test_writers_wait_and_readers_do_not(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        other = face.store(connect())
        await shop.set("k", "before")
        assert await other.get("k") == "before"

        async def read() -> tuple[Any, list[str]]:
            return await other.get("k"), await collect(other.keys())

        async with shop.transaction(lock=True) as view:
            await view.set("k", "after")
            writers = [
                face.start(lambda: other.set("a", 1)),
                face.start(lambda: other.domain("d").set("b", 1)),
                face.start(lambda: other.increment("c")),
            ]
            await asyncio.sleep(0.1)
            started = time.monotonic()
            assert await face.elsewhere(read) == ("before", ["k"])
            assert time.monotonic() - started < 2, "a reader waited for the lock"
            assert await view.get("k") == "after"
            assert not any(writer.done() for writer in writers)
        await asyncio.wait_for(asyncio.gather(*writers), 10)
        assert await collect(shop.keys()) == ["a", "c", "k"]

    async def test_locked_increments_are_all_counted(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        others = [face.store(connect()) for _ in range(3)]

        async def work(store: AsyncStore) -> None:
            for _ in range(15):
                async with store.transaction(lock=True, timeout=30) as view:
                    await view.set("n", await view.get("n", 0) + 1)

        for other in others:
            await other.count()
        await asyncio.gather(*(face.start(lambda other=other: work(other)) for other in others))  # type: ignore[misc]
        assert await shop.get("n") == 45

    async def test_plain_and_optimistic_increments_are_all_counted(
        self, face: Face, connect: Connect, shop: AsyncStore
    ) -> None:
        others = [face.store(connect()) for _ in range(3)]

        async def add(view: AsyncStore) -> None:
            await view.set("n", await view.get("n", 0) + 1)

        async def work(store: AsyncStore) -> None:
            for _ in range(8):
                await store.increment("n")
                await store.run(add)

        await asyncio.gather(*(face.start(lambda other=other: work(other)) for other in others))  # type: ignore[misc]
        assert await shop.get("n") == 48

    async def test_reads_inside_conflict_with_nobody(self, shop: AsyncStore) -> None:
        async with shop.transaction(lock=True):
            before = await shop.get("n", 0)
            assert await shop.count() == 0
            await shop.set("n", before + 1)
        assert await shop.get("n") == 1

    async def test_the_wait_has_an_end(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        other = face.store(connect(0.1))
        await other.count()

        async def rival() -> None:
            for timeout in (0, 0.1):
                started = time.monotonic()
                with pytest.raises(LockTimeoutError, match="try again"):
                    async with other.transaction(lock=True, timeout=timeout):
                        pytest.fail("there is somebody inside")
                assert timeout - 0.02 <= time.monotonic() - started < 5
            with pytest.raises(BusyError):
                await other.set("k", 1)

        async with shop.transaction(lock=True):
            await face.elsewhere(rival)

        async def take() -> None:
            async with other.transaction(lock=True, timeout=2):
                await other.set("k", 2)

        await face.elsewhere(take)  # not on the loop: those that gave up may still be handing their turn on
        assert await shop.get("k") == 2

    async def test_a_child_is_not_inside(self, face: Face, connect: Connect, shop: AsyncStore, rival: Store) -> None:
        async def child() -> None:
            assert await shop.count() == 0
            await shop.set("child", 1)
            with pytest.raises(ConflictError):
                await shop.set("a", 2, if_version=1)

        with pytest.raises(ValueError, match="roll back"):
            async with shop.transaction():
                await shop.set("a", 1)
                await face.elsewhere(child)
                assert dict(rival) == {"child": 1}
                raise ValueError("roll back")
        assert dict(rival) == {"child": 1}

    async def test_a_nested_lock_is_no_second_one(self, shop: AsyncStore, rival: Store) -> None:
        async with shop.transaction(lock=True):
            async with shop.transaction(lock=True) as view:
                await view.set("k", 1)
            async with shop.transaction():
                await shop.increment("k")
            assert not rival
        async with shop.transaction(lock=True, timeout=1):
            await shop.increment("k")
        assert dict(rival) == {"k": 3}

    async def test_the_lock_cannot_be_taken_half_way(self, shop: AsyncStore, rival: Store) -> None:
        async with shop.transaction():
            await shop.set("a", 1)
            with pytest.raises(ReentryError, match="lock=True"):
                async with shop.transaction(lock=True):
                    pytest.fail("it was let in")
            await shop.set("b", 1)
        assert dict(rival) == {"a": 1, "b": 1}

    async def test_a_sync_store_does_not_wait_inside_a_running_loop(
        self, face: Face, shop: AsyncStore, rival: Store
    ) -> None:
        rival["works"] = "as long as there is nothing to wait for"
        inside, done = threading.Event(), threading.Event()

        async def hold() -> None:
            async with shop.transaction(lock=True):
                inside.set()
                while not done.is_set():
                    await face.sleep(0.005)

        holder = face.start(hold)
        while not inside.is_set():
            await asyncio.sleep(0.005)
        try:
            assert rival["works"]
            with pytest.raises(ReentryError, match="AsyncStore"):
                rival["k"] = 1
            with pytest.raises(ReentryError, match="AsyncStore"), rival.transaction(lock=True):
                pytest.fail("it was let in")
        finally:
            done.set()
            await holder
        rival["k"] = 2
        assert await shop.get("k") == 2

    async def test_waiters_that_give_up_leave_nothing_locked(
        self, face: Face, connect: Connect, shop: AsyncStore
    ) -> None:
        others = [face.store(connect()) for _ in range(3)]
        for other in others:
            await other.count()

        async def give_up(other: AsyncStore) -> None:
            with pytest.raises(LockTimeoutError):
                async with other.transaction(lock=True, timeout=0.1):
                    pytest.fail("there is somebody inside")

        async with shop.transaction(lock=True):
            await asyncio.gather(*(face.start(lambda other=other: give_up(other)) for other in others))  # type: ignore[misc]

        async def take(other: AsyncStore) -> None:
            async with other.transaction(lock=True, timeout=5):
                await other.increment("n")

        for other in others:  # not on the loop: those that gave up may still be handing their turn on
            await face.elsewhere(lambda other=other: take(other))  # type: ignore[misc]
        assert await shop.get("n") == 3
