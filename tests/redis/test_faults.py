"""Connections that break and servers that die or go deaf: nothing is lost, nothing applied twice, nothing hangs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ptb_kvpersistence.backends.redis.sync import RedisBackend
from ptb_kvpersistence.errors import (
    BusyError,
    DatabaseError,
    DatabaseUnavailableError,
    LockTimeoutError,
    OutcomeUnknownError,
    ReentryError,
    StoreExistsError,
)
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    Commit,
    Delete,
    DeleteStore,
    GetMany,
    ListStores,
    OpenStore,
    Put,
    ReleaseLease,
    RenameStore,
    Sweep,
    VersionCheck,
)
from tests.servers.proxy import Proxy


@pytest.fixture
def proxy(own_server):
    proxy = Proxy(own_server.port, b"EVALSHA")
    yield proxy
    proxy.close()


@pytest.fixture
def cut_url(proxy, own_server, url):
    return url.replace(str(own_server.port), str(proxy.port))


async def prepared(subject):
    """The store's id; scripts and connections are ready, so that the next request goes out at once."""
    store = (await subject.perform(OpenStore("shop", "ensure"))).id
    await subject.perform(Commit(store, (Put("d", "warm-up", b"0"),)))
    return store


async def count_up(subject, store):
    """A commit that shows how often it was applied: each time it is, a new version is given."""
    return await subject.perform(Commit(store, (Put("d", "n", b"1"), Delete("d", "no"), Put("d", "m", b"2"))))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_cut_connection_is_no_second_commit(connect, proxy, cut_url, own_server, url, witness_of, when, times):
    subject = connect(cut_url)
    store = await prepared(subject)
    applied = witness_of(own_server, url).client.pubsub(ignore_subscribe_messages=True)
    applied.subscribe(f"{url[-13:]}:changed")
    applied.get_message(timeout=1)
    proxy.cut(when, times=times)
    proxy.seen = 0
    reply = await count_up(subject, store)
    assert proxy.seen == 1 + times
    assert not reply.applied_before
    assert reply.versions[1] == 0
    assert reply.versions[2] == reply.versions[0] + 1
    (record,) = await subject.perform(GetMany(store, (Address("d", "n"),)))
    assert record.version == reply.versions[0]
    assert applied.get_message(timeout=0.2) is not None
    assert applied.get_message(timeout=0.2) is None, "it was applied twice"
    applied.close()


async def test_a_callers_id_is_answered_as_if_nothing_had_happened(connect, proxy, cut_url):
    subject = connect(cut_url)
    store = await prepared(subject)
    proxy.cut_after()
    commit = Commit(store, (Put("d", "n", b"1"),), (), "mine")
    reply = await subject.perform(commit)
    assert len(reply.versions) == 1
    assert (await subject.perform(commit)).applied_before


async def test_other_writing_requests_can_be_cut_too(connect, proxy, cut_url):
    subject = connect(cut_url)
    store = await prepared(subject)

    async def cut(request):
        proxy.cut_after()
        return await subject.perform(request)

    made = await cut(OpenStore("new", "create"))
    assert made.id != store
    with pytest.raises(StoreExistsError):
        await cut(OpenStore("new", "create"))
    await cut(RenameStore("new", "newer"))
    await cut(DeleteStore("newer"))
    assert [info.name for info in await subject.perform(ListStores())] == ["shop"]
    first = await cut(AcquireLease(store, "report", "a", 30_000))
    assert first.token is not None
    assert (await subject.perform(AcquireLease(store, "report", "a", 30_000))).token is None
    assert await cut(ReleaseLease(store, "report", "a", first.token))
    assert not await subject.perform(ReleaseLease(store, "report", "a", first.token))
    assert await cut(Sweep()) == 0


async def test_who_gives_up_says_that_the_outcome_is_not_known(connect, proxy, cut_url, own_server, url, witness_of):
    subject = connect(cut_url)
    store = await prepared(subject)
    proxy.cut_after(times=10_000)
    started = time.monotonic()
    with pytest.raises(OutcomeUnknownError, match="may have been written"):
        await subject.perform(Commit(store, (Put("d", "n", b"1"),), (), "mine"), 0.5)
    with pytest.raises(DatabaseUnavailableError, match=r"did not answer within 0\.5 s"):
        await subject.perform(GetMany(store, (Address("d", "n"),)), 0.5)
    assert time.monotonic() - started < 3
    proxy.cut_after(times=0)
    assert (await subject.perform(Commit(store, (Put("d", "n", b"2"),), (), "mine"))).applied_before
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"1"


async def test_a_late_original_is_not_applied_after_somebody_gave_up(
    connect, proxy, cut_url, own_server, url, witness_of
):
    subject = connect(cut_url)
    store = await prepared(subject)
    holder = RedisBackend(url)
    session = await asyncio.to_thread(holder.exclusive, store, 5)
    proxy.hold_requests = 1
    with pytest.raises((BusyError, ReentryError)):  # the sync face does not wait inside of a loop
        await subject.perform(Commit(store, (Put("d", "n", b"late"),)), 2)
    assert proxy.hold_requests == 0
    session.end(None)
    proxy.deliver()
    await asyncio.sleep(0.2)
    assert set(witness_of(own_server, url).entries()) == {("shop", "d", "warm-up")}
    assert (await subject.perform(Commit(store, (Put("d", "n", b"1"),)))).is_committed
    holder.close()


async def test_who_waits_in_vain_far_from_the_server_is_told_for_whom(connect, proxy, cut_url, url):
    subject = connect(cut_url)
    store = await prepared(subject)
    holder = RedisBackend(url)
    session = await asyncio.to_thread(holder.exclusive, store, 5)
    proxy.delay = 0.05
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises((BusyError, ReentryError)):  # the sync face does not wait inside of a loop
            await subject.perform(Commit(store, (Put("d", "n", b"1"),)), 1)
    with pytest.raises((BusyError, ReentryError)):
        await subject.perform(DeleteStore("shop"), 1)
    assert time.monotonic() - started < 8
    session.end(None)
    assert (await subject.perform(Commit(store, (Put("d", "n", b"1"),)))).is_committed
    holder.close()


async def test_a_late_original_is_not_applied_after_a_conflict(connect, proxy, cut_url, own_server, url, witness_of):
    subject, other = connect(cut_url), connect(url)
    store = await prepared(subject)
    await other.perform(Commit(store, (Put("d", "n", b"there"),)))
    proxy.hold_requests = 1
    absent = (VersionCheck("d", "n", 0),)
    assert (await subject.perform(Commit(store, (Put("d", "n", b"late"),), absent), 2)).conflicts
    await other.perform(Commit(store, (Delete("d", "n"),)))
    proxy.deliver()
    await asyncio.sleep(0.2)
    assert set(witness_of(own_server, url).entries()) == {("shop", "d", "warm-up")}
    assert (await subject.perform(Commit(store, (Put("d", "n", b"1"),), absent))).is_committed


async def test_a_late_original_is_not_applied_twice(connect, proxy, cut_url, own_server, url, witness_of):
    subject = connect(cut_url)
    store = await prepared(subject)
    proxy.hold_requests = 1
    await subject.perform(Commit(store, (Put("d", "n", b"first"),)), 2)
    assert proxy.hold_requests == 0
    await subject.perform(Commit(store, (Put("d", "n", b"second"),)))
    proxy.deliver()
    await asyncio.sleep(0.2)
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"second"


async def test_a_server_that_is_not_there(connect, make_server):
    server = make_server()
    server.kill()
    subject = connect(server.url)
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailableError, match=f"127.0.0.1:{server.port} did not answer within 0.4 s"):
        await subject.perform(OpenStore("shop", "ensure"), 0.4)
    assert 0.3 < time.monotonic() - started < 2


async def test_a_deaf_server(connect, own_server, url, witness_of):
    subject = connect(url)
    store = await prepared(subject)
    own_server.freeze()
    try:
        started = time.monotonic()
        with pytest.raises(OutcomeUnknownError):
            await subject.perform(Commit(store, (Put("d", "n", b"1"),)), 1)
        with pytest.raises(DatabaseUnavailableError, match="did not answer within 1 s"):
            await subject.perform(GetMany(store, (Address("d", "n"),)), 1)
        large = tuple(Put("d", f"{number}", b"x" * 1_000_000) for number in range(30))
        with pytest.raises(DatabaseError):
            await subject.perform(Commit(store, large), 1)
        with pytest.raises(DatabaseUnavailableError):
            await connect(url).perform(OpenStore("shop"), 1)
        assert time.monotonic() - started < 8
        closing = time.monotonic()
        await connect(url).close()
        assert time.monotonic() - closing < 1
    finally:
        own_server.thaw()
    reply = await subject.perform(Commit(store, (Put("d", "n", b"2"),)))
    assert reply.is_committed
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"2"
    assert len(witness_of(own_server, url).entries()) in {2, 32}


async def test_a_slow_server(connect, own_server, url):
    subject = connect(url)
    store = await prepared(subject)
    own_server.freeze()
    timer = threading.Timer(1.0, own_server.thaw)
    timer.start()
    try:
        reply = await count_up(subject, store)
    finally:
        timer.join()
    (record,) = await subject.perform(GetMany(store, (Address("d", "n"),)))
    assert record.version == reply.versions[0]


async def test_a_server_that_dies_under_load_and_comes_back(connect, own_server, url, witness_of):
    """What was acknowledged is there; what was not was applied at most once."""
    subjects = [connect(url, timeout=20) for _ in range(3)]
    store = await prepared(subjects[0])
    acknowledged, stop = {}, threading.Event()

    async def write(subject, writer):
        number = 0
        while not stop.is_set():
            reply = await subject.perform(Commit(store, (Put("d", f"{writer}-{number}", b"1"),)))
            acknowledged[f"{writer}-{number}"] = reply.versions[0]
            number += 1

    def in_threads():
        threads = [threading.Thread(target=asyncio.run, args=(write(s, n),)) for n, s in enumerate(subjects)]
        for thread in threads:
            thread.start()
        return lambda: [thread.join() for thread in threads]

    if connect.face == "sync":
        join = in_threads()
    else:
        tasks = [asyncio.create_task(write(subject, number)) for number, subject in enumerate(subjects)]
    for _ in range(3):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_server.restart)
    await asyncio.sleep(0.3)
    stop.set()
    if connect.face == "sync":
        await asyncio.to_thread(join)
    else:
        await asyncio.gather(*tasks)
    stored = {key: value for (_, _, key), value in witness_of(own_server, url).entries().items()}
    stored.pop("warm-up")
    assert set(stored) == set(acknowledged)
    assert len(acknowledged) > 30
    records = await subjects[0].perform(GetMany(store, tuple(Address("d", key) for key in acknowledged)), 20)
    assert [record.version for record in records] == list(acknowledged.values())


async def test_all_connections_in_use(connect, own_server, url):
    subject = connect(f"{url}&max_connections=1", timeout=1)
    store = await prepared(subject)
    own_server.freeze()
    try:
        if connect.face == "async":
            first = asyncio.create_task(subject.perform(Commit(store, (Put("d", "n", b"1"),))))
            await asyncio.sleep(0.05)
            with pytest.raises(DatabaseUnavailableError, match="max_connections"):
                await subject.perform(GetMany(store, (Address("d", "n"),)), 0.3)
            with pytest.raises(OutcomeUnknownError):
                await first
        else:
            commit = Commit(store, (Put("d", "n", b"1"),))
            errors = []

            def write():
                try:
                    subject.raw.perform(commit)
                except OutcomeUnknownError as error:
                    errors.append(error)

            thread = threading.Thread(target=write)
            thread.start()
            await asyncio.sleep(0.05)
            with pytest.raises(DatabaseUnavailableError, match="max_connections"):
                await subject.perform(GetMany(store, (Address("d", "n"),)), 0.3)
            thread.join()
            assert len(errors) == 1
    finally:
        own_server.thaw()
    assert await subject.perform(GetMany(store, ()), 5) == ()


async def test_scripts_that_the_server_has_forgotten(connect, own_server, url):
    subject = connect(url)
    store = await prepared(subject)
    with own_server.client() as client:
        client.script_flush()
    assert (await count_up(subject, store)).is_committed
    with own_server.client() as client:
        client.script_flush()
    assert len(await subject.perform(GetMany(store, (Address("d", "n"),)))) == 1


# --- exclusive sessions ---


async def begin(subject, store, timeout=5):
    session = subject.raw.exclusive(store, timeout)
    return await session if asyncio.iscoroutine(session) else session


async def end(session, commit):
    result = session.end(commit)
    if result is not None:
        await result


async def test_a_session_whose_connection_broke_is_over_at_once(connect, proxy, cut_url, url, own_server, witness_of):
    subject, other = connect(cut_url), connect(url)
    store = await prepared(subject)
    session = await begin(subject, store)
    with pytest.raises((BusyError, DatabaseError)):
        await asyncio.to_thread(asyncio.run, other_commit(url, store, 0.2))
    proxy.cut_all()
    started = time.monotonic()
    assert (await other.perform(Commit(store, (Put("d", "n", b"other"),)), 5)).is_committed
    assert time.monotonic() - started < 1
    with pytest.raises(RuntimeError, match="nothing was written"):
        await end(session, Commit(store, (Put("d", "n", b"mine"),)))
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"other"


async def other_commit(url, store, timeout):
    from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend

    backend = AsyncRedisBackend(url)
    try:
        await backend.perform(Commit(store, (Put("d", "n", b"busy"),)), timeout)
    finally:
        await backend.close()


async def test_a_session_whose_connection_broke_ends_well_if_nobody_wrote(
    connect, proxy, cut_url, own_server, url, witness_of
):
    subject = connect(cut_url)
    store = await prepared(subject)
    session = await begin(subject, store)
    proxy.cut_all()
    await end(session, Commit(store, (Put("d", "n", b"mine"),)))
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"mine"
    assert (await subject.perform(Commit(store, (Put("d", "n", b"after"),)))).is_committed


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_end_of_a_session_can_be_cut(connect, proxy, cut_url, own_server, url, witness_of, when):
    subject = connect(cut_url)
    store = await prepared(subject)
    session = await begin(subject, store)
    proxy.cut(when)
    await end(session, Commit(store, (Put("d", "n", b"mine"),)))
    assert witness_of(own_server, url).entries()["shop", "d", "n"] == b"mine"
    assert (await subject.perform(Commit(store, (Put("d", "n", b"after"),)), 0.5)).is_committed


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_beginning_of_a_session_can_be_cut(connect, proxy, cut_url, when):
    subject = connect(cut_url)
    store = await prepared(subject)
    proxy.cut(when)
    session = await begin(subject, store)
    await end(session, None)
    session = await begin(subject, store, 0)
    await end(session, None)


async def test_the_server_restarts_while_somebody_has_a_session(connect, own_server, url):
    subject, other = connect(url), connect(url)
    store = await prepared(subject)
    session = await begin(subject, store)
    own_server.restart()
    assert (await other.perform(Commit(store, (Put("d", "n", b"other"),)), 10)).is_committed
    with pytest.raises(RuntimeError, match="nothing was written"):
        await end(session, Commit(store, (Put("d", "n", b"mine"),)))


async def test_a_session_waits_for_a_server_that_comes_back(connect, own_server, url):
    subject = connect(url, timeout=0.3)
    store = await prepared(subject)
    await end(await begin(subject, store), None)
    own_server.kill()
    with pytest.raises(DatabaseUnavailableError, match="did not answer within"):
        await begin(subject, store, 0.3)
    starting = threading.Timer(0.3, own_server.start)
    starting.start()
    await end(await begin(subject, store, 20), None)
    starting.join()


async def test_a_session_on_a_deaf_server_is_given_up(connect, own_server, url):
    subject = connect(url, timeout=0.5)
    store = await prepared(subject)
    own_server.freeze()
    try:
        with pytest.raises(DatabaseUnavailableError, match="did not answer within"):
            await begin(subject, store, 0.5)
    finally:
        own_server.thaw()
    await end(await begin(subject, store, 5), None)


async def test_sessions_of_two_stores_do_not_meet(connect, url):
    subject = connect(url)
    shop = await prepared(subject)
    market = (await subject.perform(OpenStore("market", "create"))).id
    session = await begin(subject, shop)
    second = await begin(subject, market, 0)
    with pytest.raises((LockTimeoutError, RuntimeError)):
        await begin(connect(url), shop, 0)
    await end(second, Commit(market, (Put("d", "n", b"1"),)))
    assert (await subject.perform(Commit(market, (Put("d", "n", b"2"),)), 1)).is_committed
    await end(session, None)
