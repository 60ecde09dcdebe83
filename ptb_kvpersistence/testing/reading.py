"""GetMany, Page, Count and Checked: what is read, in which order, and what nobody sees."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ptb_kvpersistence.model import (
    Address,
    Checked,
    Commit,
    Count,
    Delete,
    GetMany,
    KeyRange,
    OpenStore,
    Page,
    Put,
    RangeCheck,
    VersionCheck,
    prefix_range,
)
from ptb_kvpersistence.testing.faces import Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Suite, Write

DAY = 86_400_000

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


class Reading(Suite):
    """What is read is what was written."""

    guarantee = "requests"

    async def test_get_many_answers_in_the_order_asked_with_none_for_what_is_absent(
        self, backend: Subject, store: int, put: Write
    ) -> None:
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

    async def test_get_many_of_nothing(self, backend: Subject, store: int) -> None:
        assert await backend.perform(GetMany(store, ())) == ()

    async def test_a_record_carries_time_and_lifetime(self, backend: Subject, store: int, place: Place) -> None:
        await backend.perform(Commit(store, (Put("", "k", b"null", 500_000),)))
        (record,) = await backend.perform(GetMany(store, (Address("", "k"),)))
        assert record.value == b"null"
        assert abs(record.updated_at - time.time() * 1000) < DAY, "milliseconds since the epoch"
        assert (record.ttl, record.expires_at) == (500_000, record.updated_at + 500_000)

    @pytest.mark.parametrize(
        "value", [b'"\\u0000"', '"é\U0001f600"'.encode(), b"1e400", b'"\x7f"', b'"' + b"x" * 100_000 + b'"']
    )
    async def test_values_come_back_byte_for_byte(
        self, backend: Subject, store: int, put: Write, witness: Witness, value: Any
    ) -> None:
        await put(k=value)
        (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
        assert record.value == value
        assert witness.entries() == {("shop", "d", "k"): value}

    async def test_pages_go_through_all_keys_in_code_point_order(self, backend: Subject, store: int) -> None:
        await backend.perform(Commit(store, tuple(Put("d", key, b"0") for key in reversed(ODD_KEYS))))
        seen: list[str] = []
        keys, more = KeyRange("d"), True
        while more:
            reply = await backend.perform(Page(store, keys, 3))
            more = reply.more
            assert len(reply.items) == 3 or not more
            seen.extend(key for key, _ in reply.items)
            keys = keys._replace(start=seen[-1] + "\0")
        assert seen == sorted(ODD_KEYS)

    async def test_pages_backwards(self, backend: Subject, store: int, put: Write) -> None:
        await put(a=b"1", b=b"2", c=b"3", d=b"4")
        reply = await backend.perform(Page(store, KeyRange("d", "a", "d"), 2, reverse=True))
        assert [(key, record.value) for key, record in reply.items] == [("c", b"3"), ("b", b"2")]
        assert reply.more
        reply = await backend.perform(Page(store, KeyRange("d", "", "b"), 2, reverse=True))
        assert [key for key, _ in reply.items] == ["a"]
        assert not reply.more

    async def test_a_page_that_ends_exactly_at_the_last_key_has_no_more(
        self, backend: Subject, store: int, put: Write
    ) -> None:
        await put(a=b"1", b=b"2")
        assert not (await backend.perform(Page(store, KeyRange("d"), 2))).more
        assert (await backend.perform(Page(store, KeyRange("d"), 1))).more
        assert await backend.perform(Page(store, KeyRange("d", "c"), 1)) == ([], False)

    @pytest.mark.parametrize("prefix", ["a", "", "é", "\ud7ff", "\U0010ffff", "a\x01", "zz"])
    async def test_prefix_ranges_hold_exactly_the_keys_with_the_prefix(
        self, backend: Subject, store: int, prefix: Any
    ) -> None:
        keys = [*ODD_KEYS, "\U0010ffff\U0010ffff", "\ud7ffz", "éa"]
        await backend.perform(Commit(store, tuple(Put("d", key, b"0") for key in keys)))
        found = await backend.perform(Page(store, prefix_range("d", prefix), 100))
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert [key for key, _ in found.items] == expected
        assert await backend.perform(Count(store, prefix_range("d", prefix))) == len(expected)

    async def test_deleted_and_expired_entries_are_not_there(self, backend: Subject, store: int, place: Place) -> None:
        puts = (Put("d", "stays", b"1"), Put("d", "deleted", b"2"), Put("d", "expires", b"3", 10_000))
        await backend.perform(Commit(store, puts))
        await backend.perform(Commit(store, (Delete("d", "deleted"),)))
        addresses = tuple(Address("d", put.key) for put in puts)
        assert await backend.perform(Count(store, KeyRange("d"))) == 2
        place.pass_time(9)
        assert [record and record.value for record in await backend.perform(GetMany(store, addresses))] == [
            b"1",
            None,
            b"3",
        ]
        place.pass_time(1)
        assert [record and record.value for record in await backend.perform(GetMany(store, addresses))] == [
            b"1",
            None,
            None,
        ]
        assert [record and record.value for record in await backend.perform(GetMany(store, addresses[2:]))] == [None]
        assert [key for key, _ in (await backend.perform(Page(store, KeyRange("d"), 9))).items] == ["stays"]
        assert await backend.perform(Count(store, KeyRange("d"))) == 1

    async def test_domains_and_stores_do_not_see_each_other(
        self, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
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

    async def test_a_checked_reading_tells_whether_what_was_read_before_still_holds(
        self, backend: Subject, store: int, put: Write
    ) -> None:
        first, second = await put(a=b"1", b=b"2")
        address, keys = Address("d", "a"), KeyRange("d")
        before = await backend.perform(Checked(store, GetMany(store, (address,))))
        assert before.is_current
        assert before.reply[0].value == b"1"
        assert before.head >= second
        assert abs(before.at - time.time() * 1000) < DAY
        holds = (VersionCheck("d", "a", first), VersionCheck("d", "no", 0), RangeCheck(keys, before.head, before.at))
        for request, expected in (
            (Count(store, keys), 2),
            (Page(store, keys, 1), await backend.perform(Page(store, keys, 1))),
            (GetMany(store, (address,)), before.reply),
        ):
            again = await backend.perform(Checked(store, request, holds))
            assert (again.is_current, again.reply) == (True, expected)
        (later,) = await put(b=b"3")
        fails = (VersionCheck("d", "b", second), VersionCheck("d", "no", 1), RangeCheck(keys, before.head, before.at))
        for check in fails:
            found = await backend.perform(Checked(store, GetMany(store, (address,)), (holds[0], check)))
            assert (found.is_current, found.reply) == (False, None)
        after = await backend.perform(Checked(store, Count(store, keys), (RangeCheck(keys, later),)))
        assert (after.is_current, after.reply) == (True, 2)
        assert after.head >= later
        assert after.at >= before.at

    async def test_a_checked_reading_of_a_range_sees_what_expired_since(
        self, backend: Subject, store: int, put: Write, place: Place
    ) -> None:
        await put(a=b"1")
        await backend.perform(Commit(store, (Put("d", "b", b"2", 10_000),)))
        seen = await backend.perform(Checked(store, Count(store, KeyRange("d"))))
        assert seen.reply == 2
        place.pass_time(10)
        # Of the time when it was looked at, everything is that much older now.
        check = RangeCheck(KeyRange("d"), seen.head, seen.at - 10_000)
        assert not (await backend.perform(Checked(store, Count(store, KeyRange("d")), (check,)))).is_current
        check = RangeCheck(KeyRange("d"), seen.head, seen.at + 5000)
        now = await backend.perform(Checked(store, Count(store, KeyRange("d")), (check,)))
        assert (now.is_current, now.reply) == (True, 1)
