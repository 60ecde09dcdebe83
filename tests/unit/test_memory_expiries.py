"""When the next entry expires in memory: as exact as a look at all entries, in as much memory as they take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptb_kvpersistence.backends.memory.engine import MemoryEngine
from ptb_kvpersistence.model import Changes, Commit, Delete, OpenStore, Put

writes = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["gone", None, 1000, 2000, 3000])), max_size=30)


def put(key, ttl):
    return Put("default", key, b"1", ttl=ttl)


def opened():
    engine = MemoryEngine("memory:")
    store = engine.perform(OpenStore("shop", "create")).id
    return engine, store, engine._stores[store]


@given(writes)
def test_it_is_what_a_look_at_all_entries_tells(steps):
    engine, store, data = opened()
    for key, ttl in steps:
        mutation = Delete("default", key) if ttl == "gone" else put(key, ttl)
        engine.perform(Commit(store, (mutation,)))
        expiries = [change.expires_at for change in data.changes.values() if change.expires_at is not None]
        assert data.next_expiry() == min(expiries, default=None)
        engine.perform(Changes(store, 0, None, 10))


def test_entries_that_are_kept_alive_take_no_more_memory():
    engine, store, data = opened()
    for n in range(5000):
        engine.perform(Commit(store, (put(f"session{n % 10}", 90_000 - n), put("lasting", None))))
        if n % 50 == 49:
            assert data.next_expiry() == min(change.expires_at for change in data.changes.values() if change.expires_at)
    assert len(data.expiries) < 200
