"""When a server that fails is tried for the last time, by a clock of our own."""

from __future__ import annotations

import time

import pytest

from ptb_kvpersistence.backends.redis.routing import Router, Task
from ptb_kvpersistence.backends.redis.settings import parse
from ptb_kvpersistence.backends.redis.wire import Ask, NotSentError
from ptb_kvpersistence.errors import DatabaseUnavailableError


class Refusing:
    """A server that nobody can connect to.

    Attributes:
        now: The time.
        left: How long each attempt could have taken.
    """

    def __init__(self):
        self.now = 100.0
        self.left = []

    def answer(self, steps):
        step = next(steps)
        while True:
            if isinstance(step, Ask):
                self.left.append(step.deadline - self.now)
                step = steps.throw(NotSentError(ConnectionRefusedError("refused")))
            else:
                self.now += step.seconds
                step = steps.send(None)


@pytest.mark.parametrize(("limit", "least"), [(2, 0.5), (0.2, 0.2)])
def test_the_last_attempt_has_time_to_tell_what_is_wrong(monkeypatch, limit, least):
    server = Refusing()
    monkeypatch.setattr(time, "monotonic", lambda: server.now)
    with pytest.raises(DatabaseUnavailableError, match=f"within {limit} s .*refused"):
        server.answer(Router(parse("redis://127.0.0.1:1")).prepare(Task(limit)))
    assert server.left[0] == pytest.approx(limit)
    assert server.left[-1] == pytest.approx(least)
    assert server.now == pytest.approx(100 + limit)
    assert len(server.left) > 3
