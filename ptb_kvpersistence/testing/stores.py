"""Administration of stores: names, renaming, deleting, settings of domains, and who is attached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ptb_kvpersistence.backends.base import ATTACHED_FOR
from ptb_kvpersistence.errors import StoreClosedError, StoreExistsError, StoreInUseError, StoreNotFoundError
from ptb_kvpersistence.model import (
    AcquireLease,
    Address,
    AttachBot,
    Changes,
    Checked,
    Commit,
    Count,
    Delete,
    DeleteStore,
    DetachBot,
    GetMany,
    KeyRange,
    ListBots,
    ListDomains,
    ListStores,
    OpenStore,
    Page,
    Put,
    RenameStore,
    Requested,
    SetDomain,
)
from ptb_kvpersistence.testing.faces import Subject
from ptb_kvpersistence.testing.place import Place, Witness
from ptb_kvpersistence.testing.suite import Connect, Suite, Write, proves

REQUESTS: dict[str, Callable[[int], Requested[Any]]] = {
    "get": lambda store: GetMany(store, (Address("d", "a"),)),
    "get none": lambda store: GetMany(store, (Address("d", "never"),)),
    "get two": lambda store: GetMany(store, (Address("d", "a"), Address("d", "never"))),
    "page": lambda store: Page(store, KeyRange("d"), 10),
    "count": lambda store: Count(store, KeyRange("d")),
    "changes": lambda store: Changes(store, 0),
    "checked": lambda store: Checked(store, GetMany(store, (Address("d", "a"),))),
    "put": lambda store: Commit(store, (Put("d", "a", b"1"),)),
    "delete": lambda store: Commit(store, (Delete("d", "a"),)),
    "set domain": lambda store: SetDomain(store, "d", 1000),
    "list domains": ListDomains,
}


class Opening(Suite):
    """Finding and making stores."""

    guarantee = "stores"

    async def test_opening_creating_ensuring(self, backend: Subject, store: int) -> None:
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

    async def test_stores_are_listed_by_code_point(self, backend: Subject) -> None:
        names = ["b", "é", "\uffff", "\U00010000", "a b", "B"]
        for name in names:
            await backend.perform(OpenStore(name, "create"))
        assert [info.name for info in await backend.perform(ListStores())] == sorted(names)

    async def test_a_failed_open_creates_nothing(self, backend: Subject, store: int, witness: Witness) -> None:
        with pytest.raises(StoreNotFoundError):
            await backend.perform(OpenStore("nowhere", "open"))
        assert witness.stores() == {"shop"}

    async def test_two_backends_see_one_database(
        self, connect: Connect, backend: Subject, store: int, put: Write
    ) -> None:
        second = connect()
        await put(k=b"1")
        assert (await second.perform(OpenStore("shop", "open"))).id == store
        (record,) = await second.perform(GetMany(store, (Address("d", "k"),)))
        assert record.value == b"1"
        await second.perform(Commit(store, (Put("d", "k", b"2"),)))
        (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
        assert record.value == b"2"

    async def test_after_close_every_request_says_so(self, backend: Subject, store: int, witness: Witness) -> None:
        await backend.close()
        assert not backend.raw.is_open
        requests: tuple[Requested[Any], ...] = (
            GetMany(store, ()),
            ListStores(),
            Commit(store, (Put("d", "k", b"1"),)),
            OpenStore("new", "ensure"),
        )
        for request in requests:
            with pytest.raises(StoreClosedError, match="closed"):
                await backend.perform(request)
        await backend.close()
        assert witness.entries() == {}


class Stores(Suite):
    """Renaming and deleting stores, and who uses them."""

    guarantee = "stores"

    async def test_a_deleted_store_is_gone_with_all_its_entries(
        self, place: Place, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        await put(a=b"1", b=b"2")
        await put("other", c=b"3")
        await backend.perform(Commit(store, (Delete("d", "b"),)))
        await backend.perform(SetDomain(store, "d", 1000))
        neighbour = (await backend.perform(OpenStore("neighbour", "create"))).id
        await backend.perform(Commit(neighbour, (Put("d", "a", b"4"),)))
        await backend.perform(DeleteStore("shop"))
        assert witness.stores() == {"neighbour"}
        assert witness.entries() == {("neighbour", "d", "a"): b"4"}
        assert witness.tombstones() == set()

    @pytest.mark.parametrize("request_name", REQUESTS)
    async def test_who_has_a_deleted_store_open_is_told(
        self, connect: Connect, backend: Subject, store: int, put: Write, witness: Witness, request_name: Any
    ) -> None:
        await put(a=b"1")
        other = connect()
        await other.perform(REQUESTS[request_name](store))
        await backend.perform(DeleteStore("shop"))
        again = (await backend.perform(OpenStore("shop", "create"))).id
        assert again != store
        for each in (backend, other):
            with pytest.raises(StoreNotFoundError, match="deleted"):
                await each.perform(REQUESTS[request_name](store))
        assert witness.entries() == {}

    async def test_a_store_made_anew_is_another_one(self, backend: Subject, store: int, put: Write) -> None:
        before = await backend.perform(OpenStore("shop"))
        await put(a=b"1")
        await backend.perform(DeleteStore("shop"))
        after = await backend.perform(OpenStore("shop", "create"))
        assert after.incarnation != before.incarnation
        reply = await backend.perform(Changes(after.id, 0))
        assert reply.changes == []
        assert reply.incarnation == after.incarnation
        await backend.perform(Commit(after.id, (Put("d", "a", b"2"),)))
        assert [change.value for change in (await backend.perform(Changes(after.id, 0))).changes] == [b"2"]

    @pytest.mark.parametrize(
        "request_", [DeleteStore("nobody"), RenameStore("nobody", "somebody")], ids=["delete", "rename"]
    )
    async def test_a_store_that_is_not_there(self, backend: Subject, store: int, request_: Any) -> None:
        with pytest.raises(StoreNotFoundError, match="nobody"):
            await backend.perform(request_)

    async def test_locks_end_with_their_store(self, backend: Subject, store: int) -> None:
        await backend.perform(AcquireLease(store, "report", "a", 30_000))
        await backend.perform(DeleteStore("shop"))
        assert (await backend.perform(AcquireLease(store, "report", "b", 30_000))).token is not None

    async def test_a_renamed_store_is_the_same_store(
        self, connect: Connect, backend: Subject, store: int, put: Write, witness: Witness
    ) -> None:
        await put(a=b"1")
        before = await backend.perform(OpenStore("shop"))
        await connect().perform(RenameStore("shop", "market"))
        after = await backend.perform(OpenStore("market"))
        assert (after.id, after.incarnation) == (before.id, before.incarnation)
        with pytest.raises(StoreNotFoundError):
            await backend.perform(OpenStore("shop"))
        await put(b=b"2")  # by the handle of before
        assert witness.entries() == {("market", "d", "a"): b"1", ("market", "d", "b"): b"2"}
        fresh = await backend.perform(OpenStore("shop", "create"))
        assert fresh.id != store

    async def test_a_name_that_is_taken(self, backend: Subject, store: int, witness: Witness) -> None:
        await backend.perform(OpenStore("market", "create"))
        for new in ("market", "shop"):
            with pytest.raises(StoreExistsError, match=new):
                await backend.perform(RenameStore("shop", new))
        assert witness.stores() == {"shop", "market"}

    @pytest.mark.parametrize(
        "admin", [DeleteStore, lambda name, **options: RenameStore(name, "market", **options)], ids=["delete", "rename"]
    )
    async def test_a_store_in_use_is_kept(
        self, connect: Connect, backend: Subject, store: int, put: Write, place: Place, admin: Any, witness: Witness
    ) -> None:
        await put(a=b"1")
        for bot in ("bot 2", "bot 1"):
            await backend.perform(AttachBot(store, bot))
        with pytest.raises(StoreInUseError, match="'bot 1', 'bot 2'") as caught:
            await connect().perform(admin("shop"))
        assert caught.value.bots == ("bot 1", "bot 2")
        assert witness.entries() == {("shop", "d", "a"): b"1"}
        await put(b=b"2")
        await backend.perform(DetachBot(store, "bot 1"))
        with pytest.raises(StoreInUseError, match="'bot 2'"):
            await connect().perform(admin("shop"))
        place.pass_time(ATTACHED_FOR / 1000)
        await connect().perform(admin("shop"))
        assert "shop" not in witness.stores()

    async def test_force_does_it_all_the_same(self, backend: Subject, store: int, witness: Witness) -> None:
        await backend.perform(AttachBot(store, "bot"))
        await backend.perform(RenameStore("shop", "market", force=True))
        with pytest.raises(StoreInUseError):
            await backend.perform(DeleteStore("market"))
        await backend.perform(DeleteStore("market", force=True))
        assert witness.stores() == set()
        assert await backend.perform(ListBots(store)) == ()

    async def test_who_is_attached_and_when_last_seen(
        self, connect: Connect, backend: Subject, store: int, place: Place
    ) -> None:
        def ages(bots: Any) -> list[tuple[Any, ...]]:
            now = time.time() * 1000
            return [(name, round((now - since) / 1e6), round((now - seen) / 1e6), on) for name, since, seen, on in bots]

        attached = ATTACHED_FOR / 1000
        await backend.perform(AttachBot(store, "b"))
        place.pass_time(attached / 2)
        await connect().perform(AttachBot(store, "a"))
        await backend.perform(AttachBot(store, "b"))
        other_store = (await backend.perform(OpenStore("other", "create"))).id
        await backend.perform(AttachBot(other_store, "c"))
        a, b = await backend.perform(ListBots(store))
        assert (a.name, a.is_attached, a.attached_at) == ("a", True, a.last_seen)
        assert (b.name, b.is_attached) == ("b", True)
        assert 0.8 * attached <= (b.last_seen - b.attached_at) / 500 <= 1.5 * attached
        await backend.perform(DetachBot(store, "b"))
        await backend.perform(DetachBot(store, "never attached"))
        a, b = await backend.perform(ListBots(store))
        assert (a.is_attached, b.is_attached) == (True, False)
        since = b.last_seen
        place.pass_time(1000)
        assert [bot.is_attached for bot in await backend.perform(ListBots(store))] == [False, False]
        await backend.perform(AttachBot(store, "b"))
        _, b = await backend.perform(ListBots(store))
        assert (b.is_attached, b.attached_at) == (True, b.last_seen)
        assert b.attached_at >= since
        assert ages((b,)) == [("b", 0, 0, True)]

    async def test_a_domain_keeps_what_is_written_for_a_time(
        self, backend: Subject, store: int, put: Write, connect: Connect
    ) -> None:
        await put("d", before=b"1")
        await backend.perform(SetDomain(store, "d", 60_000))
        await connect().perform(
            Commit(store, (Put("d", "after", b"2"), Put("d", "own", b"3", 5000), Put("e", "x", b"4")))
        )
        await backend.perform(SetDomain(store, "d", None))
        await put("d", later=b"5")
        keys = [Address("d", key) for key in ("before", "after", "own", "later")]
        records = await backend.perform(GetMany(store, (*keys, Address("e", "x"))))
        assert [record.ttl for record in records] == [None, 60_000, 5000, None, None]
        assert records[1].expires_at == records[1].updated_at + 60_000

    async def test_domains_with_a_setting_are_listed(self, connect: Connect, backend: Subject, store: int) -> None:
        assert await backend.perform(ListDomains(store)) == ()
        other = (await backend.perform(OpenStore("other", "create"))).id
        for number, domain in enumerate(["b", "", "\uffff", "\U00010000", "é", "unset"], 1):
            await backend.perform(SetDomain(store, domain, number * 1000))
        await backend.perform(SetDomain(store, "unset", None))
        await backend.perform(SetDomain(store, "never set", None))
        await backend.perform(SetDomain(store, "b", 10**13))
        await backend.perform(SetDomain(other, "elsewhere", 1))
        await backend.perform(Commit(store, (Put("no setting", "k", b"1"),)))
        expected = [("", 2000), ("b", 10**13), ("é", 5000), ("\uffff", 3000), ("\U00010000", 4000)]
        found = await connect().perform(ListDomains(store))
        assert [tuple(info) for info in found] == expected
        assert (found[0].domain, found[0].keep) == expected[0]
        await backend.perform(DeleteStore("shop"))
        again = (await backend.perform(OpenStore("shop", "create"))).id
        assert await backend.perform(ListDomains(again)) == ()

    @proves("requests")
    async def test_setting_a_domain_again_changes_it(self, backend: Subject, store: int, put: Write) -> None:
        for keep in (1000, 2000, 2000):
            await backend.perform(SetDomain(store, "d", keep))
        await put("d", k=b"1")
        (record,) = await backend.perform(GetMany(store, (Address("d", "k"),)))
        assert record.ttl == 2000

    async def test_a_bot_is_attached_as_long_as_one_of_those_is_who_said_so(
        self, connect: Connect, backend: Subject, store: int, place: Place
    ) -> None:
        async def attached() -> list[tuple[str, bool]]:
            return [(bot.name, bot.is_attached) for bot in await backend.perform(ListBots(store))]

        await backend.perform(AttachBot(store, "a", "first"))
        await connect().perform(AttachBot(store, "a", "second"))
        assert await attached() == [("a", True)]
        await backend.perform(DetachBot(store, "a", "first"))
        assert await attached() == [("a", True)]
        await backend.perform(DetachBot(store, "a", "first"))
        await backend.perform(DetachBot(store, "a"))
        with pytest.raises(StoreInUseError, match="by 'a';"):
            await backend.perform(DeleteStore("shop"))
        await connect().perform(DetachBot(store, "a", "second"))
        assert await attached() == [("a", False)]
        for number in range(3):
            place.pass_time(ATTACHED_FOR / 1000)
            await backend.perform(AttachBot(store, "a", f"started again {number}"))
        assert await attached() == [("a", True)]
