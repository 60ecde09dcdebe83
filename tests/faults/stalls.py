"""When the machine, or all of this process, stood still, which no test of a bot's promptness is about."""

from __future__ import annotations

import threading
import time
import weakref

TICK = 0.01
TOLERATED = 0.03
"""Seconds that a thread may oversleep before it counts."""


def _note(stalls, is_over):
    while not is_over.is_set():
        began = time.monotonic()
        is_over.wait(TICK)
        ended = time.monotonic()
        if ended - began > TICK + TOLERATED:
            stalls.append((began + TICK, ended))


class Times:
    """How long things took, without the moments in which everything stood still; a thread of its own watches these."""

    def __init__(self):
        self._spans = []
        self._stalls = []
        is_over = threading.Event()
        weakref.finalize(self, is_over.set)
        threading.Thread(target=_note, args=(self._stalls, is_over), daemon=True).start()

    def note(self, began):
        """Note the end of what began at a moment of the monotonic clock."""
        self._spans.append((began, time.monotonic()))

    def forget(self):
        """Begin anew."""
        self._spans.clear()

    def seconds(self):
        """Give how long each took."""
        time.sleep(2 * TICK)  # the last one may have ended just now
        return [
            ended - began - sum(max(0.0, min(ended, until) - max(began, since)) for since, until in self._stalls)
            for began, ended in self._spans
        ]
