"""Writers that are killed: ``python -m tests.faults.kills (fork|spawn) FOLDER KILLS SEED``; no tests here.

A writer commits known sequences and reports each acknowledged commit through a pipe; after each kill the file is
judged by a plain SQL client. With "fork", everything is imported once, so that a kill costs milliseconds.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from ptb_kvpersistence import KVPersistence
from tests.faults.raw import check_file, has_schema, rows, users

MEMBERS = (1, 2, 3, 4)
"""These users get the same number in each commit: seeing two numbers means half a commit."""


def writer(path, bot, report):
    """Write for ever: load, check what was loaded, then one cycle after the other."""

    async def write():
        kept = KVPersistence(path, bot=bot, share=("bot_data",), merge={"bot_data.total": "sum"}, max_staleness=0)
        data = await kept.get_user_data()
        shared = await kept.get_bot_data()
        states = await kept.get_conversations("form")
        number = data[1]["number"] if data else 0
        assert all(data[user]["number"] == number for user in MEMBERS if data)
        assert states.get((1,), 0) == number
        while True:
            number += 1
            await kept.refresh_bot_data(shared)
            shared["total"] = shared.get("total", 0) + 1
            for user in MEMBERS:
                await kept.refresh_user_data(user, data.setdefault(user, {}))
                data[user].update(number=number, load="x" * (number % 7 * 300))
            cycle = [kept.update_user_data(user, copy.deepcopy(data[user])) for user in MEMBERS]
            cycle.append(kept.update_conversation("form", (1,), number))
            cycle.append(kept.update_bot_data(copy.deepcopy(shared)))
            await asyncio.gather(*cycle)
            os.write(report, b"%d\n" % number)
            if number % 5 == 0:
                await kept.flush()

    asyncio.run(write())


class Forked:
    """One writer in a fork of this process."""

    def __init__(self, path, bot):
        self.bot = bot
        self._pipe, report = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._pipe)
            try:
                writer(path, bot, report)
            finally:
                os._exit(9)
        os.close(report)
        self._seen = b""

    def wait(self):
        """Wait for the next acknowledgement."""
        if select.select([self._pipe], [], [], 1)[0]:
            self._seen += os.read(self._pipe, 65536)

    def kill(self):
        """SIGKILL; gives the last number that was acknowledged, None if none was."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        assert os.WIFSIGNALED(status), f"the writer ended by itself: {status}"
        while data := os.read(self._pipe, 65536):
            self._seen += data
        os.close(self._pipe)
        return last_number(self._seen)


class Spawned:
    """One writer in a process of its own, for systems without fork."""

    def __init__(self, path, bot):
        self.bot = bot
        command = [sys.executable, "-m", "tests.faults.kills", "write", path, bot]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._seen = b""

    def wait(self):
        """Wait for the next acknowledgement."""
        self._seen += self._process.stdout.readline()

    def kill(self):
        """End it without a warning; gives the last number that was acknowledged, None if none was."""
        assert self._process.poll() is None, "the writer ended by itself"
        self._process.kill()
        self._seen += self._process.stdout.read()
        self._process.wait()
        self._process.stdout.close()
        return last_number(self._seen)


def last_number(seen):
    """The last of the numbers, one a line; a line that is not whole does not count."""
    numbers = seen.split(b"\n")[:-1]
    return int(numbers[-1]) if numbers else None


class Judge:
    """Knows what was acknowledged, and looks at the file after each kill."""

    def __init__(self, path):
        self._path = path
        self._numbers = {}
        self._total = 0
        self._acknowledged = 0

    def check(self, acknowledged):
        """Check the file after the writers with these last acknowledged numbers were killed."""
        if not self._path.exists():
            assert not any(acknowledged.values())
            return
        check_file(self._path)
        has_tables, grown = has_schema(self._path), 0
        for bot, last in acknowledged.items():
            before = self._numbers.get(bot, 0)
            numbers = {entry["number"] for entry in users(self._path, bot=bot).values()} if has_tables else set()
            assert len(numbers) <= 1, f"half a commit: {numbers}"
            number = numbers.pop() if numbers else 0
            states = rows(self._path, "conversations", bot=bot).values() if has_tables else ()
            assert list(states) == ([number] if number else []), "a state without its data"
            at_least = before if last is None else last
            assert at_least <= number <= at_least + 1, f"acknowledged {at_least}, stored {number}"
            self._numbers[bot] = number
            grown += number - before
        if has_tables:
            total = rows(self._path, "bot_data").get("data", {}).get("total", 0)
            assert total - self._total == grown, f"the sum grew by {total - self._total}, the bots committed {grown}"
            self._total = total
        self._acknowledged += grown

    @property
    def commits(self):
        return self._acknowledged


def main(kind, folder, kills, seed):
    """Kill so many writers; prints how many commits survived."""
    start = {"fork": Forked, "spawn": Spawned}[kind]
    chance, done, commits, began = random.Random(seed), 0, 0, time.monotonic()
    gc.freeze()
    while done < kills:
        # A new file now and then: creation is killed as well.
        path = Path(folder) / f"{done}.db"
        judge = Judge(path)
        for _ in range(min(20, kills - done)):
            writers = [start(str(path), bot) for bot in (("1", "2") if chance.random() < 0.3 else ("1",))]
            if chance.random() < 0.8:
                for _ in range(chance.randrange(1, 7)):
                    writers[0].wait()
            time.sleep(chance.random() * 0.012)
            judge.check({each.bot: each.kill() for each in writers})
            done += 1
        commits += judge.commits
    print(f"{done} kills, {commits} commits, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        writer(sys.argv[2], sys.argv[3], sys.stdout.fileno())
    else:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
