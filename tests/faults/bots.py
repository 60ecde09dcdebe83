"""Programs that meet a storage in trouble; run as ``python -m tests.faults.bots NAME DATABASE``. No tests here."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from telegram.ext import MessageHandler, filters

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.backends.sqlite import aio as _imported_before  # noqa: F401
from ptb_kvpersistence.errors import KVPersistenceError
from tests.faults.offline import Offline, builder

SCENARIOS: dict = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


class Told(Offline):
    """Its messages come on standard input, one text a line; the end of the input ends the bot."""

    async def _answer(self, method):
        if method == "getUpdates" and not self.messages:
            line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            if not line:
                return await super()._answer(method)
            self.messages.append((1, line.strip()))
        return await super()._answer(method)


@scenario
def bot(path):
    """Store each text and answer it on standard output; the text "stop" ends the bot."""

    async def handle(update, context):
        began = time.monotonic()
        context.user_data.setdefault("texts", []).append(update.message.text)
        print(update.message.text, flush=True)
        if update.message.text == "stop":
            context.application.stop_running()
        assert time.monotonic() - began < 1

    persistence = KVPersistence(path, update_interval=0.1)
    built = builder(persistence).request(Offline()).get_updates_request(Told())
    application = built.build()
    application.add_handler(MessageHandler(filters.ALL, handle))
    application.run_polling()


@scenario
def save_one(path):
    """A script that saves one user and ends; prints the error, if there is one."""

    async def main():
        kept = KVPersistence(path, bot="4711")
        try:
            await kept.get_user_data()
            await kept.update_user_data(1, {"name": "new"})
        except KVPersistenceError as error:
            print(type(error).__name__, error)

    asyncio.run(main())


@scenario
def save_one_as_nobody(path):
    """The same as a user whom permissions stop; everything needed is imported before."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    save_one(path)


@scenario
def read_all(path):
    """A script that prints what it finds."""

    async def main():
        kept = KVPersistence(path, bot="4711")
        print(await kept.get_user_data())
        await kept.flush()

    asyncio.run(main())


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](sys.argv[2])
