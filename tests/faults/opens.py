"""Everything a persistence does, watched: ``python -m tests.faults.opens DATABASE``; no tests here.

Opening and closing a database file by any other means than SQLite drops the POSIX locks that SQLite holds in this
process; the log is then deleted under it, and commits vanish. So nothing else may open it while it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from telegram.ext import MessageHandler, filters

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.errors import KVPersistenceError
from tests.faults.offline import builder

OPENED: list = []


def watch(path):
    """Note who opens the database or one of its companions by other means than SQLite."""
    files = {path, f"{path}-wal", f"{path}-shm", f"{path}-journal"}

    def hook(event, arguments):
        if event in {"open", "shutil.copyfile", "os.rename", "os.remove", "os.truncate"}:
            name = arguments[0]
            if isinstance(name, (str, bytes, os.PathLike)) and os.fsdecode(name) in files:
                OPENED.append((event, os.fsdecode(name)))

    sys.addaudithook(hook)


async def scripts(path):
    kept = KVPersistence(path, bot="4711", share=("user_data",), merge={"user_data.*.count": "sum"})
    other = KVPersistence(path, bot="4712", share=("user_data",))
    for number in range(5):
        await asyncio.gather(kept.update_user_data(1, {"count": number}), other.update_chat_data(number, {}))
        await other.refresh_user_data(1, {})
        with connect(path) as database:
            database.store().set(f"{number}", number)
        await kept.store.set("key", number)
    with contextlib.suppress(KVPersistenceError):
        await KVPersistence(path + "-not-there/bot.db").get_user_data()
    await other.flush()
    await kept.update_user_data(1, {"count": 10})


def run_bot(path):
    async def handle(update, context):
        context.user_data["text"] = update.message.text
        context.application.stop_running()

    application = builder(KVPersistence(path, update_interval=0.05), [(1, "hello")]).build()
    application.add_handler(MessageHandler(filters.ALL, handle))
    application.run_polling()


if __name__ == "__main__":
    watch(sys.argv[1])
    asyncio.run(scripts(sys.argv[1]))
    asyncio.set_event_loop(asyncio.new_event_loop())  # PTB 21.6 takes the one that is set
    run_bot(sys.argv[1])
    print("opened by other means:", OPENED)
    OPENED.clear()
    with Path(sys.argv[1]).open("rb"):  # the watch works
        assert [("open", sys.argv[1])] == OPENED
    print("done")
