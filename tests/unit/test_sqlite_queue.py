"""The queue in front of the writer lock: who may go ahead of it, how often, and whom it keeps for how long."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.sqlite.queue import AHEAD, COURTESY, POLLED, WriterQueue
from ptb_kvpersistence.errors import BusyError, LockTimeoutError

TIMEOUT = 1.0


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "shop.db")


@pytest.fixture
def shop(path):
    with connect(path, timeout=TIMEOUT) as database:
        yield database.store("shop", create=True)


@pytest.fixture
def first(path):
    """Somebody who stands first in line and does not try, as a frozen process."""
    place = WriterQueue(path)
    yield place
    place.leave()


def write(store):
    store["n"] = 1


def write_exclusively(store):
    with store.transaction(lock=True, timeout=TIMEOUT):
        store["n"] = 1


kinds = pytest.mark.parametrize("kind", [write, write_exclusively])


def seconds(function, *arguments):
    begun = time.monotonic()
    function(*arguments)
    return time.monotonic() - begun


@kinds
def test_after_so_many_writes_those_in_line_come_first(shop, first, kind):
    kind(shop)
    assert first.enter(0)
    waited = [seconds(kind, shop) for _ in range(3 * AHEAD)]
    late = [number for number, wait in enumerate(waited) if wait >= COURTESY]
    assert len(late) in (2, 3)
    assert all(later - earlier == AHEAD + 1 for earlier, later in itertools.pairwise(late))
    assert max(waited) < TIMEOUT


@kinds
@pytest.mark.parametrize("pause", [POLLED * 0.7, POLLED * 7])
def test_it_goes_on_when_the_first_in_line_leaves(shop, first, kind, pause):
    for _ in range(AHEAD):
        kind(shop)
    assert first.enter(0)
    timer = threading.Timer(pause, first.leave)
    timer.start()
    waited = [seconds(kind, shop) for _ in range(AHEAD + 1)]
    timer.join()
    assert sum(waited) >= pause * 0.9
    assert max(waited) < COURTESY


@kinds
@pytest.mark.parametrize("is_first", [False, True])
def test_who_waits_for_nothing_is_told_in_time(shop, first, kind, is_first):
    kind(shop)
    with ThreadPoolExecutor(1) as pool, shop.transaction(lock=True):
        assert is_first or first.enter(0)
        call = pool.submit(seconds, kind, shop)
        error = call.exception(10)
        waited = seconds(call.exception)
    assert isinstance(error, (BusyError, LockTimeoutError))
    assert waited < TIMEOUT
    first.leave()
    kind(shop)
