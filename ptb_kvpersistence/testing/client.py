"""What another process does in the tests: ``python -m ptb_kvpersistence.testing.client JOB``, told what by its input.

The first line is a pickled callable that opens a backend, in base64; the module search path comes by PYTHONPATH. Each
job prints a line per step, after the step, and goes on until it is killed.
"""

from __future__ import annotations

import base64
import itertools
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ptb_kvpersistence.model import AcquireLease, AttachBot, Commit, OpenStore, Put
from ptb_kvpersistence.testing.faces import sync_store

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.base import Backend


def _say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - what it prints is how it reports


def write(backend: Backend) -> NoReturn:
    """Commit two entries at a time, and say so each time that a commit was acknowledged."""
    store = backend.perform(OpenStore("shop", "ensure")).id
    for number in itertools.count():
        value = b"%d" % number
        reply = backend.perform(Commit(store, (Put("d", f"a{number}", value), Put("d", f"b{number}", value))))
        _say(number, *reply.versions)
    raise AssertionError


def hold(backend: Backend) -> NoReturn:
    """Hold the store exclusively, with a commit that is never made."""
    store = sync_store(backend)
    with store.transaction(lock=True):
        store["left"] = "half-way"
        _say("locked")
        _wait()


def hold_named(backend: Backend) -> NoReturn:
    """Hold a named lock of 1.5 seconds that nobody renews, and be attached as a bot."""
    store = backend.perform(OpenStore("shop", "ensure")).id
    backend.perform(AttachBot(store, "bot"))
    _say("token", backend.perform(AcquireLease(store, "report", "client", 1500)).token)
    _wait()


def count(backend: Backend) -> None:
    """Increment a number under the exclusive lock, by the store's method, and optimistically; thirty times in all."""
    store = sync_store(backend)

    def add(view: Any) -> None:
        view["n"] = view.get("n", 0) + 1

    for _ in range(10):
        with store.transaction(lock=True, timeout=60):
            store["n"] = store.get("n", 0) + 1
        store.increment("n")
        store.run(add)
    _say("done")


def _wait() -> NoReturn:
    while True:
        time.sleep(60)


def main() -> None:
    """Do what the argument says."""
    jobs = {job.__name__: job for job in (write, hold, hold_named, count)}
    opener = pickle.loads(base64.b64decode(sys.stdin.readline()))  # noqa: S301 - the test that started this wrote it
    backend = opener()
    jobs[sys.argv[1]](backend)
    backend.close()


if __name__ == "__main__":
    main()
