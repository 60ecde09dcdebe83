"""The figures of several processes on one store: increments that none may lose, and how soon a watcher hears.

``python -m tests.benchmarks.contention SYSTEM WORK PATH COUNT`` is one of the processes: it says that it is ready,
waits for a line, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import mean, median

from ptb_kvpersistence import connect_async
from tests.benchmarks.report import Row, show
from tests.benchmarks.systems import DURABILITY, SYSTEMS

COUNTER = "counter"
INCREMENTS = 16_000
"""Of all processes together."""
TURNS = 5
PEERS = ("ours", "bare", "diskcache")
WARM_UP = 20
EVENTS = 200
EVENT_LIMIT = 0.1
MEANINGS = {
    "locked_increment": ("locked increment", "read and written in an exclusive transaction"),
    "increment": ("increment", "increment(), incr(), one UPDATE"),
}


class Turn:
    """What the processes of one turn did."""

    def __init__(self, replies):
        waits = sorted(wait for reply in replies for wait in reply["waits"])
        elapsed = max(reply["end"] for reply in replies) - min(reply["start"] for reply in replies)
        self.seconds = elapsed / len(waits)
        self.mean = mean(waits)
        self.late = waits[int(len(waits) * 0.999)]
        self.worst = waits[-1]


def measure_increments(files, work, processes):
    """Measure the seconds per increment over all processes, and how long one has to wait for it."""
    turns = {system: [] for system in PEERS}
    for _ in range(TURNS):
        for system, done in turns.items():
            done.append(increment_together(files.folder, system, work, processes))
    seconds = {system: median(turn.seconds for turn in done) for system, done in turns.items()}
    late = {system: median(turn.late / turn.mean for turn in done) for system, done in turns.items()}
    name, meaning = MEANINGS[work]
    name = f"{name}, {processes} process{'es' if processes > 1 else ''}"
    rates = ", ".join(f"{system} {1 / value:,.0f}/s" for system, value in seconds.items())
    ours = seconds.pop("ours")
    rows = [Row(name, "s", ours, seconds, {"diskcache": 1.0}, f"{meaning}; {rates}; {DURABILITY}")]
    if processes > 1:
        waits = {system: median(turn.late for turn in done) for system, done in turns.items()}
        peers = {"our mean": median(turn.mean for turn in turns["ours"]), **waits}
        others = ", ".join(
            f"{system} {late[system]:.3g} x its mean, worst {show(max(turn.worst for turn in done), 's')}"
            for system, done in turns.items()
        )
        rows.append(Row(f"{name}: 99.9 % wait", "s", peers.pop("ours"), peers, {"our mean": 40.0}, others))
    return rows


def increment_together(folder, system, work, processes):
    """Count in so many processes at once, and see that none was lost."""
    count = INCREMENTS // processes
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = Path(inner) / system
        with closing(SYSTEMS[system](path)) as opened:
            opened.set(COUNTER, 0)
        with ready([(system, work, path, count)] * processes) as children:
            for child in children:
                go(child)
            replies = [json.loads(child.stdout.readline()) for child in children]
        with closing(SYSTEMS[system](path)) as opened:
            counted = int(opened.get(COUNTER))
    assert counted == processes * (count + WARM_UP), f"{system} lost increments"
    return Turn(replies)


@contextmanager
def ready(commands, module="tests.benchmarks.contention"):
    """Start processes and wait until each is ready."""
    with ExitStack() as stack:
        children = []
        for command in commands:
            arguments = [sys.executable, "-m", module, *map(str, command)]
            child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(child)
            stack.callback(child.kill)
            children.append(child)
        for child in children:
            assert child.stdout.readline() == "ready\n"
        yield children
        for child in children:
            assert not child.wait()


def go(child):
    child.stdin.write("go\n")
    child.stdin.flush()


# --- watching ---


def measure_watch(files):
    """Measure the seconds from a write in another process to the event, on both faces."""
    rows = []
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        for name, watch in (("watch", _watch), ("async watch", _watch_async)):
            path = Path(folder) / name.replace(" ", "-")
            SYSTEMS["ours"](path).close()
            seconds = sorted(watch(path))
            note = f"the worst of {len(seconds)}; median {show(median(seconds), 's')}"
            rows.append(Row(f"{name} latency", "s", seconds[-1], {"limit": EVENT_LIMIT}, {"limit": 1.0}, note))
    return rows


def _watch(path):
    with ready([("ours", "write", path, EVENTS)]) as (child,), closing(SYSTEMS["ours"](path)) as opened:
        events = opened.store.watch(timeout=5)
        go(child)
        seconds = [time.monotonic() - event.value for event in events]
        child.stdout.readline()
    return seconds


def _watch_async(path):
    async def watch():
        async with connect_async(path) as database:
            store = await database.store()
            version = await store.set("before", 0)
            go(child)
            seconds = []
            async for event in store.watch(since=version):
                seconds.append(time.monotonic() - event.value)
                if event.key == str(EVENTS - 1):
                    break
            return seconds

    with ready([("ours", "write", path, EVENTS)]) as (child,):
        seconds = asyncio.run(watch())
        child.stdout.readline()
    return seconds


# --- one of the processes ---


def run_increments(opened, work, count):
    function = getattr(opened, work)
    for _ in range(WARM_UP):
        function(COUNTER)
    wait_for_go()
    waits, start = [], time.monotonic()
    for _ in range(count):
        begun = time.perf_counter()
        function(COUNTER)
        waits.append(round(time.perf_counter() - begun, 7))
    return {"start": start, "end": time.monotonic(), "waits": waits}


def run_writes(opened, _work, count):
    wait_for_go()
    for number in range(count):
        time.sleep(random.uniform(0.03, 0.07))
        opened.set(str(number), time.monotonic())
    return {}


def wait_for_go():
    print("ready", flush=True)
    sys.stdin.readline()


def main(system, work, path, count):
    run = run_writes if work == "write" else run_increments
    with closing(SYSTEMS[system](path)) as opened:
        print(json.dumps(run(opened, work, int(count))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
