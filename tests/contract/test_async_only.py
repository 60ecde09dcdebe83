"""What the async face has besides requests: peek, blocking, release; and callers that are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from ptb_kvpersistence.errors import StoreClosedError
from ptb_kvpersistence.model import Address, Changes, Commit, GetMany, OpenStore, Put, VersionCheck
from tests.contract.subjects import Place


@pytest.fixture(params=["memory-async", "sqlite-async", "postgres-async"])
async def place(request, tmp_path):
    place = Place(request.param, tmp_path)
    yield place
    await place.close()


@pytest.fixture
async def backend(place):
    return place.open().backend


async def test_peek_moves_with_every_commit_of_anybody(place, backend, store, put):
    if place.schema:
        assert backend.peek() is None  # a server cannot be asked without waiting; its notifications are tested apart
        return
    other = place.open()
    await other.perform(OpenStore("shop"))
    tokens = [backend.peek()]
    for number, writer in enumerate((backend, other, backend)):
        await writer.perform(Commit(store, (Put("d", f"{number}", b"1"),)))
        tokens.append(backend.peek())
        assert backend.peek() == tokens[-1]
        await backend.perform(GetMany(store, (Address("d", "0"),)))
        await backend.perform(Changes(store, 0))
        assert backend.peek() == tokens[-1]
    assert None not in tokens
    assert len(set(tokens)) == 4


async def test_the_blocking_backend_works_on_the_same_database(backend, store, put, witness):
    await put(a=b"1")
    sync = backend.blocking()
    (record,) = sync.perform(GetMany(store, (Address("d", "a"),)))
    assert record.value == b"1"
    sync.perform(Commit(store, (Put("d", "b", b"2"),)))
    sync.close()
    assert sync.name == backend.name or "memory" in backend.name
    assert set(witness.entries()) == {("shop", "d", "a"), ("shop", "d", "b")}
    await put(c=b"3")
    with pytest.raises(StoreClosedError):
        sync.perform(GetMany(store, ()))


async def test_after_release_the_next_request_opens_again(backend, store, put):
    await put(a=b"1")
    for _ in range(3):
        await backend.release()
        (record,) = await backend.perform(GetMany(store, (Address("d", "a"),)))
        assert record.value == b"1"
    assert backend.is_open


async def test_release_while_requests_are_under_way_loses_none(backend, store, witness):
    commits = [asyncio.create_task(backend.perform(Commit(store, (Put("d", f"{n}", b"1"),)))) for n in range(20)]
    await asyncio.sleep(0)
    await backend.release()
    replies = await asyncio.gather(*commits)
    assert all(reply.is_committed for reply in replies)
    assert len(witness.entries()) == 20


async def test_a_cancelled_caller_leaves_all_or_nothing(backend, store, witness):
    for steps in range(12):
        puts = tuple(Put("d", f"{steps}-{number}", b"1") for number in range(3))
        task = asyncio.create_task(backend.perform(Commit(store, puts, (), f"id-{steps}")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        again = await backend.perform(Commit(store, puts, (), f"id-{steps}"))
        assert again.is_committed
    assert len(witness.entries()) == 36


async def test_concurrent_compare_and_set_lets_one_through(place, backend, store, put):
    (version,) = await put(n=b"0")
    others = [backend, place.open(), place.open()]

    replies = await asyncio.gather(
        *(
            others[number % 3].perform(
                Commit(store, (Put("d", "n", b"%d" % number),), (VersionCheck("d", "n", version),))
            )
            for number in range(15)
        )
    )
    assert sum(reply.is_committed for reply in replies) == 1
