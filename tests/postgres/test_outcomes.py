"""Connections that break in the middle, servers that die or freeze: the outcome is found out, or said to be unknown."""

from __future__ import annotations

import asyncio
import time

import pytest

from ptb_kvpersistence.backends.postgres.attempts import Deadline, performing
from ptb_kvpersistence.backends.postgres.failures import Failed, Verdict
from ptb_kvpersistence.backends.postgres.jobs import Claim
from ptb_kvpersistence.errors import (
    BusyError,
    DatabaseError,
    DatabaseUnavailableError,
    LockTimeoutError,
    OutcomeUnknownError,
    StoreNotFoundError,
)
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    Changes,
    Commit,
    CommitReply,
    Count,
    Delete,
    DeleteStore,
    GetMany,
    KeyRange,
    ListStores,
    OpenStore,
    Put,
    ReleaseLease,
    RenameStore,
    SetDomain,
    VersionCheck,
)
from tests.servers.postgres import through

MARK = "mark-7f3a"
"""A key that the proxy looks for in what is sent."""
CUTS = ["before", "after"]


@pytest.fixture
async def remote(connect_to, schema, proxy, store):
    """A backend that goes through the proxy, and has its connections."""
    backend = connect_to(through(schema.url, proxy.port))
    await backend.perform(GetMany(store, (Address("d", "k"),)))
    return backend


def cut(proxy, when, text, times=1):
    proxy.cut(when, text.encode(), times)


def broken():
    return Failed(Verdict.BROKEN, DatabaseUnavailableError("it broke"), was_sent=True)


async def history(backend, store):
    return [(change.key, change.value) for change in (await backend.perform(Changes(store, 0))).changes]


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("commit_id", [None, "id-1"])
async def test_a_commit_is_applied_once(remote, backend, proxy, store, schema, when, commit_id):
    (version,) = (await backend.perform(Commit(store, (Put("d", "n", b"0"),)))).versions
    cut(proxy, when, MARK)
    checks = (VersionCheck("d", "n", version),)
    reply = await remote.perform(Commit(store, (Put("d", "n", b"1"), Put("d", MARK, b"2")), checks, commit_id))
    assert proxy.cuts == 1
    assert reply.is_committed
    if commit_id is None or when == "before":
        records = await backend.perform(GetMany(store, (Address("d", "n"), Address("d", MARK))))
        assert reply.versions == tuple(record.version for record in records)
    else:
        assert reply.applied_before
    assert await history(backend, store) == [("n", b"1"), (MARK, b"2")]
    assert schema.rows("SELECT count(*) FROM kv_commits") == [(2,)]


@pytest.mark.parametrize("when", CUTS)
async def test_deletions_of_nothing_keep_their_place_in_a_repeated_reply(remote, backend, proxy, store, when):
    cut(proxy, when, MARK)
    reply = await remote.perform(Commit(store, (Delete("d", "no"), Put("d", MARK, b"1"), Delete("d", "no"))))
    (record,) = await backend.perform(GetMany(store, (Address("d", MARK),)))
    assert reply.versions == (0, record.version, 0)


@pytest.mark.parametrize("when", CUTS)
async def test_reads_are_repeated(remote, backend, proxy, store, when):
    await backend.perform(Commit(store, (Put("d", MARK, b"1"),)))
    for request in (
        GetMany(store, (Address("d", MARK),)),
        GetMany(store, (Address("d", MARK), Address("d", "no"))),
        Count(store, KeyRange("d", MARK)),
    ):
        cut(proxy, when, MARK, 2)
        assert await remote.perform(request) == await backend.perform(request)
    assert proxy.cuts == 6


@pytest.mark.parametrize("when", CUTS)
async def test_other_writes_are_safe_to_repeat(remote, backend, proxy, store, when):
    cut(proxy, when, MARK)
    made = await remote.perform(OpenStore(MARK, "create"))
    assert made == await backend.perform(OpenStore(MARK))
    cut(proxy, when, MARK)
    await remote.perform(SetDomain(store, MARK, 1000))
    cut(proxy, when, MARK)
    await remote.perform(RenameStore(MARK, "other"))
    assert [info.name for info in await backend.perform(ListStores())] == ["other", "shop"]
    await backend.perform(RenameStore("other", MARK))
    cut(proxy, when, MARK)
    await remote.perform(DeleteStore(MARK))
    with pytest.raises(StoreNotFoundError):
        await remote.perform(DeleteStore(MARK))
    assert proxy.cuts == 4


@pytest.mark.parametrize("when", CUTS)
async def test_leases_are_safe_to_repeat(remote, backend, proxy, store, when):
    cut(proxy, when, MARK)
    reply = await remote.perform(AcquireLease(store, MARK, "me", 30_000))
    assert reply.token
    assert (await backend.perform(AcquireLease(store, MARK, "you", 30_000, waits=False))).holder == "me"
    cut(proxy, when, MARK)
    assert await remote.perform(ReleaseLease(store, MARK, "me", reply.token))
    assert (await backend.perform(AcquireLease(store, MARK, "you", 30_000))).token
    assert proxy.cuts == 2


@pytest.mark.parametrize("when", CUTS)
async def test_an_unknown_outcome_is_called_so(remote, backend, proxy, store, when):
    cut(proxy, when, MARK, 1000)
    started = time.monotonic()
    with pytest.raises(OutcomeUnknownError, match="may have been applied"):
        await remote.perform(Commit(store, (Put("d", MARK, b"1"),), (), "id-1"), timeout=1)
    assert time.monotonic() - started < 2
    cut(proxy, when, MARK, 0)
    again = await remote.perform(Commit(store, (Put("d", MARK, b"1"),), (), "id-1"))
    assert again.applied_before is (when == "after")
    assert await history(backend, store) == [(MARK, b"1")]


@pytest.mark.parametrize("when", CUTS)
async def test_the_end_of_an_exclusive_session(remote, backend, proxy, store, when):
    session = await remote.exclusive(store, 5)
    await session.perform(GetMany(store, (Address("d", "k"),)))
    cut(proxy, when, MARK)
    commit = Commit(store, (Put("d", MARK, b"1"),))
    if when == "before":
        with pytest.raises(DatabaseError, match="nothing was written"):
            await session.end(commit)
        assert await history(backend, store) == []
    else:
        await session.end(commit)
        assert await history(backend, store) == [(MARK, b"1")]
    # In either case the lock is free.
    again = await remote.exclusive(store, 1)
    await again.end(Commit(store, (Put("d", "later", b"2"),)))


async def test_a_session_that_broke_gives_its_lock_to_others(remote, backend, proxy, store):
    session = await remote.exclusive(store, 5)
    with pytest.raises(LockTimeoutError):
        await backend.exclusive(store, 0.2)
    proxy.cut_all()
    other = await backend.exclusive(store, 2)
    await other.end(Commit(store, (Put("d", "k", b'"other"'),)))
    with pytest.raises(DatabaseUnavailableError):
        await session.perform(GetMany(store, (Address("d", "k"),)))
    with pytest.raises(DatabaseError, match="nothing was written"):
        await session.end(Commit(store, (Put("d", "k", b'"late"'),)))
    assert await history(backend, store) == [("k", b'"other"')]


# --- a request that arrives after its sender has sent it again ---


async def held(remote, proxy, request, **options):
    """Begin a request whose first sending stays on the way, on a connection that breaks."""
    proxy.matching, proxy.hold_requests = b"READ COMMITTED", 1
    task = asyncio.create_task(remote.perform(request, **options))
    while proxy.hold_requests:  # noqa: ASYNC110 - a thread counts
        await asyncio.sleep(0.01)
    proxy.cut_clients()
    return task


async def delivered(proxy):
    proxy.deliver()
    await asyncio.sleep(0.5)


async def test_a_late_original_is_not_applied_twice(remote, backend, proxy, store):
    task = await held(remote, proxy, Commit(store, (Put("d", MARK, b"1"),)))
    assert (await task).is_committed
    await backend.perform(Commit(store, (Put("d", MARK, b"2"),)))
    await delivered(proxy)
    assert await history(backend, store) == [(MARK, b"2")]


async def test_a_late_original_is_not_applied_after_a_conflict(remote, backend, proxy, store):
    await backend.perform(Commit(store, (Put("d", "n", b"0"),)))
    task = await held(remote, proxy, Commit(store, (Put("d", MARK, b"3"),), (VersionCheck("d", "n", 0),)))
    assert (await task).conflicts
    await backend.perform(Commit(store, (Delete("d", "n"),)))
    await delivered(proxy)
    assert await history(backend, store) == [("n", None)]


async def test_a_late_original_is_not_applied_after_somebody_gave_up(remote, backend, proxy, store):
    session = await backend.exclusive(store, 5)
    task = await held(remote, proxy, Commit(store, (Put("d", MARK, b"3"),)), timeout=1)
    with pytest.raises((BusyError, OutcomeUnknownError)) as caught:
        await task
    await session.end(None)
    await delivered(proxy)
    if caught.type is BusyError:
        assert await history(backend, store) == []


def test_an_original_that_fits_before_its_id_is_used_up_was_applied():
    commit = Commit(1, (Put("d", "k", b"1"),), (VersionCheck("d", "k", 0),))
    steps = performing(commit, "somewhere", Deadline.after(5))
    first = next(steps)
    assert steps.throw(broken()).seconds < 1
    second = steps.send(None)
    assert (second.request, first.again, second.again) == (first.request, False, True)
    claim = steps.send(CommitReply(conflicts={Address("d", "k"): None}))
    assert claim.request == Claim(1, first.request.id)
    third = steps.send(True)
    assert third == second
    with pytest.raises(StopIteration) as caught:
        steps.send(CommitReply((7,)))
    assert caught.value.value == CommitReply((7,))


def test_a_refused_commit_whose_id_may_be_used_up_is_not_sent_again():
    """It would find its own id, and take itself for applied."""
    steps = performing(Commit(1, (Put("d", "k", b"1"),), (VersionCheck("d", "k", 0),)), "somewhere", Deadline.after(5))
    next(steps)
    steps.throw(broken())
    second = steps.send(None)
    refused = CommitReply(conflicts={Address("d", "k"): None})
    claim = steps.send(refused)
    for _ in range(2):
        assert steps.throw(broken()).seconds < 1
        assert steps.send(None) == claim != second
    with pytest.raises(StopIteration) as caught:
        steps.send(False)
    assert caught.value.value is refused


async def test_a_claim_finds_what_was_applied(backend, store):
    for mutations in ((Put("d", "n", b"1"),), (Delete("d", "no"),), ()):
        await backend.perform(Commit(store, mutations, (), f"id-{len(mutations)}"))
        assert [await backend.perform(Claim(store, f"id-{len(mutations)}")) for _ in range(2)] == [True, True]
    assert [await backend.perform(Claim(store, "id-x")) for _ in range(2)] == [False, False]
    assert (await backend.perform(Commit(store, (Put("d", "n", b"2"),), (), "id-x"))).applied_before


# --- the server itself ---


async def test_a_server_that_was_killed_and_started_again(connect_to, own_server):
    backend = connect_to(own_server.url)
    store = (await backend.perform(OpenStore("shop", "create"))).id
    acknowledged, failures, running = [], [], True

    async def write(name):
        number = 0
        while running:
            number += 1
            key = f"{name}-{number}"
            try:
                await backend.perform(Commit(store, (Put("d", key, b"1"),)), timeout=10)
            except DatabaseUnavailableError as error:
                failures.append(error)
                await asyncio.sleep(0.05)
            else:
                acknowledged.append(key)

    writers = [asyncio.create_task(write(name)) for name in "abc"]
    for _ in range(2):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own_server.start)
    await asyncio.sleep(0.5)
    running = False
    await asyncio.gather(*writers)
    stored = {change.key for change in (await backend.perform(Changes(store, 0, None, 100_000))).changes}
    assert len(acknowledged) > 20
    assert set(acknowledged) <= stored


async def test_a_frozen_server(connect_to, own_server):
    backend = connect_to(own_server.url, timeout=1)
    store = (await backend.perform(OpenStore("shop", "create"))).id
    session = await backend.exclusive(store, 1)
    await backend.perform(ListStores())  # another connection
    own_server.freeze()
    try:
        for request, error in (
            (AcquireLease(store, "lock", "me", 1000), OutcomeUnknownError),
            (AcquireLease(store, "lock", "me", 1000), DatabaseUnavailableError),  # nothing was sent
            (GetMany(store, (Address("d", "k"),)), DatabaseUnavailableError),
        ):
            started = time.monotonic()
            with pytest.raises(error):
                await backend.perform(request)
            assert time.monotonic() - started < 2.5
        started = time.monotonic()
        with pytest.raises(DatabaseError):
            await session.end(Commit(store, (Put("d", "k", b"1"),)))
        assert time.monotonic() - started < 5
        started = time.monotonic()
        await backend.close()
        assert time.monotonic() - started < 0.5
    finally:
        own_server.thaw()


async def test_a_server_that_is_down_fails_fast_and_comes_back(connect_to, own_server):
    backend = connect_to(own_server.url)
    store = (await backend.perform(OpenStore("shop", "create"))).id
    own_server.stop()
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailableError, match=r"refused|broke"):
        await backend.perform(GetMany(store, (Address("d", "k"),)))
    assert time.monotonic() - started < 2
    own_server.start()
    assert (await backend.perform(Commit(store, (Put("d", "k", b"1"),)))).is_committed
