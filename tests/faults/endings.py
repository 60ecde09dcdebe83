"""Programs that register for their end; run as ``python -m tests.faults.endings NAME``. No tests here."""

from __future__ import annotations

import sys
import threading
import time

from ptb_kvpersistence import process


def say(word):
    print(word, flush=True)


def everything():
    """A thread that registered is waited for, then the callbacks come in their order."""
    process.at_end("close", process.THEN_CLOSE, lambda: say("close"))

    def work():
        process.at_end("save", process.SAVE_FIRST, lambda: say("save"))
        time.sleep(0.3)
        say("thread")

    threading.Thread(target=work).start()
    time.sleep(0.1)
    say("main")


def worker():
    """A thread that is no daemon and ends when a callback tells it."""
    told = threading.Event()

    def work():
        told.wait()
        say("worker")

    threading.Thread(target=work).start()
    process.at_end("worker", process.THEN_CLOSE, told.set)
    say("main")


if __name__ == "__main__":
    {"all": everything, "worker": worker}[sys.argv[1]]()
