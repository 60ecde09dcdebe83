"""What the processes of the hammer do: ``python hammering.py JOB FILE ...``; no tests here."""

from __future__ import annotations

import json
import random
import sys
import time

from ptb_kvpersistence import connect


def locked(store, count):
    for _ in range(int(count)):
        with store.transaction(lock=True, timeout=120):
            store["n"] = store.get("n", 0) + 1


def optimistic(store, count):
    def add_one(view):
        view["n"] = view.get("n", 0) + 1

    for _ in range(int(count)):
        store.run(add_one)


def increments(store, count):
    for _ in range(int(count)):
        store.increment("n")


def transfers(store, seed):
    """Move money between accounts, in either way, until killed."""
    chance = random.Random(int(seed))
    while True:
        source, target = chance.sample(range(6), 2)
        amount = chance.randint(1, 30)

        def move(view, source=source, target=target, amount=amount):
            accounts = view.domain("accounts")
            if accounts[f"a{source}"] < amount:
                return
            accounts[f"a{source}"] -= amount
            accounts[f"a{target}"] += amount
            view.domain("journal")[f"{seed}-{time.time_ns()}"] = [source, target, amount]

        if chance.random() < 0.5:
            store.run(move)
        else:
            with store.transaction(lock=True, timeout=60):
                move(store)


def histories(store, seed, count, keys):
    """Append unique numbers to lists and read lists, several in a transaction; print what was seen, and when."""
    chance = random.Random(int(seed))
    for number in range(int(count)):
        steps = [
            (chance.choice("rra"), f"k{chance.randrange(int(keys))}", int(seed) * 1_000_000 + number * 10 + step)
            for step in range(chance.randint(1, 4))
        ]

        def act(view, steps=steps):
            seen = []
            for action, key, value in steps:
                found = view.get(key, [])
                if action == "a":
                    view[key] = [*found, value]
                    seen.append(("a", key, value))
                else:
                    seen.append(("r", key, found))
            return seen

        began = time.monotonic_ns()
        if chance.random() < 0.5:
            seen = store.run(act)
        else:
            with store.transaction(lock=True, timeout=60):
                seen = act(store)
        print(json.dumps([began, time.monotonic_ns(), seen]), flush=True)


if __name__ == "__main__":
    job, path, *arguments = sys.argv[1:]
    with connect(path, timeout=120) as database:
        shop = database.store("shop")
        sys.stdin.readline()
        globals()[job](shop, *arguments)
