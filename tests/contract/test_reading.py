"""GetMany, Page, Count and the stores themselves."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.errors import StoreClosedError, StoreExistsError, StoreNotFoundError
from ptb_kvpersistence.model import (
    Address,
    Commit,
    Count,
    Delete,
    GetMany,
    KeyRange,
    ListStores,
    OpenStore,
    Page,
    Put,
    prefix_range,
)

ODD_KEYS = [
    "a",
    "a\x01",
    "aa",
    "b",
    "\x7f",
    "é",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010ffff",
    " ",
    "%",
    "_",
]


async def test_get_many_answers_in_the_order_asked_with_none_for_what_is_absent(backend, store, put):
    first, second = await put(x=b"1", y=b"[2]")
    addresses = (Address("d", "y"), Address("d", "no"), Address("d", "x"), Address("d", "y"), Address("e", "x"))
    records = await backend.perform(GetMany(store, addresses))
    assert [record and (record.value, record.version) for record in records] == [
        (b"[2]", second),
        None,
        (b"1", first),
        (b"[2]", second),
        None,
    ]


async def test_get_many_of_nothing(backend, store):
    assert await backend.perform(GetMany(store, ())) == ()


async def test_a_record_carries_time_and_lifetime(backend, store, clock):
    await backend.perform(Commit(store, (Put("", "k", b"null", 500, clock.now + 500),)))
    (record,) = await backend.perform(GetMany(store, (Address("", "k"),)))
    assert record.value == b"null"
    assert (record.updated_at, record.ttl, record.expires_at) == (clock.now, 500, clock.now + 500)


@pytest.mark.parametrize(
    "value", [b'"\\u0000"', '"é\U0001f600"'.encode(), b"1e400", b'"\x7f"', b'"' + b"x" * 100_000 + b'"']
)
async def test_values_come_back_byte_for_byte(backend, store, put, witness, value):
    await put(k=value)
    (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
    assert record.value == value
    assert witness.entries() == {("shop", "d", "k"): value}


async def test_pages_go_through_all_keys_in_code_point_order(backend, store):
    await backend.perform(Commit(store, tuple(Put("d", key, b"0") for key in reversed(ODD_KEYS))))
    seen, keys, more = [], KeyRange("d"), True
    while more:
        reply = await backend.perform(Page(store, keys, 3))
        more = reply.more
        assert len(reply.items) == 3 or not more
        seen.extend(key for key, _ in reply.items)
        keys = keys._replace(start=seen[-1] + "\0")
    assert seen == sorted(ODD_KEYS)


async def test_pages_backwards(backend, store, put):
    await put(a=b"1", b=b"2", c=b"3", d=b"4")
    reply = await backend.perform(Page(store, KeyRange("d", "a", "d"), 2, reverse=True))
    assert [(key, record.value) for key, record in reply.items] == [("c", b"3"), ("b", b"2")]
    assert reply.more
    reply = await backend.perform(Page(store, KeyRange("d", "", "b"), 2, reverse=True))
    assert [key for key, _ in reply.items] == ["a"]
    assert not reply.more


async def test_a_page_that_ends_exactly_at_the_last_key_has_no_more(backend, store, put):
    await put(a=b"1", b=b"2")
    assert not (await backend.perform(Page(store, KeyRange("d"), 2))).more
    assert (await backend.perform(Page(store, KeyRange("d"), 1))).more
    assert await backend.perform(Page(store, KeyRange("d", "c"), 1)) == ([], False)


@pytest.mark.parametrize("prefix", ["a", "", "é", "\ud7ff", "\U0010ffff", "a\x01", "zz"])
async def test_prefix_ranges_hold_exactly_the_keys_with_the_prefix(backend, store, prefix):
    keys = [*ODD_KEYS, "\U0010ffff\U0010ffff", "\ud7ffz", "éa"]
    await backend.perform(Commit(store, tuple(Put("d", key, b"0") for key in keys)))
    found = await backend.perform(Page(store, prefix_range("d", prefix), 100))
    expected = sorted(key for key in keys if key.startswith(prefix))
    assert [key for key, _ in found.items] == expected
    assert await backend.perform(Count(store, prefix_range("d", prefix))) == len(expected)


async def test_deleted_and_expired_entries_are_not_there(backend, store, clock):
    puts = (Put("d", "stays", b"1"), Put("d", "deleted", b"2"), Put("d", "expires", b"3", 10, clock.now + 10))
    await backend.perform(Commit(store, puts))
    await backend.perform(Commit(store, (Delete("d", "deleted"),)))
    addresses = tuple(Address("d", put.key) for put in puts)
    assert await backend.perform(Count(store, KeyRange("d"))) == 2
    clock.now += 9
    assert [record and record.value for record in await backend.perform(GetMany(store, addresses))] == [
        b"1",
        None,
        b"3",
    ]
    clock.now += 1
    assert [record and record.value for record in await backend.perform(GetMany(store, addresses))] == [
        b"1",
        None,
        None,
    ]
    assert [record and record.value for record in await backend.perform(GetMany(store, addresses[2:]))] == [None]
    assert [key for key, _ in (await backend.perform(Page(store, KeyRange("d"), 9))).items] == ["stays"]
    assert await backend.perform(Count(store, KeyRange("d"))) == 1


async def test_domains_and_stores_do_not_see_each_other(backend, store, put, witness):
    other = (await backend.perform(OpenStore("other", "create"))).id
    await put("d", k=b"1")
    await put("", k=b"2")
    await backend.perform(Commit(other, (Put("d", "k", b"3"),)))
    replies = [
        await backend.perform(GetMany(where, (Address(domain, "k"),)))
        for where, domain in ((store, "d"), (store, ""), (other, "d"))
    ]
    assert [record.value for (record,) in replies] == [b"1", b"2", b"3"]
    assert await backend.perform(Count(other, KeyRange("d"))) == 1
    await backend.perform(Commit(store, (Delete("d", "k"),)))
    assert witness.entries() == {("shop", "", "k"): b"2", ("other", "d", "k"): b"3"}


# --- stores ---


async def test_opening_creating_ensuring(backend, store):
    opened = await backend.perform(OpenStore("shop", "open"))
    assert opened.id == store
    assert opened == await backend.perform(OpenStore("shop", "ensure"))
    with pytest.raises(StoreExistsError, match="shop"):
        await backend.perform(OpenStore("shop", "create"))
    with pytest.raises(StoreNotFoundError, match="nowhere"):
        await backend.perform(OpenStore("nowhere", "open"))
    with pytest.raises(KeyError):
        await backend.perform(OpenStore("nowhere", "open"))
    made = await backend.perform(OpenStore("nowhere", "ensure"))
    assert made.id != store
    assert made.incarnation != opened.incarnation


async def test_stores_are_listed_by_code_point(backend):
    names = ["b", "é", "\uffff", "\U00010000", "a b", "B"]
    for name in names:
        await backend.perform(OpenStore(name, "create"))
    assert [info.name for info in await backend.perform(ListStores())] == sorted(names)


async def test_a_failed_open_creates_nothing(backend, store, witness):
    with pytest.raises(StoreNotFoundError):
        await backend.perform(OpenStore("nowhere", "open"))
    assert witness.stores() == {"shop"}


async def test_two_backends_see_one_database(place, backend, store, put):
    second = place.open()
    await put(k=b"1")
    assert (await second.perform(OpenStore("shop", "open"))).id == store
    (record,) = await second.perform(GetMany(store, (Address("d", "k"),)))
    assert record.value == b"1"
    await second.perform(Commit(store, (Put("d", "k", b"2"),)))
    (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
    assert record.value == b"2"


async def test_after_close_every_request_says_so(backend, store, witness):
    await backend.close()
    assert not backend.backend.is_open
    for request in (
        GetMany(store, ()),
        ListStores(),
        Commit(store, (Put("d", "k", b"1"),)),
        OpenStore("new", "ensure"),
    ):
        with pytest.raises(StoreClosedError, match="closed"):
            await backend.perform(request)
    await backend.close()
    assert witness.entries() == {}
