"""What the processes of the tests do: ``python working.py JOB URL ...``; no tests here."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

from ptb_kvpersistence import connect, connect_async

# That a step took long says something of the machine only.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing <"))


def create(url):
    with connect(url) as database:
        database.store("shop", create=True)["k"] = 1
    print("made")


def increments(url, count, how):
    with connect(url, timeout=60) as database:
        store = database.store("shop")
        for _ in range(int(count)):
            if how == "plain":
                store.increment("n")
            elif how == "locked":
                with store.transaction(lock=True, timeout=60):
                    store["n"] = store.get("n", 0) + 1
            else:
                store.run(lambda view: view.set("n", view.get("n", 0) + 1))
    print("counted")


def hold(url):
    """Have the store to itself until killed."""
    with connect(url) as database, database.store("shop").transaction(lock=True) as view:
        view["held"] = True
        print("holding", flush=True)
        sys.stdin.readline()


def hold_and_fork(url):
    """Have the store to itself until killed; a child lives on and has inherited the connection."""
    with connect(url) as database, database.store("shop").transaction(lock=True) as view:
        view["held"] = True
        child = os.fork()
        if not child:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        sys.stdin.readline()


def fork(url):
    """Use a store before and after a fork, in both processes."""
    with connect(url) as database:
        store = database.store("shop", create=True)
        store["parent"] = 1
        child = os.fork()
        if child == 0:
            try:
                store["child"] = store["parent"] + 1
                with store.transaction(lock=True):
                    store["child locked"] = 3
                database.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        store["parent after"] = store["child"] + store["child locked"]
    print("forked")


async def _fork_async(url):
    asyncio.get_running_loop().slow_callback_duration = 60
    database = connect_async(url)
    store = await database.store("shop", create=True)
    await store.set("parent", 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:

            async def in_child():
                await store.set("child", await store.get("parent") + 1)
                await database.close()

            asyncio.set_event_loop(None)
            asyncio._set_running_loop(None)
            asyncio.run(in_child())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - the loop is not to go on meanwhile
    await store.set("parent after", await store.get("child") + 1)
    await database.close()
    print("forked")


def fork_async(url):
    asyncio.run(_fork_async(url))


_begun: list[asyncio.Future] = []


def left_open(url, how):
    """End without closing anything, in the middle of whatever."""

    async def use(database):
        store = await database.store("shop", create=True)
        await store.set("k", 1)
        backend = store.backend
        for _ in range(20):
            backend.peek(1.0)
            await asyncio.sleep(0.02)
        if how == "middle":
            _begun.extend(asyncio.ensure_future(store.set(f"k{number}", number)) for number in range(20))
            await asyncio.sleep(0)

    if how == "sync":
        store = connect(url).store("shop", create=True)
        store["k"] = 1
        store.backend.peek(1.0)
    elif how == "loop":
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(connect_async(url)))
        loop.close()
    else:
        asyncio.run(use(connect_async(url)))
    print("end", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
