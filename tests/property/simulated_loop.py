"""An event loop whose order of events is drawn from a seed: no clock, no sockets, no sleeping.

Whoever awaits a gate stands still until the loop has nothing else to do, or sometimes earlier; then one gate is opened
by chance. Timers fire when the loop chooses to let time pass. Calls that run in real threads are waited for before
the next choice, so that a history depends on its seed alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from asyncio import base_events

owner = contextvars.ContextVar("owner", default=None)
"""Whose process a task belongs to."""


class StuckError(Exception):
    """Everybody waits and nothing can happen any more."""


class SimulatedLoop(base_events.BaseEventLoop):
    """Runs one history."""

    def __init__(self, chance):
        super().__init__()
        self._selector = self
        self._now = 0.0
        self._woken = threading.Event()
        self._threads = asyncio.Lock()
        self.chance = chance
        self.gates = []
        self.calls_in_threads = 0
        self.owners = weakref.WeakKeyDictionary()
        self.set_task_factory(self._make_task)

    def _make_task(self, loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        self.owners[task] = owner.get()
        return task

    def tasks_of(self, name):
        return [task for task in asyncio.all_tasks() if self.owners[task] == name]

    def detach(self, coroutine):
        """Make a task that ends with no process, as if it were a thread."""
        task = self.create_task(coroutine)
        self.owners[task] = None
        return task

    def time(self):
        return self._now

    def pass_time(self, seconds):
        self._now += seconds

    def gate(self):
        """Give a future to await; another task may run first."""
        gate = self.create_future()
        self.gates.append(gate)
        return gate

    def _open_one(self):
        self._now += self.chance.choice((0.0, 0.001, 0.02))
        while self.gates:
            gate = self.gates.pop(self.chance.randrange(len(self.gates)))
            if not gate.done():
                gate.set_result(None)
                return

    async def in_thread(self, awaitable):
        """Await what needs a real thread, one after another; goes on when cancelled."""

        async def alone():
            async with self._threads:
                return await awaitable

        self.calls_in_threads += 1
        task = self.detach(alone())
        task.add_done_callback(self._count_down)
        return await asyncio.shield(task)

    def _count_down(self, task):
        self.calls_in_threads -= 1
        if not task.cancelled():
            task.exception()  # who awaited it may be gone

    # --- what BaseEventLoop asks of a selector loop ---

    def select(self, timeout):
        if timeout == 0:
            if self.gates and self.chance.random() < 0.1:
                self._open_one()
            return ()
        if self.calls_in_threads:
            if not self._woken.wait(30):
                raise StuckError("a thread does not answer")
            self._woken.clear()
        elif self.gates and (timeout is None or self.chance.random() < 0.97):
            self._open_one()
        elif timeout is not None:
            self._now += timeout
        else:
            raise StuckError("nothing can happen any more")
        return ()

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        self._woken.set()
