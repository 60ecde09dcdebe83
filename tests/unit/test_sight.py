"""How often the store is looked at, and who waits for it, by a backend that only counts."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.persistence import sight as module
from ptb_kvpersistence.persistence.sight import Sight


class Eyes:
    """Looks as told: each look takes ``seconds``, and fails with ``error``."""

    def __init__(self, monkeypatch, max_staleness=0.0):
        monkeypatch.setattr(module, "LOOK_TIMEOUT", 0.1)
        monkeypatch.setattr(module, "PROBE_PAUSE", 0.05)
        monkeypatch.setattr(module, "GAP", 0.2)
        self.seconds, self.error, self.token = 0.0, None, None
        self.looks = self.recoveries = 0
        self.timeouts = []
        self.sight = Sight(self, max_staleness, self.see, self.recovered)

    def peek(self, max_age=0.0):
        return self.token if max_age >= 0.1 else None

    async def see(self, timeout):
        self.looks += 1
        self.timeouts.append(timeout)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    def recovered(self):
        self.recoveries += 1

    async def timed(self):
        began = time.monotonic()
        await self.sight.glance()
        return time.monotonic() - began


def quick(seconds):
    """Whether nobody has waited; a machine that is busy with other things may stop one or the other."""
    return sum(each > 0.05 for each in seconds) <= 2


@pytest.fixture
def eyes(monkeypatch):
    return Eyes(monkeypatch)


async def test_one_who_waits_is_enough(eyes, caplog):
    caplog.set_level(logging.INFO)
    eyes.seconds = 30
    assert 0.09 < await eyes.timed() < 1
    assert quick([await eyes.timed() for _ in range(100)])
    assert eyes.looks == 1, "one look is under way, no second one is begun"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_a_failure_that_took_long_is_probed_without_anybody_waiting(eyes, caplog):
    caplog.set_level(logging.INFO)
    eyes.seconds, eyes.error = 0.06, DatabaseError("gone")
    await eyes.timed()
    began, seconds = time.monotonic(), []
    while time.monotonic() - began < 0.5:
        seconds.append(await eyes.timed())
        await asyncio.sleep(0.001)
    assert quick(seconds)
    assert 2 <= eyes.looks <= 6, "one in 0.06 + 0.05 s"
    assert set(eyes.timeouts[1:]) == {module.PROBE_TIMEOUT}
    eyes.seconds, eyes.error = 0.0, None
    while not eyes.recoveries:
        await eyes.timed()
        await asyncio.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot see what others changed, memory has to do: gone",
        "the store can be seen again",
    ]
    looks = eyes.looks
    eyes.seconds = 0.03
    assert await eyes.timed() > 0.02, "it is waited for again"
    assert eyes.looks == looks + 1


async def test_a_failure_that_cost_nothing_is_tried_again_at_once(eyes):
    eyes.error = DatabaseError("no")
    await eyes.timed()
    eyes.error = None
    await eyes.timed()
    assert (eyes.looks, eyes.recoveries) == (2, 1)


async def test_what_is_slow_is_seen_late(eyes):
    eyes.seconds = 0.15
    seconds = [await eyes.timed()]
    for _ in range(50):
        await asyncio.sleep(0.01)
        seconds.append(await eyes.timed())
    assert seconds[0] > 0.05
    assert quick(seconds[1:])
    assert 2 <= eyes.looks <= 5
    assert eyes.recoveries == 0
    eyes.seconds = 0.0
    while not eyes.recoveries:
        await asyncio.sleep(0.01)
        await eyes.timed()
    looks = eyes.looks
    await eyes.timed()
    assert eyes.looks == looks + 1


async def test_hooks_of_one_update_share_a_look(eyes):
    async def update(*sections):
        for section in sections:
            await eyes.sight.glance_for(section)
            eyes.sight.hook_ended(section)

    eyes.seconds = 0.02
    await update("bot_data", "chat_data", "user_data")
    assert eyes.looks == 3, "max_staleness=0: each of them looks"
    eyes.sight.max_staleness, eyes.looks = 1e-9, 0
    await update("bot_data", "chat_data", "user_data")
    assert eyes.looks == 1
    await update("bot_data", "user_data")
    assert eyes.looks == 2
    await update("user_data")
    assert eyes.looks == 3, "the same hook again is another update"
    await update("chat_data")
    await asyncio.sleep(0.3)
    await update("user_data")
    assert eyes.looks == 5, "a handler that asks later wants to know"
    await asyncio.gather(*(update("bot_data", "chat_data", "user_data") for _ in range(50)))
    assert eyes.looks == 6, "updates that come at once share it too"


async def test_hooks_of_two_persistences_share_nothing(monkeypatch):
    one, two = Eyes(monkeypatch), Eyes(monkeypatch)
    await one.sight.glance_for("bot_data")
    one.sight.hook_ended("bot_data")
    await two.sight.glance_for("chat_data")
    assert (one.looks, two.looks) == (1, 1)


async def test_a_token_is_as_good_as_a_look(monkeypatch):
    eyes = Eyes(monkeypatch, max_staleness=0.2)
    eyes.token = "a"
    await eyes.timed()
    for _ in range(3):
        eyes.sight.looked_at -= 1
        await eyes.timed()
    assert eyes.looks == 1
    for token in ("b", None):
        eyes.token = token
        eyes.sight.looked_at -= 1
        await eyes.timed()
    assert eyes.looks == 3


async def test_errors_that_are_nobodys_are_told(eyes):
    eyes.error = ZeroDivisionError("a mistake")
    with pytest.raises(ZeroDivisionError):
        await eyes.timed()
