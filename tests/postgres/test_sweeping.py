"""Commits sweep a little once in a while, so that what has expired does not pile up where nobody watches."""

from __future__ import annotations

import asyncio
import time

from ptb_kvpersistence.backends.postgres import attempts
from ptb_kvpersistence.model import Commit, OpenStore, Put


async def test_a_commit_sweeps_once_in_a_while(monkeypatch, connect_to, schema):
    monkeypatch.setattr(attempts, "SWEEP_EVERY", 0.3)
    backend = connect_to(schema.url)
    store = (await backend.perform(OpenStore("shop", "ensure"))).id
    await backend.perform(Commit(store, (Put("d", "k", b"1", 1000),)))
    schema.pass_time(2)
    await backend.perform(Commit(store, (Put("d", "early", b"1"),)))
    tombstones = "SELECT key FROM kv_entries WHERE value IS NULL"
    assert schema.rows(tombstones) == []
    await asyncio.sleep(0.35)
    await backend.perform(Commit(store, (Put("d", "late", b"1"),)))
    deadline = time.monotonic() + 5
    while schema.rows(tombstones) != [("k",)]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_own_commit_ids_are_forgotten_early(backend, store, schema):
    from ptb_kvpersistence.model import Sweep

    await backend.perform(Commit(store, (Put("d", "k", b"1"),)))
    await backend.perform(Commit(store, (Put("d", "k", b"1"),), (), "given"))
    schema.pass_time(601)
    await backend.perform(Sweep())
    assert schema.rows("SELECT id FROM kv_commits") == [("given",)]
