"""The queue in front of the writer lock: who may go ahead of it, how often, and whom it keeps for how long."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.sqlite import turns
from ptb_kvpersistence.backends.sqlite.lock_file import LockFile
from ptb_kvpersistence.backends.sqlite.queue import POLLED, WriterQueue
from ptb_kvpersistence.backends.sqlite.turns import AHEAD
from ptb_kvpersistence.errors import BusyError, LockTimeoutError

TIMEOUT = 1.0


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "shop.db")


@pytest.fixture
def shop(path):
    with connect(path, timeout=TIMEOUT) as database:
        yield database.store("shop", create=True)


@pytest.fixture(params=["write", "write exclusively", "write in a loop"])
def write(request, path, shop):
    """Something that writes, and waits up to TIMEOUT."""

    def exclusively():
        with shop.transaction(lock=True, timeout=TIMEOUT):
            shop["n"] = 1

    if request.param != "write in a loop":
        yield exclusively if request.param == "write exclusively" else lambda: shop.set("n", 1)
        return
    loop = asyncio.new_event_loop()
    database = connect_async(path, timeout=TIMEOUT)
    store = loop.run_until_complete(database.store("shop"))
    yield lambda: loop.run_until_complete(store.set("n", 1))
    loop.run_until_complete(database.close())
    loop.close()


@pytest.fixture
def first(path):
    """Somebody who stands first in line and does not try, as a frozen process."""
    place = WriterQueue(path)
    yield place
    place.leave()


@pytest.fixture
def set_courtesy(monkeypatch):
    """Set how long those who could well try stand in line: longer than a busy machine stops for."""

    def set_to(courtesy):
        monkeypatch.setattr(turns, "COURTESY", courtesy)
        return courtesy

    return set_to


def seconds(function, *arguments):
    begun = time.monotonic()
    function(*arguments)
    return time.monotonic() - begun


def test_after_so_many_writes_those_in_line_come_first(first, write, set_courtesy):
    courtesy = set_courtesy(TIMEOUT * 0.6)
    write()
    assert first.enter(0)
    waited = [seconds(write) for _ in range(3 * AHEAD)]
    late = [number for number, wait in enumerate(waited) if wait >= courtesy]
    assert len(late) in (2, 3)
    assert all(later - earlier == AHEAD + 1 for earlier, later in itertools.pairwise(late))
    assert max(waited) < TIMEOUT


@pytest.mark.parametrize("pause", [POLLED * 0.7, POLLED * 7])
def test_it_goes_on_when_the_first_in_line_leaves(first, write, pause, set_courtesy):
    set_courtesy(TIMEOUT)
    for _ in range(AHEAD):
        write()
    assert first.enter(0)
    left_at = []
    timer = threading.Timer(pause, lambda: (left_at.append(time.monotonic()), first.leave()))
    timer.start()
    waited = [seconds(write) for _ in range(AHEAD + 1)]
    assert left_at, "nobody stood in line"
    timer.join()
    assert max(waited) < TIMEOUT


@pytest.mark.parametrize("is_first", [False, True])
def test_who_waits_for_nothing_is_told_in_time(shop, first, write, is_first):
    write()
    with ThreadPoolExecutor(1) as pool, shop.transaction(lock=True):
        assert is_first or first.enter(0)
        call = pool.submit(write)
        waited = seconds(call.exception, 10)
        assert isinstance(call.exception(), (BusyError, LockTimeoutError))
    assert TIMEOUT * 0.9 < waited < TIMEOUT * 4
    first.leave()
    write()


def waiting_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ptb_kvpersistence:queue"]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_first_in_line_that_is_frozen_costs_one_thread(path, first, at_once):
    def enter(_):
        place = WriterQueue(path)
        has_entered = place.enter(POLLED * 5)
        place.leave()
        return has_entered

    assert first.enter(0)
    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(5):
            assert not any(pool.map(enter, range(at_once)))
            assert len(waiting_threads()) == 1
    first.leave()
    until(lambda: not waiting_threads())
    assert first.enter(1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere flock may not wake in the order of coming")
@pytest.mark.parametrize("is_given_up", [False, True])
def test_who_waits_again_has_the_place_of_before(path, first, is_given_up):
    assert first.enter(0)
    place, order = WriterQueue(path), []
    assert not place.enter(POLLED * 2)
    if is_given_up:
        place.leave()

    def enter_later():
        rival = LockFile(f"{path}-queue")
        assert rival.wait_for_lock()
        order.append("rival")
        rival.close()

    def enter_again():
        assert place.enter(10)
        order.append("place")
        place.leave()

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(enter_later)]
        time.sleep(POLLED)
        calls.append(pool.submit(enter_again))
        time.sleep(POLLED * 5)
        assert not order
        first.leave()
        for call in calls:
            call.result(10)
    assert order == ["place", "rival"]
    until(lambda: not waiting_threads())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("timeout", [POLLED / 2, 10], ids=["given up at once", "waited for"])
@pytest.mark.parametrize("is_in_thread", [False, True])
def test_a_fork_lets_go_of_a_place_in_line(path, first, timeout, is_in_thread):
    assert first.enter(0)
    place = WriterQueue(path)
    with ThreadPoolExecutor(1) as pool:
        if timeout < POLLED and is_in_thread:
            assert not place.enter(POLLED * 2)
        waiting = pool.submit(place.enter, timeout)
        until(waiting_threads if is_in_thread else lambda: len(LockFile._all) == 2 or waiting.done())
        child = os.fork()
        if not child:
            names = [file.path for file in psutil.Process().open_files()]
            os._exit(f"{path}-queue" in names or bool(LockFile._all))
        assert os.waitpid(child, 0)[1] == 0
        first.leave()
        assert waiting.result(10) or timeout < POLLED
        place.leave()


def test_each_of_a_process_has_its_turn(path, first):
    assert first.enter(0)
    turns, now = [], [0]

    def take_turns(number):
        place = WriterQueue(path)
        for _ in range(5):
            assert place.enter(10)
            now[0] += 1
            turns.append((number, now[0]))
            time.sleep(0.001)
            now[0] -= 1
            place.leave()

    async def take_turns_in_a_loop():
        place = WriterQueue(path)
        for _ in range(5):
            assert await place.enter_async(10)
            now[0] += 1
            turns.append(("loop", now[0]))
            await asyncio.sleep(0.001)
            now[0] -= 1
            place.leave()

    async def take_all():
        await asyncio.gather(
            *(take_turns_in_a_loop() for _ in range(2)), *(asyncio.to_thread(take_turns, number) for number in range(3))
        )

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(asyncio.run, take_all())
        until(waiting_threads)
        assert not turns
        first.leave()
        call.result(30)
    assert len(turns) == 25
    assert {at_once for _, at_once in turns} == {1}
    assert first.enter(1)


async def test_who_waits_in_a_loop_and_is_cancelled_leaves_the_line(path, first):
    place = WriterQueue(path)
    for moment in range(20):
        assert first.enter(1)
        waiting = asyncio.create_task(place.enter_async(10))
        await asyncio.sleep(0.001)
        if moment % 2:
            first.leave()
            await asyncio.sleep(moment * 0.0001)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
            place.leave()
        first.leave()
        assert await asyncio.to_thread(first.enter, 1)
        first.leave()
    await asyncio.to_thread(until, lambda: not waiting_threads())


async def test_the_wait_in_a_loop_has_an_end(path, first):
    assert first.enter(0)
    place = WriterQueue(path)
    for _ in range(3):
        begun = time.monotonic()
        assert not await place.enter_async(0.05)
        assert 0.05 <= time.monotonic() - begun < 5
    first.leave()
    assert await place.enter_async(1)
    place.leave()
    assert await asyncio.to_thread(first.enter, 1)


def test_who_is_told_in_time_may_look_late(path, first):
    for _ in range(3):
        assert first.enter(1)
        place = WriterQueue(path)
        assert not place.enter(POLLED * 2)
        first.leave()
        until(lambda: not waiting_threads())
        assert not first.enter(0), "the place is kept for who stands in line"
        assert place.enter(0.1)
        place.leave()
        first.leave()


def test_who_waits_in_a_loop_that_is_closed_keeps_nobody(path, first):
    assert first.enter(0)
    loop = asyncio.new_event_loop()
    place = WriterQueue(path)
    waiting = loop.create_task(place.enter_async(10))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert not waiting.done()
    first.leave()
    until(lambda: not waiting_threads())
    assert first.enter(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_can_wait_in_line_itself(path, first):
    assert first.enter(0)
    place = WriterQueue(path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(place.enter, 10)
        until(waiting_threads)
        child = os.fork()
        if not child:
            os._exit(0 if WriterQueue(path).enter(10) else 1)
        time.sleep(POLLED * 5)
        first.leave()
        assert waiting.result(10)
        place.leave()
    assert os.waitpid(child, 0)[1] == 0


def test_it_can_be_waited_for_again_and_again(path, first):
    place = WriterQueue(path)
    for _ in range(3):
        assert first.enter(0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(place.enter, 5)
            until(waiting_threads)
            first.leave()
            assert waiting.result(10)
        place.leave()
        until(lambda: not waiting_threads())
