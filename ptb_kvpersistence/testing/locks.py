"""``store.lock`` of both faces: what the leases are for."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ptb_kvpersistence.errors import LeaseLostError, LockTimeoutError, ReentryError, StoreNotFoundError
from ptb_kvpersistence.model import AcquireLease, DeleteStore, RenewLease
from ptb_kvpersistence.store import leases
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.leases import Lease
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing.faces import Face, Subject
from ptb_kvpersistence.testing.suite import Connect, Suite


async def lose(backend: Subject, lease: Lease) -> None:
    """Have the lease expire and be taken by somebody else, as if this process had been frozen meanwhile."""
    await backend.perform(RenewLease(lease.store, lease.name, lease.token, 1))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        await asyncio.sleep(0.005)
        reply = await backend.perform(AcquireLease(lease.store, lease.name, "thief", 30_000, waits=False))
        if reply.token is not None:
            assert reply.token > lease.token
            return
    raise AssertionError("the lease did not end")


class Locks(Suite):
    """Named locks across processes, held by threads and tasks."""

    guarantee = "named locks"

    async def test_the_lock_keeps_out_others_and_nobody_else(
        self, face: Face, connect: Connect, shop: AsyncStore, rival: Store
    ) -> None:
        other = face.store(connect())

        async def refused(store: AsyncStore, timeout: float) -> None:
            started = time.monotonic()
            with pytest.raises(LockTimeoutError):
                async with store.lock("report", timeout=timeout):
                    pytest.fail("there is somebody inside")
            assert timeout <= time.monotonic() - started < timeout + 2

        async def later() -> int:
            async with other.lock("report", timeout=0) as lease:
                return lease.token

        async with shop.lock("report") as lease:
            assert lease.is_held
            assert lease.name == "report"
            lease.check()
            await face.elsewhere(lambda: refused(other, 0))
            await face.elsewhere(lambda: refused(shop, 0.2))
            rival["anybody"] = "writes"
            async with shop.lock("another") as another:
                assert another.name != lease.name
        assert [lease.is_held, another.is_held] == [False, False]
        with pytest.raises(LeaseLostError):
            lease.check()
        assert await face.elsewhere(later) > lease.token
        assert not leases.held

    async def test_a_lock_that_comes_free_is_taken(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        other = face.store(connect())
        inside, done = threading.Event(), threading.Event()

        async def hold() -> None:
            async with other.domain("d").lock("report"):  # it belongs to the store, not to the domain
                inside.set()
                while not done.is_set():
                    await face.sleep(0.005)

        async def take() -> float:
            async with shop.lock("report", timeout=10) as lease:
                assert lease.is_held
                return time.monotonic()

        holder = face.start(hold)
        while not inside.is_set():
            await asyncio.sleep(0.005)
        taker = face.start(take)
        await asyncio.sleep(0.15)
        assert not taker.done()
        freed = time.monotonic()
        done.set()
        assert await taker - freed < 2
        await holder

    async def test_increments_under_the_lock_are_all_counted(
        self, face: Face, connect: Connect, shop: AsyncStore
    ) -> None:
        stores = [shop, *(face.store(connect()) for _ in range(2))]

        async def work(store: AsyncStore) -> None:
            for _ in range(8):
                async with store.lock("count", timeout=30):
                    await store.set("n", await store.get("n", 0) + 1)

        await asyncio.gather(*(face.start(lambda store=store: work(store)) for store in stores))  # type: ignore[misc]
        assert await shop.get("n") == 24

    async def test_it_is_renewed_while_it_is_held(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        other = face.store(connect())

        async def refused() -> None:
            with pytest.raises(LockTimeoutError):
                async with other.lock("report", timeout=0):
                    pytest.fail("there is somebody inside")

        async with shop.lock("report", ttl=0.6) as lease:
            await asyncio.sleep(1.3)
            assert lease.is_held
            await shop.set("written", True)
            await face.elsewhere(refused)

    async def test_a_holder_that_lost_its_lease_writes_nothing_more(
        self, face: Face, connect: Connect, shop: AsyncStore, rival: Store
    ) -> None:
        thief = connect()
        async with shop.lock("report") as lease:
            await shop.set("before", 1)
            await lose(thief, lease)
            for write in (
                lambda: shop.set("after", 1),
                lambda: shop.domain("d").set("after", 1),
                lambda: shop.increment("before"),
                lambda: shop.pop("before"),
                lambda: shop.set_many({"after": 1}),
                shop.clear,
                lambda: shop.run(lambda view: view.set("after", 1)),
            ):
                with pytest.raises(LeaseLostError):
                    await write()
            for lock in (False, True):
                with pytest.raises(LeaseLostError):
                    async with shop.transaction(lock=lock):
                        await shop.set("after", 1)
            assert await shop.get("before") == 1
            await face.elsewhere(lambda: shop.set("somebody else", 1))
        assert dict(rival) == {"before": 1, "somebody else": 1}
        with rival.transaction(lock=True, timeout=0):
            rival["session"] = "ended"

    @pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "exclusive"])
    async def test_a_transaction_is_fenced_where_it_commits(
        self, connect: Connect, shop: AsyncStore, rival: Store, lock: bool
    ) -> None:
        thief = connect()
        async with shop.lock("report") as lease:
            async with shop.transaction(lock=lock):
                await shop.set("inside", 1)
            with pytest.raises(LeaseLostError):
                async with shop.transaction(lock=lock):
                    await shop.set("lost", 1)
                    await lose(thief, lease)
        assert dict(rival) == {"inside": 1}
        with rival.transaction(lock=True, timeout=0):
            rival["session"] = "ended"

    async def test_a_lost_lease_is_noticed_without_writing(self, connect: Connect, shop: AsyncStore) -> None:
        thief = connect()
        async with shop.lock("report", ttl=0.3) as lease:
            await lose(thief, lease)
            deadline = time.monotonic() + 5
            while lease.is_held and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            with pytest.raises(LeaseLostError, match="report"):
                lease.check()

    async def test_reentry_is_refused_at_once(self, shop: AsyncStore) -> None:
        started = time.monotonic()
        async with shop.lock("report") as lease:
            for store in (shop, shop.domain("d")):
                with pytest.raises(ReentryError):
                    async with store.lock("report", timeout=10):
                        pytest.fail("it was let in")
            assert lease.is_held
        assert time.monotonic() - started < 2
        async with shop.transaction():
            with pytest.raises(ReentryError, match="acquire the lock first"):
                async with shop.lock("report"):
                    pytest.fail("it was let in")

    async def test_an_error_inside_gives_the_lock_back(self, face: Face, connect: Connect, shop: AsyncStore) -> None:
        other = face.store(connect())
        with pytest.raises(ZeroDivisionError):
            async with shop.lock("report"):
                raise ZeroDivisionError
        async with other.lock("report", timeout=0):
            assert True

    async def test_a_lock_of_a_deleted_store(self, backend: Subject, shop: AsyncStore) -> None:
        await backend.perform(DeleteStore("shop"))
        with pytest.raises(StoreNotFoundError):
            async with shop.lock("report"):
                pytest.fail("there is nothing to lock")
        assert not leases.held
