"""What the async face has besides requests: blocking, release, several tasks, and callers that are cancelled."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from ptb_kvpersistence.backends.base import AsyncBackend
from ptb_kvpersistence.errors import StoreClosedError
from ptb_kvpersistence.model import (
    Address,
    Changes,
    Commit,
    Delete,
    DeleteStore,
    GetMany,
    ListStores,
    OpenStore,
    Put,
    Requested,
    VersionCheck,
)
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.testing.faces import Face, Subject
from ptb_kvpersistence.testing.place import Witness
from ptb_kvpersistence.testing.suite import Connect, Suite, on_async_face


async def write(backend: AsyncBackend, store: int, key: str, value: bytes) -> None:
    """Write a value."""
    await backend.perform(Commit(store, (Put("d", key, value),)))


@types.coroutine
def cancelled_at(coroutine: Coroutine[Any, Any, None], step: int) -> Generator[Any, Any, None]:
    """Run a coroutine whose task is cancelled while it waits for the ``step``-th time."""
    reply: Any = None
    send: Callable[[Any], Any] = coroutine.send
    for number in itertools.count():
        try:
            waits_for = send(reply)
        except StopIteration:
            return
        if number == step:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
        try:
            reply, send = (yield waits_for), coroutine.send
        except BaseException as error:  # noqa: BLE001 - it is handed on
            reply, send = error, coroutine.throw


async def awaited(awaitable: Any) -> Any:
    """A coroutine, which is what a task takes."""
    return await awaitable


class AsyncOnly(Suite):
    """Requests that go on without their caller, and backends that are released."""

    guarantee = "async face"

    @pytest.fixture
    def abackend(self, backend: Subject) -> Any:
        """The backend itself."""
        return backend.raw

    @on_async_face
    async def test_the_blocking_backend_works_on_the_same_database(
        self, abackend: AsyncBackend, store: int, witness: Witness
    ) -> None:
        await write(abackend, store, "a", b"1")
        sync = abackend.blocking()
        (record,) = sync.perform(GetMany(store, (Address("d", "a"),)))
        assert record.value == b"1"
        sync.perform(Commit(store, (Put("d", "b", b"2"),)))
        sync.close()
        assert sync.name == abackend.name or "memory" in abackend.name
        assert set(witness.entries()) == {("shop", "d", "a"), ("shop", "d", "b")}
        await write(abackend, store, "c", b"3")
        with pytest.raises(StoreClosedError):
            sync.perform(GetMany(store, ()))

    @on_async_face
    async def test_after_release_the_next_request_opens_again(self, abackend: AsyncBackend, store: int) -> None:
        await write(abackend, store, "a", b"1")
        for _ in range(3):
            await abackend.release()
            (record,) = await abackend.perform(GetMany(store, (Address("d", "a"),)))
            assert record.value == b"1"
        assert abackend.is_open

    @on_async_face
    async def test_release_while_requests_are_under_way_loses_none(
        self, abackend: AsyncBackend, store: int, witness: Witness
    ) -> None:
        commits = [asyncio.create_task(abackend.perform(Commit(store, (Put("d", f"{n}", b"1"),)))) for n in range(20)]
        await asyncio.sleep(0)
        await abackend.release()
        replies = await asyncio.gather(*commits)
        assert all(reply.is_committed for reply in replies)
        assert len(witness.entries()) == 20

    @on_async_face
    async def test_a_cancelled_caller_leaves_all_or_nothing(
        self, abackend: AsyncBackend, store: int, witness: Witness
    ) -> None:
        for steps in range(12):
            puts = tuple(Put("d", f"{steps}-{number}", b"1") for number in range(3))
            task = asyncio.create_task(abackend.perform(Commit(store, puts, (), f"id-{steps}")))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            again = await abackend.perform(Commit(store, puts, (), f"id-{steps}"))
            assert again.is_committed
        assert len(witness.entries()) == 36

    @on_async_face
    async def test_concurrent_compare_and_set_lets_one_through(
        self, connect: Connect, backend: Subject, store: int
    ) -> None:
        (version,) = (await backend.perform(Commit(store, (Put("d", "n", b"0"),)))).versions
        others = [backend, connect(), connect()]
        check = (VersionCheck("d", "n", version),)
        replies = await asyncio.gather(
            *(
                others[number % 3].perform(Commit(store, (Put("d", "n", b"%d" % number),), check))
                for number in range(15)
            )
        )
        assert sum(reply.is_committed for reply in replies) == 1

    @on_async_face
    @pytest.mark.parametrize("lock", [False, True], ids=["optimistic", "locked"])
    async def test_cancelled_at_every_await(self, connect: Connect, face: Face, shop: AsyncStore, lock: bool) -> None:
        witness = face.store(connect())
        for step in itertools.count():
            progress: list[str] = []

            async def transact(progress: list[str] = progress, step: int = step) -> None:
                async with shop.transaction(lock=lock) as view:
                    progress.append("inside")
                    await view.get("a")
                    await view.set("a", step)
                    await view.append("b", step)
                    await asyncio.sleep(0)
                    progress.append("end")

            before = await witness.get_many(["a", "b"])
            task = asyncio.create_task(awaited(cancelled_at(transact(), step)))
            await asyncio.wait([task])
            await witness.increment("free")  # whether the lock is
            after = await witness.get_many(["a", "b"])
            if "end" in progress:
                while after == before:  # the commit goes on without its task
                    await asyncio.sleep(0.002)
                    after = await witness.get_many(["a", "b"])
                assert after["a"] == after["b"][-1] == step
            else:
                assert after == before
            assert await shop.increment("outside") == step + 1
            if not task.cancelled():
                task.result()
                break
        assert step > 0

    @on_async_face
    async def test_a_cancelled_waiter_leaves_nothing_locked(self, shop: AsyncStore) -> None:
        async def wait() -> None:
            async with shop.transaction(lock=True):
                pytest.fail("it was cancelled before its turn")

        async with shop.transaction(lock=True):
            waiters = [asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0.05)
            for waiter in waiters:
                waiter.cancel()
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
        async with shop.transaction(lock=True, timeout=5):
            await shop.set("k", 1)
        assert await shop.get("k") == 1

    @on_async_face
    @pytest.mark.parametrize("delay", [0, 0.0005, 0.003, 0.05])
    async def test_a_cancelled_waiter_for_a_named_lock_leaves_nothing_behind(
        self, connect: Connect, face: Face, shop: AsyncStore, delay: float
    ) -> None:
        other = face.store(connect())

        async def enter() -> None:
            async with shop.lock("report", timeout=20):
                await asyncio.sleep(0)

        waiter = asyncio.create_task(enter())
        await asyncio.sleep(delay)
        waiter.cancel()
        await asyncio.wait([waiter])
        async with other.lock("report", timeout=2, ttl=60):
            waiting = asyncio.create_task(enter())
            await asyncio.sleep(delay + 0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await asyncio.wait_for(enter(), 2)

    @on_async_face
    async def test_a_named_lock_survives_a_release_of_connections(self, shop: AsyncStore) -> None:
        async with shop.lock("report", ttl=0.6) as lease:
            for _ in range(6):
                await shop.backend.release()
                await asyncio.sleep(0.15)
            assert lease.is_held
            await shop.set("written", 1)


class CheapLook(Suite):
    """Two equal tokens of ``peek`` mean that nothing was committed between them."""

    guarantee = "cheap look"

    async def test_peek_moves_with_every_commit_of_anybody(
        self, face: Face, connect: Connect, backend: Subject, store: int
    ) -> None:
        other = connect()
        await other.perform(OpenStore("shop"))
        token = await self.token(backend)
        requests: tuple[tuple[Subject, Requested[Any]], ...] = (
            (backend, Commit(store, (Put("d", "a", b"1"),))),
            (other, Commit(store, (Put("d", "b", b"1"),))),
            (other, Commit(store, (Delete("d", "b"),))),
            (backend, OpenStore("other", "create")),
            (other, DeleteStore("other")),
        )
        for writer, request in requests:
            await writer.perform(request)
            await asyncio.sleep(self.LATE)  # as late as the token may be
            moved = backend.raw.peek(self.LATE)
            assert moved != token, request
            token = await self.token(backend)
            await backend.perform(GetMany(store, (Address("d", "a"),)))
            await other.perform(Changes(store, 0))
            await other.perform(ListStores())
            await asyncio.sleep(self.LATE)
            assert await self.token(backend) == token, "reading is no commit"

    LATE = 0.1

    async def token(self, backend: Subject) -> object:
        """Ask until there is an answer, which may take a server's notifications a moment."""
        for _ in range(200):
            token = backend.raw.peek(self.LATE)
            if token is not None:
                return token
            await asyncio.sleep(0.02)
        raise AssertionError("peek gave no token for seconds; a backend without a cheap look declares it as a limit")

    async def test_peek_tells_of_every_commit_among_many(
        self, face: Face, connect: Connect, backend: Subject, store: int
    ) -> None:
        other, stop = connect(), False

        async def write() -> None:
            number = 0
            while not stop:
                number += 1
                await other.perform(Commit(store, (Put("d", "n", b"%d" % number),)))
                await face.sleep(0.003)

        writer = face.start(write)
        for _ in range(5):
            token = backend.raw.peek(self.LATE)
            first = (await backend.perform(Changes(store, 0))).head
            await asyncio.sleep(0.02)
            second = (await backend.perform(Changes(store, 0))).head
            await asyncio.sleep(self.LATE)
            # Late by as much as was allowed, it must know of what was committed between the two looks.
            assert token is None or first == second or backend.raw.peek(self.LATE) != token
        stop = True
        await writer
        await asyncio.sleep(self.LATE)
        token = await self.token(backend)
        head = (await backend.perform(Changes(store, 0))).head
        await asyncio.sleep(self.LATE)
        assert await self.token(backend) == token
        assert (await backend.perform(Changes(store, 0))).head == head
