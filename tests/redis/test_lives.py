"""Loops, forks, cancelled callers and the end of the process: connections belong to one of each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend
from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.errors import LockTimeoutError
from ptb_kvpersistence.model import Address, Commit, GetMany, OpenStore, Put
from tests.servers.tls import Authority, TlsProxy

PREAMBLE = """
import asyncio, logging, os, sys, time, gc
# That a step took long says something of the machine only.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing <"))
from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend
from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.model import *
url = sys.argv[1]
async def work(backend):
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    until = time.monotonic() + 5
    while backend.peek(0.2) is None and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return store
"""


def run(script, url, timeout=20):
    """Run a script in a process where every warning is shown; give what it says."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", PREAMBLE + script, url],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip(), time.monotonic() - started


ENDINGS = {
    "nothing": "backend = AsyncRedisBackend(url)\nasyncio.run(work(backend))",
    "dropped": "backend = AsyncRedisBackend(url)\nasyncio.run(work(backend))\ndel backend\ngc.collect()",
    "closed": """
async def main():
    backend = AsyncRedisBackend(url)
    await work(backend)
    await backend.close()
asyncio.run(main())""",
    "several loops": """
backend = AsyncRedisBackend(url)
for _ in range(3):
    asyncio.run(work(backend))
""",
    "a loop that is left open": """
backend = AsyncRedisBackend(url)
loop = asyncio.new_event_loop()
loop.run_until_complete(work(backend))
loop.close()
asyncio.run(work(backend))
""",
    "a session": """
async def main():
    backend = AsyncRedisBackend(url)
    store = await work(backend)
    await backend.exclusive(store, 5)
    other = AsyncRedisBackend(url)
    store = (await other.perform(OpenStore("other", "ensure"))).id
    await (await other.exclusive(store, 5)).end(None)
asyncio.run(main())""",
    "in mid-request": """
async def main():
    backend = AsyncRedisBackend(url)
    store = await work(backend)
    asyncio.create_task(backend.perform(Commit(store, (Put("d", "late", b"1"),))))
    await asyncio.sleep(0)
asyncio.run(main())""",
    "sync": """
backend = RedisBackend(url)
store = backend.perform(OpenStore("shop", "ensure")).id
backend.peek(0.2)
session = backend.exclusive(store, 5)
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_quietly(url, ending):
    _, errors, seconds = run(ENDINGS[ending], url)
    assert errors == ""
    assert seconds < 10


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_with_encrypted_connections_ends_quietly(url, own_server, tmp_path, ending):
    authority = Authority(tmp_path)
    proxy = TlsProxy(own_server.port, authority.server(), asked=False)
    try:
        secret = url.replace(f"redis://127.0.0.1:{own_server.port}", f"rediss://127.0.0.1:{proxy.port}")
        _, errors, seconds = run(ENDINGS[ending], f"{secret}&ssl_ca_certs={authority.path}")
    finally:
        proxy.close()
    assert errors == ""
    assert seconds < 10
    assert proxy.encrypted > 0


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("fate", ["dead", "deaf"])
def test_a_process_ends_though_its_server_is_gone(make_server, face, fate):
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    fate = "os.kill(pid, 9)" if fate == "dead" else "os.kill(pid, 19)"
    script = {
        "sync": f"""
pid = {server.process.pid}
backend = RedisBackend(url)
store = backend.perform(OpenStore("shop", "ensure")).id
backend.peek(0.2)
session = backend.exclusive(store, 5)
{fate}
backend.peek(0.2)
""",
        "async": f"""
pid = {server.process.pid}
async def main():
    backend = AsyncRedisBackend(url)
    store = await work(backend)
    await backend.exclusive(store, 5)
    {fate}
    await asyncio.sleep(0.3)
    asyncio.create_task(backend.perform(Commit(store, (Put("d", "late", b"1"),))))
    await asyncio.sleep(0.1)
asyncio.run(main())""",
    }[face]
    _, errors, seconds = run(script, server.url)
    assert errors == ""
    assert seconds < 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_fork_has_connections_of_its_own(own_server, url, face):
    script = (
        {
            "sync": """
backend = RedisBackend(url)
store = backend.perform(OpenStore("shop", "ensure")).id
backend.peek(0.2)
def commits(name):
    return [backend.perform(Commit(store, (Put("d", f"{name}{n}", b"1"),))).versions[0] for n in range(200)]
""",
            "async": """
backend = AsyncRedisBackend(url)
store = asyncio.run(work(backend))
def commits(name):
    async def run():
        return [(await backend.perform(Commit(store, (Put("d", f"{name}{n}", b"1"),)))).versions[0] for n in range(200)]
    return asyncio.run(run())
""",
        }[face]
        + """
session = RedisBackend(url).exclusive(RedisBackend(url).perform(OpenStore("held", "ensure")).id, 5)
pid = os.fork()
versions = commits("child" if pid == 0 else "parent")
print(len(set(versions)), flush=True)
if pid == 0:
    session.end(None)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
session.end(Commit(session._held.store, (Put("d", "k", b"1"),)))
"""
    )
    said, errors, _ = run(script, url)
    assert said.split() == ["200", "200"]
    assert "Traceback" not in errors
    backend = RedisBackend(url)
    store = backend.perform(OpenStore("shop")).id
    addresses = tuple(Address("d", f"{name}{number}") for name in ("child", "parent") for number in range(200))
    found = backend.perform(GetMany(store, addresses))
    assert None not in found
    held = backend.perform(OpenStore("held")).id
    assert backend.perform(GetMany(held, (Address("d", "k"),))) != (None,)
    backend.close()


def test_who_is_killed_holds_nothing(url):
    # A disk may stall for as long, and the server waits for it; not each time.
    assert any(seconds_until_it_is_free(url) < 0.5 for _ in range(3))


def seconds_until_it_is_free(url):
    """How long a lock is held after its holder was killed, and a commit takes."""
    script = """
backend = RedisBackend(url)
store = backend.perform(OpenStore("shop", "ensure")).id
session = backend.exclusive(store, 5)
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", PREAMBLE + script, url], stdout=subprocess.PIPE, text=True)
    backend = RedisBackend(url)
    try:
        assert holder.stdout.readline() == "held\n"
        store = backend.perform(OpenStore("shop")).id
        with pytest.raises(LockTimeoutError):
            backend.exclusive(store, 0.2)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        started = time.monotonic()
        backend.exclusive(store, 5).end(Commit(store, (Put("d", "k", b"1"),)))
        return time.monotonic() - started
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        backend.close()


async def test_callers_cancelled_at_every_await(url):
    """Whatever a cancelled caller was doing, connections stay usable and locks come free."""
    backend = AsyncRedisBackend(url)
    store = (await backend.perform(OpenStore("shop", "create"))).id

    async def everything():
        session = await backend.exclusive(store, 5)
        try:
            await session.perform(GetMany(store, (Address("d", "k"),)))
        finally:
            await session.end(Commit(store, (Put("d", "k", b"1"),)))
        await backend.perform(Commit(store, (Put("d", "k", b"2"),)))

    steps = 0
    while True:
        fresh = steps % 3 == 0
        if fresh:
            await backend.release()
        task = asyncio.create_task(everything())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task])
        assert (await backend.perform(Commit(store, (Put("d", "after", b"1"),)), 2)).is_committed
        steps += 1
        assert steps < 3000
    assert steps > 20
    session = await backend.exclusive(store, 1)
    await session.end(None)
    await backend.close()


async def test_two_loops_at_once(url):
    backend = AsyncRedisBackend(url)
    store = (await backend.perform(OpenStore("shop", "create"))).id

    async def work(name):
        for number in range(50):
            await backend.perform(Commit(store, (Put("d", f"{name}{number}", b"1"),)))

    async def elsewhere():
        await work("b")
        await backend.release()

    await asyncio.gather(work("a"), asyncio.to_thread(asyncio.run, elsewhere()))
    addresses = tuple(Address("d", f"{name}{number}") for name in "ab" for number in range(50))
    assert None not in await backend.perform(GetMany(store, addresses))
    await backend.close()
