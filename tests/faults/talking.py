"""Bots that answer while their server is in trouble: what they are told, how long it took, what is saved in the end."""

from __future__ import annotations

import asyncio
import contextlib
import time

from ptb_kvpersistence import DatabaseError
from ptb_kvpersistence.persistence.sight import LOOK_TIMEOUT
from tests.faults.stalls import Times

USERS = "ptb:user_data"
OPTIONS = {"share": ["user_data"], "merge": {"user_data.*.n": "sum"}}
PROMPT = 0.3
"""Seconds within which an update is to be answered on this machine, however loaded it is, while it does not stall."""


class Talk:
    """Updates of one user, one after the other, each timed."""

    def __init__(self, bot):
        self.bot = bot
        self.count = 0
        self.times = Times()

    def _change(self, _, context):
        data = context.user_data
        data["n"] = data.get("n", 0) + 1
        data.setdefault("log", []).append(self.count)

    async def once(self):
        began = time.monotonic()
        await self.bot.say("x", self._change)
        self.times.note(began)
        self.count += 1

    async def during(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await self.once()
            await asyncio.sleep(0.01)

    def assert_prompt(self):
        """At most two updates have waited: the one that found out, and one for the first look afterwards."""
        seconds = self.times.seconds()
        assert max(seconds) < LOOK_TIMEOUT + PROMPT
        assert len([each for each in seconds if each > PROMPT]) <= 2, seconds


async def begin(start_there):
    """Start a bot that has answered once, and saved it; give it and what talks to it."""
    bot = await start_there(**OPTIONS)
    talk = Talk(bot)
    await talk.once()
    await bot.save()
    return bot, talk


@contextlib.asynccontextmanager
async def saving(bot, pause=0.05):
    """Let PTB update its persistence again and again, as it does in its intervals."""

    async def save():
        while True:
            await bot.save()
            await asyncio.sleep(pause)

    task = asyncio.create_task(save())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def saved(bot, seconds=20):
    """Wait until nothing is pending, without PTB's help."""
    deadline = time.monotonic() + seconds
    while bot.persistence.pending:
        assert time.monotonic() < deadline, f"{bot.persistence.pending} entities stay pending"
        await bot.say("y", user=99)
        await asyncio.sleep(0.05)


async def assert_all_there(bot, talk, witness):
    await bot.save()
    await saved(bot)
    data = witness.values(USERS)["42"]
    assert (data["n"], data["log"]) == (talk.count, list(range(talk.count)))
    assert all(isinstance(error, DatabaseError) for error in bot.errors)
