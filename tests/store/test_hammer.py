"""Many processes, threads and tasks on one store at once: nothing is lost, torn or seen in part."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

from ptb_kvpersistence import connect, connect_async

ROOT = Path(__file__).resolve().parents[2]
LOCKED = int(os.environ.get("HAMMER_INCREMENTS", "500"))
"""Increments of each of the eight processes."""


class Crew:
    """Processes that work on one file."""

    def __init__(self, file, log):
        self.file = file
        self._log = log
        self.processes = []

    def start(self, job, *arguments):
        output = self._log / f"{job}-{len(self.processes)}.out"
        command = [sys.executable, "-m", "tests.store.hammering", job, str(self.file), *map(str, arguments)]
        with output.open("w") as stdout:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=stdout, text=True)
        process.output = output
        self.processes.append(process)
        return process

    def go(self, *processes):
        for process in processes or self.processes:
            with process.stdin as gate:
                gate.write("go\n")

    def wait(self):
        return [process.wait(600) for process in self.processes]

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()


@pytest.fixture
def shop(file):
    with connect(file) as database:
        yield database.create("shop")


@pytest.fixture
def crew(shop, file, tmp_path):
    crew = Crew(file, tmp_path)
    yield crew
    crew.end()


# --- counters ---


def test_locked_increments_of_eight_processes(crew, shop):
    for _ in range(8):
        crew.start("locked", LOCKED)
    crew.go()
    assert crew.wait() == [0] * 8
    assert shop["n"] == 8 * LOCKED


def test_optimistic_increments_of_four_processes(crew, shop):
    for _ in range(4):
        crew.start("optimistic", 100)
    crew.go()
    assert crew.wait() == [0] * 4
    assert shop["n"] == 400


def test_every_way_of_counting_at_once(crew, shop):
    for job in ("locked", "optimistic", "increments"):
        crew.start(job, 100)
    crew.go()
    assert crew.wait() == [0] * 3
    assert shop["n"] == 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_threads_tasks_and_forks_on_one_store(file, shop):
    def thread(lock):
        for _ in range(40):
            with shop.transaction(lock=True, timeout=60) if lock else shop.transaction():
                if lock:
                    shop["n"] = shop.get("n", 0) + 1
            if not lock:
                shop.increment("n")

    async def tasks():
        async with connect_async(file, timeout=60) as database:
            store = await database.store("shop")

            async def task(lock):
                for _ in range(20):
                    if lock:
                        async with store.transaction(lock=True, timeout=60):
                            await store.set("n", await store.get("n", 0) + 1)
                    else:
                        await store.increment("n")

            await asyncio.gather(*(task(lock) for lock in (True, False, True, False)))

    shop["n"] = 0
    children = []
    for lock in (True, False):  # forked with the store open, before this process has other threads
        pid = os.fork()
        if not pid:
            status = 1
            try:
                thread(lock)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    threads = [threading.Thread(target=thread, args=(lock,)) for lock in (True, False)]
    for each in threads:
        each.start()
    asyncio.run(tasks())
    for each in threads:
        each.join()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert shop["n"] == 4 * 40 + 4 * 20


# --- the bank ---


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_transfers_with_random_kills_keep_the_sum(crew, shop):
    accounts, journal = shop.domain("accounts"), shop.domain("journal")
    opening = {f"a{n}": 100 for n in range(6)}
    accounts.set_many(opening)
    chance = random.Random(5)
    running = [crew.start("transfers", seed) for seed in range(3)]
    crew.go(*running)
    for seed in range(3, 9):
        replacement = crew.start("transfers", seed)
        # In the middle of its work, whatever it is doing, the lock in its hand now and then.
        until, enough = time.monotonic() + chance.uniform(0.1, 0.4), len(journal) + 5
        while time.monotonic() < until or (len(journal) < enough and time.monotonic() < until + 60):
            assert sum(accounts.values()) == 600, "a fractured read"
            time.sleep(0.01)
        victim = running.pop(chance.randrange(3))
        assert victim.poll() is None
        victim.kill()
        victim.wait()
        crew.go(replacement)
        running.append(replacement)
    for process in running:
        assert process.poll() is None
        process.kill()
        process.wait()
    for source, target, amount in journal.values():
        opening[f"a{source}"] -= amount
        opening[f"a{target}"] += amount
    assert dict(accounts) == opening, "money and journal are one transaction"
    assert sum(opening.values()) == 600
    assert min(opening.values()) >= 0
    assert len(journal) > 20
    with shop.transaction(lock=True, timeout=2):
        accounts["free"] = 1


# --- histories, checked as Elle does (Kingsbury and Alvaro, VLDB 2020) ---


def check_history(transactions, final):
    """Check transactions that append unique numbers to lists, and read lists.

    Args:
        transactions: (began, ended, [("a", key, number) or ("r", key, numbers seen)]) of all that committed.
        final: The lists at the end.
    """
    writer = {}
    for index, (_, _, steps) in enumerate(transactions):
        for action, key, value in steps:
            if action == "a":
                assert (key, value) not in writer
                writer[key, value] = index
    for key, numbers in final.items():
        assert len(set(numbers)) == len(numbers), "a number was appended twice"
        assert all((key, number) in writer for number in numbers), "a dirty write"
    position = {(key, number): n for key, numbers in final.items() for n, number in enumerate(numbers)}
    assert set(position) == set(writer), "a lost update"
    edges = defaultdict(set)
    for index, (_, _, steps) in enumerate(transactions):
        own = defaultdict(list)
        for action, key, value in steps:
            numbers = final.get(key, [])
            if action == "a":
                own[key].append(value)
                before = position[key, value]
                if before:
                    edges[writer[key, numbers[before - 1]]].add(index)
                continue
            assert value == numbers[: len(value)], "a read of what never was"
            assert value[len(value) - len(own[key]) :] == own[key], "a transaction did not see its own writes"
            if value:
                edges[writer[key, value[-1]]].add(index)
            if len(value) < len(numbers):
                edges[index].add(writer[key, numbers[len(value)]])
    # Real time: who ended before another began comes before it.
    order = sorted(range(len(transactions)), key=lambda index: transactions[index][0])
    ended = sorted(range(len(transactions)), key=lambda index: transactions[index][1])
    for index in order:
        began = transactions[index][0]
        for earlier in ended:
            if transactions[earlier][1] >= began:
                break
            edges[earlier].add(index)
    assert not find_cycle(edges), "no order of the transactions explains what they saw"


def find_cycle(edges):
    """Tell whether a graph has a cycle, by taking away what nothing leads to."""
    incoming = defaultdict(int)
    nodes = set(edges)
    for node, targets in edges.items():
        for target in targets - {node}:
            incoming[target] += 1
            nodes.add(target)
    free = [node for node in nodes if not incoming[node]]
    left = len(nodes)
    while free:
        node = free.pop()
        left -= 1
        for target in edges.get(node, set()) - {node}:
            incoming[target] -= 1
            if not incoming[target]:
                free.append(target)
    return left > 0


@pytest.mark.parametrize("keys", [2, 6])
def test_histories_of_transactions_are_strictly_serialisable(crew, shop, keys):
    for seed in range(1, 5):
        crew.start("histories", seed, 60, keys)
    crew.go()
    assert crew.wait() == [0] * 4
    lines = [line for process in crew.processes for line in process.output.read_text().splitlines()]
    transactions = [json.loads(line) for line in lines]
    assert len(transactions) == 240
    check_history(transactions, dict(shop))


def test_histories_of_tasks_and_threads(location):
    """The same in one process, on both faces at once."""
    transactions = []

    def plan(chance, seed, number):
        return [(chance.choice("rra"), f"k{chance.randrange(3)}", seed * 10_000 + number * 10 + n) for n in range(3)]

    def thread(store, seed):
        chance = random.Random(seed)
        for number in range(30):
            steps = plan(chance, seed, number)

            def act(view, steps=steps):
                seen = []
                for action, key, value in steps:
                    found = view.get(key, [])
                    if action == "a":
                        view[key] = [*found, value]
                    seen.append((action, key, value if action == "a" else found))
                return seen

            began = time.monotonic_ns()
            seen = store.run(act)
            transactions.append((began, time.monotonic_ns(), seen))

    async def task(store, seed):
        chance = random.Random(seed)
        for number in range(30):
            seen = []
            began = time.monotonic_ns()
            async with store.transaction(lock=True, timeout=60):
                for action, key, value in plan(chance, seed, number):
                    found = await store.get(key, [])
                    await asyncio.sleep(0)
                    if action == "a":
                        await store.set(key, [*found, value])
                    seen.append((action, key, value if action == "a" else found))
            transactions.append((began, time.monotonic_ns(), seen))

    async def tasks():
        async with connect_async(location, timeout=60) as database:
            store = await database.store("shop")
            await asyncio.gather(*(task(store, seed) for seed in (1, 2, 3)))

    with connect(location, timeout=60) as database:
        store = database.create("shop")
        threads = [threading.Thread(target=thread, args=(store, seed)) for seed in (4, 5)]
        for each in threads:
            each.start()
        asyncio.run(tasks())
        for each in threads:
            each.join()
        assert len(transactions) == 150
        check_history(transactions, dict(store))


def test_the_checker_finds_what_is_wrong():
    good = [(0, 1, [("a", "x", 1)]), (2, 3, [("r", "x", [1]), ("a", "x", 2)])]
    check_history(good, {"x": [1, 2]})
    wrong = {
        "lost": ([*good, (4, 5, [("a", "x", 3)])], {"x": [1, 2]}),
        "dirty": (good, {"x": [1, 2, 9]}),
        "twice": (good, {"x": [1, 2, 2]}),
        "never was": ([*good, (4, 5, [("r", "x", [2])])], {"x": [1, 2]}),
        "own": ([(0, 1, [("a", "x", 1), ("r", "x", [])])], {"x": [1]}),
        "order": ([*good, (4, 5, [("r", "x", [1])])], {"x": [1, 2]}),
    }
    skew = [(0, 9, [("r", "x", []), ("a", "y", 1)]), (0, 9, [("r", "y", []), ("a", "x", 2)])]
    fractured = [(0, 9, [("a", "x", 1), ("a", "y", 2)]), (0, 9, [("r", "x", [1]), ("r", "y", [])])]
    wrong["order of skew"] = (skew, {"x": [2], "y": [1]})
    wrong["order of fractured"] = (fractured, {"x": [1], "y": [2]})
    for name, (transactions, final) in wrong.items():
        with pytest.raises(AssertionError, match=name.split()[0]):
            check_history(transactions, final)
