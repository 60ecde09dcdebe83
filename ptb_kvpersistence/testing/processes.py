"""Other processes on the same database, and what is left when one of them is killed."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import pytest

from ptb_kvpersistence.model import AcquireLease, Changes, Commit, ListBots, OpenStore, Put
from ptb_kvpersistence.testing import client
from ptb_kvpersistence.testing.faces import Face, Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Connect, Suite


class Client:
    """A process that does a job on the place's database."""

    def __init__(self, place: Place, job: str) -> None:
        opener = base64.b64encode(pickle.dumps(place.opener())).decode()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and our own module
            [sys.executable, "-m", client.__name__, job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._output: IO[str] = self._process.stdout
        with self._process.stdin as order:
            order.write(opener + "\n")

    def said(self) -> list[str]:
        """Wait for the next line, and give its words; none at the end, be it in the middle of a line."""
        line = self._output.readline()
        return line.split() if line.endswith("\n") else []

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._output.close()


class Start:
    """Starts clients, and ends them all."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.clients: list[Client] = []

    def __call__(self, job: str) -> Client:
        """Start a process."""
        self.clients.append(Client(self._place, job))
        return self.clients[-1]


class Processes(Suite):
    """Kill -9 of a client in another process."""

    guarantee = "survives kill -9"

    @pytest.fixture
    def start(self, place: Place) -> Iterator[Start]:
        """Start other processes."""
        start = Start(place)
        yield start
        for each in start.clients:
            each.end()

    async def test_what_was_acknowledged_survives_and_nothing_is_torn(
        self, backend: Subject, store: int, start: Start, witness: Witness
    ) -> None:
        writer = start("write")
        versions: dict[str, int] = {}

        def note() -> bool:
            words = writer.said()
            if words:
                number, *found = words
                versions.update(zip((f"a{number}", f"b{number}"), map(int, found), strict=True))
            return bool(words)

        while len(versions) < 60:
            assert await asyncio.to_thread(note)
        writer.kill()
        while note():
            pass
        entries = {key: value for (_, _, key), value in witness.entries().items()}
        assert entries.items() >= {key: key[1:].encode() for key in versions}.items()
        numbers = [{key[1:] for key in entries if key[0] == letter} for letter in "ab"]
        assert numbers[0] == numbers[1], "a commit was torn apart"
        assert len(numbers[0]) <= len(versions) // 2 + 1
        changes = {change.key: change.version for change in (await backend.perform(Changes(store, 0))).changes}
        assert changes.items() >= versions.items()
        await backend.perform(Commit(store, (Put("d", "free", b"1"),)))

    async def test_the_exclusive_lock_is_free_at_once_when_its_holder_is_killed(
        self, face: Face, backend: Subject, store: int, start: Start, witness: Witness
    ) -> None:
        holder = start("hold")
        assert await asyncio.to_thread(holder.said) == ["locked"]

        async def take() -> float:
            session = await backend.exclusive(store, 20)
            taken = time.monotonic()
            await session.end(Commit(store, (Put("", "taken", b"1"),)))
            return taken

        waiting = face.start(take)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        killed = time.monotonic()
        holder.kill()
        assert await waiting - killed < 3
        assert witness.entries() == {("shop", "", "taken"): b"1"}

    async def test_named_locks_and_bots_of_a_killed_process_end_with_it(
        self, backend: Subject, store: int, start: Start, place: Place
    ) -> None:
        holder = start("hold_named")
        word, token = await asyncio.to_thread(holder.said)
        assert word == "token"
        assert [(bot.name, bot.is_attached) for bot in await backend.perform(ListBots(store))] == [("bot", True)]
        holder.kill()
        place.pass_time(60)
        assert [bot.is_attached for bot in await backend.perform(ListBots(store))] == [False]
        reply = await backend.perform(AcquireLease(store, "report", "other", 30_000))
        assert reply.token is not None
        assert reply.token > int(token)

    async def test_increments_of_several_processes_are_all_counted(
        self, face: Face, connect: Connect, start: Start
    ) -> None:
        shop = face.store(connect())
        await shop.set("n", 0)
        clients = [start("count") for _ in range(3)]
        for each in clients:
            assert await asyncio.to_thread(each.said) == ["done"]
        assert await shop.get("n") == 90

    async def test_an_entry_written_by_another_process_is_in_the_feed_in_order(
        self, backend: Subject, store: int, start: Start
    ) -> None:
        writer, cursor, seen = start("write"), 0, list[str]()
        assert (await backend.perform(OpenStore("shop"))).id == store
        deadline = time.monotonic() + 20
        while len(seen) < 40:
            assert time.monotonic() < deadline
            reply = await backend.perform(Changes(store, cursor))
            seen += [change.key for change in reply.changes]
            cursor = max(cursor, reply.head)
            await asyncio.sleep(0.005)
        writer.kill()
        assert seen == [f"{letter}{number}" for number in range(len(seen) // 2) for letter in "ab"]
