"""Two bots in two processes share user_data under load: handlers that run at once, saves all the time, no edit lost."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from telegram import Update
from telegram.ext import TypeHandler

from ptb_kvpersistence import KVPersistence
from tests.ptb.offline import OTHER_TOKEN, TOKEN, OfflineBot

pytestmark = pytest.mark.everywhere

ROOT = Path(__file__).parents[2]
OPTIONS = {"share": ["user_data"], "merge": {"user_data.*.n": "sum"}, "update_interval": 0.05}
USERS = (1, 2, 3, 4, 5)
UPDATES = 400


async def work(location, token, name):
    """Be one of the two bots: hundreds of updates, eight at a time, and PTB's own updater beside them."""
    choose = random.Random(name)

    async def handle(update, context):
        data = context.user_data
        data["n"] += 1
        data["log"].append(f"{name}-{update.message.text}")
        await asyncio.sleep(choose.choice([0, 0.001, 0.01]))
        data[name] = data.get(name, 0) + 1

    bot = OfflineBot(
        KVPersistence(location, **OPTIONS),
        token,
        build=lambda builder: builder.concurrent_updates(8),
        handlers=[TypeHandler(Update, handle)],
    )
    await bot.start()
    await bot.app.start()
    print("ready", flush=True)
    sys.stdin.readline()
    numbers = iter(range(UPDATES))

    async def talk():
        for number in numbers:
            await bot.say(str(number), user=choose.choice(USERS))
            await asyncio.sleep(choose.choice([0, 0.002]))

    await asyncio.gather(*(talk() for _ in range(8)))
    await bot.stop()
    assert not bot.errors, bot.errors


async def child(location, token, name):
    code = f"import asyncio; from {__name__} import work; asyncio.run(work({str(location)!r}, {token!r}, {name!r}))"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert (await asyncio.wait_for(process.stdout.readline(), 30)).strip() == b"ready"
    return process


async def test_no_edit_is_lost(location, witness):
    first = KVPersistence(location, bot="first", **OPTIONS)
    for user in USERS:
        await first.update_user_data(user, {"n": 0, "log": []})
    await first.flush()
    children = [await child(location, TOKEN, "one"), await child(location, OTHER_TOKEN, "two")]
    try:
        for process in children:
            process.stdin.write(b"go\n")
        for process in children:
            await asyncio.wait_for(process.communicate(), 120)
            assert process.returncode == 0
    finally:
        for process in children:
            if process.returncode is None:
                process.kill()
                await process.communicate()
    values = witness.values("ptb:user_data")
    expected = Counter(f"{name}-{number}" for name in ("one", "two") for number in range(UPDATES))
    assert Counter(line for data in values.values() for line in data["log"]) == expected
    assert sum(data["n"] for data in values.values()) == 2 * UPDATES
    for data in values.values():
        assert data["n"] == len(data["log"]) == data["one"] + data["two"]
        for name in ("one", "two"):
            assert data[name] == sum(line.startswith(name) for line in data["log"])
