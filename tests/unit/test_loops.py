"""The end of an event loop: who is told, and when."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from ptb_kvpersistence.loops import LoopEnd


@pytest.fixture
def told():
    return []


@pytest.fixture
def finish(told):
    async def finish():
        told.append("begun")
        await asyncio.sleep(0.01)
        told.append(asyncio.get_running_loop().is_closed())

    return finish


def test_it_is_awaited_before_the_loop_is_closed(told, finish):
    async def main():
        ends.append(LoopEnd(finish))
        await asyncio.sleep(0)
        assert not told

    ends = []
    asyncio.run(main())
    assert told == ["begun", False]
    ends[0].forget()
    del ends[:]
    gc.collect()
    assert len(told) == 2


def test_after_all_tasks_have_been_cancelled(told, finish):
    async def sleep():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            told.append("cancelled")

    async def main():
        kept.extend((LoopEnd(finish), asyncio.create_task(sleep())))
        await asyncio.sleep(0)

    kept = []
    asyncio.run(main())
    assert told == ["cancelled", "begun", False]


@pytest.mark.parametrize("is_in_thread", [False, True])
def test_forgotten_it_is_not_awaited(told, finish, is_in_thread):
    async def main():
        end = LoopEnd(finish)
        if is_in_thread:
            thread = threading.Thread(target=end.forget)
            thread.start()
            thread.join()
        end.forget()
        end.forget()

    asyncio.run(main())
    gc.collect()
    assert not told


def test_a_loop_closed_by_hand_tells_nobody(told, finish):
    async def main():
        return LoopEnd(finish)

    loop = asyncio.new_event_loop()
    ends = [loop.run_until_complete(main())]
    loop.close()
    ends[0].forget()
    ends.clear()
    gc.collect()
    assert not told


def test_it_may_forget_itself_while_it_is_awaited(told):
    async def finish():
        ends[0].forget()
        told.append("finished")

    async def main():
        ends.append(LoopEnd(finish))

    ends = []
    asyncio.run(main())
    assert told == ["finished"]
