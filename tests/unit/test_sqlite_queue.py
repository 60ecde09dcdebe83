"""The queue in front of the writer lock: who may go ahead of it, how often, and whom it keeps for how long."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.sqlite import aio, sync, writer_lock
from ptb_kvpersistence.backends.sqlite.queue import AHEAD, POLLED, WriterQueue
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
        for module in (aio, sync, writer_lock):
            monkeypatch.setattr(module, "COURTESY", courtesy)
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_lets_go_of_a_place_that_another_thread_waits_for(path, first):
    assert first.enter(0)
    place = WriterQueue(path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(place.enter, 10)
        while place._handle is None:
            time.sleep(0.001)
        handle = place._handle
        child = os.fork()
        if not child:
            try:
                os.fstat(handle)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        first.leave()
        assert waiting.result(10)
        place.leave()
