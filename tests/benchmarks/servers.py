"""The figures on servers: ours beside the bare driver with the same rows, and beside one row that holds everything.

Servers are started for it, as for the tests; "ours in memory" is what an interval costs without any. Round trips are
counted with replies that come late: how often the delay was waited for. ``python -m tests.benchmarks.servers SYSTEM URL
COUNT`` is one of the processes that increment.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import logging
import select
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import urlsplit

import orjson

from ptb_kvpersistence import KVPersistence, connect, connect_async
from ptb_kvpersistence.persistence import state
from tests.benchmarks.contention import COUNTER, WARM_UP, Turn, go, ready, run_increments
from tests.benchmarks.data import BOT, make_user
from tests.benchmarks.drivers import AsyncPsycopg, AsyncRedisPy, Psycopg, RedisPy
from tests.benchmarks.measures import TOUCHED, three_hooks
from tests.benchmarks.report import Row
from tests.benchmarks.systems import Ours
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import Server

COUNTS = (1000, 10_000)
REPEATS = 61
LOOKS = 201
CALLS = 1001
DELAY = 0.05
"""Seconds by which replies are late where round trips are counted."""
INCREMENTS = 1600
"""Of all processes together."""
PROCESSES = 8
TURNS = 3
APART = 0.012
"""Seconds between two updates, so that a look is older than the default max_staleness."""

# --- the servers ---


class Place(NamedTuple):
    """A server that runs."""

    kind: str
    url: str
    note: str
    drivers: tuple[Any, Any]

    @property
    def name(self):
        return {"postgres": "PostgreSQL", "valkey": "Valkey"}[self.kind]

    def ours(self, count):
        """The location of our store with so many users."""
        return f"{self.url}?{'schema' if self.kind == 'postgres' else 'prefix'}=ours_{count}"

    def driver(self):
        return self.drivers[0](self.url)

    async def async_driver(self):
        return await self.drivers[1]().open(self.url)

    @contextmanager
    def far(self):
        """The same server, as if it were far away."""
        port = urlsplit(self.url).port
        with closing(LateReplies(port)) as proxy:
            yield self._replace(url=self.url.replace(f":{port}", f":{proxy.port}"))

    def build(self, count):
        """Write users as KVPersistence lays them out, and the same rows for the driver."""
        users = {str(number): make_user(number) for number in range(count)}
        with connect(self.ours(count)) as database:
            store = database.store("default", create=True)
            store.domain("ptb:bots").set(f"bot:{BOT}", {"namespace": BOT})
            store.domain(f"ptb:user_data:{BOT}").set_many(users)
        with closing(self.driver()) as driver:
            driver.prepare()
            driver.upsert([(key, orjson.dumps(user).decode()) for key, user in users.items()])
            driver.settle()


class LateReplies:
    """A proxy through which everything that the server says at one time arrives one delay later."""

    def __init__(self, server_port):
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for source, target, delay in ((client, server, 0), (server, client, DELAY)):
                    target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass, args=(source, target, delay), daemon=True).start()

    @staticmethod
    def _pass(source, target, delay):
        with suppress(OSError):
            while select.select([source], [], []):
                time.sleep(delay)
                if not (data := source.recv(1 << 22)):
                    break
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


@contextmanager
def running(kind, folder, *, syncs):
    """Run a server that waits for the disk with each commit, or leaves that to the system."""
    with ExitStack() as stack:
        if kind == "postgres":
            setting = "on" if syncs else "off"
            server = PostgresServer({"fsync": setting})
            stack.callback(server.remove)
            yield Place(kind, server.start().url, f"all with fsync={setting}", (Psycopg, AsyncPsycopg))
        else:
            setting = "always" if syncs else "no"
            options = ("--appendonly", "yes", "--appendfsync", setting, "--auto-aof-rewrite-percentage", "0")
            server = Server(Path(folder) / f"valkey-{setting}", *options)
            stack.callback(server.kill)
            yield Place(kind, server.start().url, f"all with appendfsync={setting}", (RedisPy, AsyncRedisPy))


def quiet():
    """Have it not said again and again that a server does not wait for the disk."""
    logging.getLogger("ptb_kvpersistence").setLevel(logging.ERROR)


def measure_server(files, kind):
    quiet()
    rows = []
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        for syncs in (False, True):
            with running(kind, folder, syncs=syncs) as place:
                for count in COUNTS:
                    place.build(count)
                    rows.append(measure_interval(place, count))
                if not syncs:
                    rows += [*measure_refresh(place), *measure_calls(place), measure_increments(place)]
    return rows


def round_trips(near, far):
    """How often a delay was waited for."""
    return round((far - near) / DELAY)


# --- an interval ---


def measure_interval(place, count):
    near = asyncio.run(_intervals(place, count, REPEATS))
    with place.far() as far:
        late = asyncio.run(_intervals(far, count, 7))
    ours, *_ = trips = [round_trips(near[name], late[name]) for name in ("ours", "bare")]
    note = f"{'missed: ' if ours > 3 else ''}round trips: {trips[0]}, bare {trips[1]}; {place.note}"
    peers = {**near, "one row": asyncio.run(_whole(place, count))}
    name = f"{place.name} interval, {TOUCHED} of {count:,} users"
    return Row(name, "s", peers.pop("ours"), peers, {"bare": 2.0}, note)


async def _intervals(place, count, repeats):
    seconds = {"ours": [], "bare": [], "bare, sync": [], "ours in memory": []}
    with mock.patch.object(state, "PACK_FROM", count + 1):
        persistence = KVPersistence(place.ours(count), bot=BOT)
        users = await persistence.get_user_data()
    assert len(users) == count
    in_memory = KVPersistence("memory:", bot=BOT)
    await in_memory.get_user_data()
    await asyncio.gather(*[in_memory.update_user_data(user, copy.deepcopy(data)) for user, data in users.items()])
    bare, bare_sync = await place.async_driver(), place.driver()
    step = count // TOUCHED
    for turn in range(repeats):
        touched = [(turn + position * step) % count for position in range(TOUCHED)]
        for user in touched:
            users[user]["visits"] += 1
        copies = [(user, copy.deepcopy(users[user])) for user in touched]
        for name, one in (("ours", persistence), ("ours in memory", in_memory)):
            start = time.perf_counter()
            await asyncio.gather(*[one.update_user_data(user, data) for user, data in copies])
            seconds[name].append(time.perf_counter() - start)
        rows = [(str(user), orjson.dumps(data).decode()) for user, data in copies]
        start = time.perf_counter()
        await bare.upsert(rows)
        seconds["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        bare_sync.upsert(rows)
        seconds["bare, sync"].append(time.perf_counter() - start)
    assert bare_sync.get(str(touched[0])) == users[touched[0]]
    await bare.close()
    bare_sync.close()
    await persistence.flush()
    await in_memory.flush()
    return {name: median(some) for name, some in seconds.items()}


async def _whole(place, count):
    """Write everything anew as one JSON text, as ptbcontrib's Postgres persistence does at each flush."""
    data = {"user_data": {str(number): make_user(number) for number in range(count)}, "chat_data": {}, "bot_data": {}}
    driver, seconds = await place.async_driver(), []
    for _ in range(9):
        start = time.perf_counter()
        await driver.write_whole(orjson.dumps(data))
        seconds.append(time.perf_counter() - start)
    await driver.close()
    return median(seconds)


# --- refresh ---


def measure_refresh(place):
    rows = []
    for staleness, changes, limit in ((0.01, False, 1), (0.01, True, 1), (1, False, 0)):
        near, look = asyncio.run(_refreshes(place, staleness, changes, LOOKS))
        with place.far() as far:
            late, _ = asyncio.run(_refreshes(far, staleness, changes, 11))
        trips = round_trips(near, late)
        name = f"{place.name} refresh, {'one user' if changes else 'nothing'} changed"
        settings = "max_staleness=1, notifications" if staleness == 1 else "max_staleness as by default"
        note = f"{'missed: ' if trips > limit else ''}round trips: {trips}; {settings}"
        rows.append(Row(name, "s", near, {"round trip": look}, note=note))
    return rows


async def _refreshes(place, staleness, changes, repeats):
    location, seconds, looks = place.ours(COUNTS[0]), [], []
    persistence = KVPersistence(location, bot=BOT, max_staleness=staleness)
    users, bot_data = await persistence.get_user_data(), await persistence.get_bot_data()
    driver = await place.async_driver()
    await three_hooks(persistence, bot_data, users[1])
    await asyncio.sleep(0.5)  # in which notifications begin
    with connect(location) as database:
        domain = database.store("default").domain(f"ptb:user_data:{BOT}")
        for number in range(repeats):
            if changes:
                domain.set("1", {**users[1], "visits": -number})
            await asyncio.sleep(APART)
            seconds.append(await three_hooks(persistence, bot_data, users[1]))
            assert not changes or users[1]["visits"] == -number
            start = time.perf_counter()
            await driver.get("1")
            looks.append(time.perf_counter() - start)
    await driver.close()
    await persistence.flush()
    return median(seconds), median(looks)


# --- the store: one call, and increments ---


def measure_calls(place):
    rows = []
    for face, seconds in (("sync", _calls(place)), ("async", asyncio.run(_async_calls(place)))):
        for name in ("get", "set"):
            note = f"of {COUNTS[-1]:,} entries; {place.note}"
            rows.append(Row(f"{place.name} {face} {name}", "s", *_split(seconds, name), note=note))
    return rows


def _split(seconds, name):
    return median(seconds["ours", name]), {"bare": median(seconds["bare", name])}


def _jobs(store, driver):
    """Give calls by turns: who, which, and the function's arguments."""
    count = COUNTS[-1]
    for turn in range(CALLS):
        key = str(turn * 7919 % count)
        for who, one in (("ours", store), ("bare", driver)):
            yield (who, "get"), one.get, (key,)
            yield (who, "set"), one.set, (key, make_user(turn))


def _calls(place):
    seconds = {key: [] for key in itertools.product(("ours", "bare"), ("get", "set"))}
    with connect(place.ours(COUNTS[-1])) as database, closing(place.driver()) as driver:
        domain = database.store("default").domain(f"ptb:user_data:{BOT}")
        for key, function, arguments in _jobs(domain, driver):
            start = time.perf_counter()
            function(*arguments)
            seconds[key].append(time.perf_counter() - start)
    return seconds


async def _async_calls(place):
    seconds = {key: [] for key in itertools.product(("ours", "bare"), ("get", "set"))}
    driver = await place.async_driver()
    async with connect_async(place.ours(COUNTS[-1])) as database:
        domain = (await database.store("default")).domain(f"ptb:user_data:{BOT}")
        for key, function, arguments in _jobs(domain, driver):
            start = time.perf_counter()
            await function(*arguments)
            seconds[key].append(time.perf_counter() - start)
    await driver.close()
    return seconds


def measure_increments(place):
    turns = {"ours": [], "bare": []}
    for _ in range(TURNS):
        turns["ours"].append(_increment_together(place.ours("counter"), "ours"))
        turns["bare"].append(_increment_together(place.url, f"bare {place.kind}"))
    seconds = {system: median(turn.seconds for turn in done) for system, done in turns.items()}
    rates = ", ".join(f"{system} {1 / value:,.0f}/s" for system, value in seconds.items())
    name = f"{place.name} locked increment, {PROCESSES} processes"
    bare = "SELECT FOR UPDATE" if place.kind == "postgres" else "WATCH, again if others were quicker"
    return Row(name, "s", seconds.pop("ours"), seconds, note=f"{rates}; bare: {bare}; {place.note}")


def _increment_together(url, system):
    count = INCREMENTS // PROCESSES
    with closing(SYSTEMS[system](url)) as opened:
        opened.set(COUNTER, 0)
        with ready([(system, url, count)] * PROCESSES, "tests.benchmarks.servers") as children:
            for child in children:
                go(child)
            replies = [json.loads(child.stdout.readline()) for child in children]
        assert opened.get(COUNTER) == PROCESSES * (count + WARM_UP), f"{system} lost increments"
    return Turn(replies)


SYSTEMS = {"ours": Ours, "bare postgres": Psycopg, "bare valkey": RedisPy}


def main(system, url, count):
    quiet()
    with closing(SYSTEMS[system](url)) as opened:
        print(json.dumps(run_increments(opened, "locked_increment", int(count))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
