"""Programs that end in all the ways in which programs end; run as ``python -m tests.faults.exits NAME DATABASE``.

None of them flushes or closes anything on purpose, unless its name says so. No tests here.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
from pathlib import Path

from telegram.ext import Application, ConversationHandler, MessageHandler, filters

from ptb_kvpersistence import KVPersistence
from tests.faults.offline import Offline, builder

SCENARIOS: dict = {}
ALL = (1, 2, 3)


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def persistence(path, **options):
    return KVPersistence(path, **{"bot": "4711", "update_interval": 0.1, **options})


# --- bots ---


def bot(path, handle, *, messages=None, configure=lambda built: built, **options):
    """Run a bot that stores every message with its user; ``handle`` is called with each update afterwards."""

    async def store(update, context):
        context.user_data.setdefault("texts", []).append(update.message.text)
        await handle(update, context)

    texts = messages or [(user, "hello") for user in ALL]
    application = configure(builder(persistence(path, **options), texts)).build()
    application.add_handler(MessageHandler(filters.ALL, store))
    application.run_polling()


async def stop_after_the_last(update, context):
    if update.effective_user.id == ALL[-1]:
        context.application.stop_running()


async def break_down(*_arguments):
    raise RuntimeError("on purpose")


@scenario
def ends_normally(path):
    bot(path, stop_after_the_last)


@scenario
def handler_raises(path):
    async def handle(update, context):
        await stop_after_the_last(update, context)
        await break_down()

    bot(path, handle)


@scenario
def post_stop_raises(path):
    bot(path, stop_after_the_last, configure=lambda built: built.post_stop(break_down), update_interval=60)


class StopRaises(Application):
    async def stop(self):
        await break_down()


@scenario
def stop_raises(path):
    bot(path, stop_after_the_last, configure=lambda built: built.application_class(StopRaises), update_interval=60)


class BotShutdownRaises(Offline):
    async def shutdown(self):
        await break_down()


@scenario
def bot_shutdown_raises(path):
    bot(path, stop_after_the_last, configure=lambda built: built.request(BotShutdownRaises()), update_interval=60)


@scenario
def handler_exits(path):
    async def handle(update, _context):
        if update.effective_user.id == ALL[-1]:
            sys.exit(3)

    bot(path, handle, update_interval=60)


@scenario
def handler_exits_at_once(path):
    async def handle(update, _context):
        if update.effective_user.id == ALL[-1]:
            raise KeyboardInterrupt

    bot(path, handle, update_interval=60)


@scenario
def updater_died(path):
    """A value that cannot be copied, for user 1: PTB's updater ends, and shutdown() raises before flush()."""

    async def handle(update, context):
        if update.effective_user.id == 1:
            context.user_data["lock"] = threading.Lock()
        elif update.effective_user.id == 2:
            updaters = [task for task in asyncio.all_tasks() if "persistence_updater" in task.get_name()]
            if updaters:
                await asyncio.wait(updaters, timeout=5)
            assert all(task.done() for task in updaters)
            print("the updater has died")
        await stop_after_the_last(update, context)

    bot(path, handle)


@scenario
def conversation_of_a_dead_updater(path):
    async def ask(update, context):
        context.user_data["lock" if update.effective_user.id == 1 else "asked"] = (
            threading.Lock() if update.effective_user.id == 1 else True
        )
        await stop_after_the_last(update, context)
        return "NAME"

    application = builder(persistence(path), [(user, "hello") for user in ALL]).build()
    application.add_handler(
        ConversationHandler([MessageHandler(filters.ALL, ask)], {"NAME": []}, [], name="form", persistent=True)
    )
    application.run_polling()


@scenario
def runs_twice(path):
    """Two Applications in turn, each in a loop of its own, the second after the first has broken down."""
    for users in ((1, 2), (3, 4)):

        async def handle(update, context, last=users[-1]):
            if update.effective_user.id == last:
                context.application.stop_running()

        asyncio.set_event_loop(asyncio.new_event_loop())
        try:
            bot(
                path,
                handle,
                messages=[(user, "hello") for user in users],
                configure=lambda built: built.post_stop(break_down),
                update_interval=60,
            )
        except RuntimeError as error:
            print(error)


# --- scripts ---


async def save(keeper, users=ALL):
    await asyncio.gather(*(keeper.update_user_data(user, {"texts": ["hello"]}) for user in users))


@scenario
def script_that_awaits(path):
    asyncio.run(save(persistence(path)))


@scenario
def script_without_a_loop(path):
    kept = persistence(path)
    for user in ALL:
        kept.update_user_data(user, {"texts": ["hello"]})


@scenario
def script_on_flush(path):
    kept = persistence(path, on_flush=True)
    asyncio.run(save(kept))
    assert kept.pending == 3


@scenario
def script_that_drops_everything(path):
    def run():
        kept = persistence(path, on_flush=True)
        asyncio.run(save(kept))

    run()
    gc.collect()


@scenario
def script_that_raises(path):
    async def main():
        kept = persistence(path)
        await kept.get_user_data()
        for user in ALL:
            kept.update_user_data(user, {"texts": ["hello"]})
        raise ValueError("on purpose")

    asyncio.run(main())


@scenario
def script_that_exits(path):
    async def main():
        kept = persistence(path)
        await save(kept, ALL[:-1])
        kept.update_user_data(ALL[-1], {"texts": ["hello"]})
        sys.exit(5)

    asyncio.run(main())


@scenario
def live_objects_only(path):
    """PTB has shown the objects by refresh, and never came back."""

    async def main():
        kept = persistence(path)
        await kept.get_user_data()
        for user in ALL:
            live = {}
            await kept.refresh_user_data(user, live)
            live["texts"] = ["hello"]

    asyncio.run(main())


@scenario
def loop_closed_in_mid_call(path):
    for steps in range(8):
        loop = asyncio.new_event_loop()
        kept = persistence(path, bot=f"{steps}")

        async def main(kept=kept, steps=steps):
            task = asyncio.ensure_future(save(kept))
            for _ in range(steps):
                await asyncio.sleep(0)
            return task

        task = loop.run_until_complete(main())
        loop.close()
        task._log_destroy_pending = False
        KEPT.append((kept, task))


KEPT: list = []


@scenario
def two_loops(path):
    kept = persistence(path)
    asyncio.run(save(kept, [1]))
    asyncio.run(save(kept, [2]))
    assert asyncio.run(kept.get_user_data()).keys() == {1, 2}
    asyncio.run(save(kept, [3]))


@scenario
def flush_then_go_on(path):
    async def main():
        kept = persistence(path)
        for user in ALL:
            await save(kept, [user])
            await kept.flush()

    asyncio.run(main())


@scenario
def loop_in_a_thread(path):
    kept = persistence(path)
    ready = threading.Event()

    def work():
        async def main():
            await kept.get_user_data()
            await save(kept, ALL[:2])
            ready.set()
            await asyncio.sleep(0.3)  # the main thread ends here
            await save(kept, ALL[2:])

        asyncio.run(main())

    threading.Thread(target=work).start()
    ready.wait()


@scenario
def loop_after_the_main_thread(path):
    """From Python 3.12 on no thread can be started then, so that nothing can be written before the very end."""
    kept = persistence(path)

    def work():
        threading.main_thread().join()
        try:
            asyncio.run(save(kept))
        except RuntimeError as error:
            print(error)

    threading.Thread(target=work).start()


@scenario
def loop_in_a_daemon_thread(path):
    kept = persistence(path)
    ready = threading.Event()

    def work():
        async def main():
            await save(kept, ALL[:2])
            kept._keeper.on_flush = True  # from now on nothing is written before the end
            await save(kept, ALL[2:])
            ready.set()
            await asyncio.sleep(3600)

        asyncio.run(main())

    threading.Thread(target=work, daemon=True).start()
    ready.wait()


@scenario
def daemon_thread_that_never_stops_writing(path):
    kept = persistence(path)
    ready = threading.Event()

    def work():
        async def main():
            await save(kept)
            ready.set()
            for number in range(10**9):
                await kept.update_user_data(9, {"number": number})

        asyncio.run(main())

    threading.Thread(target=work, daemon=True).start()
    ready.wait()


# --- forks ---


def fork(child):
    """Run ``child`` in a fork that ends as programs end; gives its exit status."""
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@scenario
def fork_whose_child_does_nothing(path):
    kept = persistence(path, on_flush=True)
    asyncio.run(save(kept))
    assert fork(lambda: None) == 0
    assert not Path(path).exists(), "the child wrote what is the parent's"
    assert kept.pending == 3


@scenario
def fork_whose_child_works(path):
    kept = persistence(path)
    asyncio.run(save(kept, [1]))  # the parent's connections stay open

    def child():
        async def main():
            assert (await kept.get_user_data()).keys() == {1}
            await save(kept, [2])

        asyncio.run(main())

    assert fork(child) == 0
    asyncio.run(save(kept, [3]))
    assert asyncio.run(kept.get_user_data()).keys() == {1, 2, 3}


@scenario
def fork_whose_child_leaves_last(path):
    """The child ends, connections inherited and all, after the parent closed its own and went on in new ones."""
    kept = persistence(path)
    asyncio.run(save(kept, [1]))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        sys.exit(0)
    asyncio.run(kept.flush())
    asyncio.run(save(kept, [2]))
    os.write(writing, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    asyncio.run(save(kept, [3]))


@scenario
def fork_with_pending_in_both(path):
    kept = persistence(path, on_flush=True)
    asyncio.run(save(kept, [1, 2]))

    def child():
        asyncio.run(save(kept, [3]))
        assert kept.pending == 1

    assert fork(child) == 0


def _child_of_multiprocessing(path):
    kept = persistence(path)
    asyncio.run(save(kept, ALL[:2]))
    kept.update_user_data(ALL[-1], {"texts": ["hello"]})


@scenario
def multiprocessing_child(path):
    for method in ("fork", "spawn"):
        child = multiprocessing.get_context(method).Process(target=_child_of_multiprocessing, args=(f"{path}",))
        child.start()
        child.join()
        assert child.exitcode == 0


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](sys.argv[2])
