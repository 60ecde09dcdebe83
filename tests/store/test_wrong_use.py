"""Wrong keys, values and arguments: refused at once, and nothing is changed; on both backends and both faces."""

# What is opened by ``async with`` is a block; where in it the error comes is part of what is tested.
# ruff: noqa: PT012

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from enum import Enum

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.errors import (
    ConfigurationError,
    EncodeError,
    InvalidKeyError,
    LeaseLostError,
    ReentryError,
    StoreClosedError,
    StoreExistsError,
    StoreNotFoundError,
)
from ptb_kvpersistence.testing.faces import SyncStore, collect

KEYS = [None, 1, 1.5, b"k", ("k",), object, "", "\0", "a\0b", "\ud800", "k" * 1025, "é" * 513]
NAMES = [None, 1, b"k", "\0", "\ud800", "k" * 1025]


class Color(str, Enum):
    RED = "red"


KEPT = {"k": [1], "n": 1}


@pytest.fixture(autouse=True)
def nothing_changes(rival):
    """After each test all is as it was, versions included."""
    rival.set_many(KEPT)
    versions = [rival.entry(key).version for key in KEPT]
    yield
    assert dict(rival) == KEPT
    assert [rival.entry(key).version for key in KEPT] == versions


@pytest.fixture(params=["plain", "inside"])
async def place(request, store):
    """The store itself, and the store inside of a transaction that changes nothing."""
    if request.param == "plain":
        yield store
        return
    async with store.transaction() as view:
        yield view


BY_KEY = [
    ("get", ()),
    ("entry", ()),
    ("contains", ()),
    ("set", (1,)),
    ("add", (1,)),
    ("replace", (1,)),
    ("delete", ()),
    ("discard", ()),
    ("increment", ()),
    ("append", (1,)),
    ("pop", (1,)),
    ("setdefault", (1,)),
    ("touch", ()),
]


async def test_wrong_keys(place):
    for key in KEYS:
        for name, arguments in BY_KEY:
            with pytest.raises(InvalidKeyError, match="key"):
                await getattr(place, name)(key, *arguments)
        with pytest.raises(InvalidKeyError):
            await place.get_many(["k", key])
        with pytest.raises(InvalidKeyError):
            await place.set_many({"new": 1, key: 1})
        with pytest.raises(InvalidKeyError):
            async with place.edit(key, []):
                pytest.fail("it was opened")


def test_wrong_keys_of_the_mapping(rival):
    for key in KEYS:
        with pytest.raises(InvalidKeyError):
            rival[key]
        with pytest.raises(InvalidKeyError):
            rival[key] = 1
        with pytest.raises(InvalidKeyError):
            del rival[key]
        with pytest.raises(InvalidKeyError):
            _ = key in rival
        with pytest.raises(InvalidKeyError):
            rival.set_many({"new": 1, key: 1})


async def test_key_and_domain_together(store):
    domain = store.domain("d" * 1000)
    await domain.set("k" * 24, 1)
    with pytest.raises(InvalidKeyError, match="together"):
        await domain.set("k" * 25, 1)
    assert await domain.count() == 1


async def test_wrong_domains(store):
    for name in NAMES:
        with pytest.raises(InvalidKeyError, match="domain"):
            store.domain(name)


class Unknown:
    pass


def cyclic():
    value = []
    value.append(value)
    return value


VALUES = [object(), Unknown(), threading.Lock(), lambda: 1, cyclic(), {"deep": [{1, Unknown}]}, (iter(()),)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_wrong_values(place, value):
    for name in ("set", "add", "replace", "setdefault"):
        with pytest.raises(EncodeError):
            await getattr(place, name)("k" if name == "replace" else "new", value)
    with pytest.raises(EncodeError):
        await place.set("k", value)
    with pytest.raises(EncodeError):
        await place.append("k", 2, value)
    with pytest.raises(EncodeError):
        await place.set_many({"a": 1, "b": value})
    with pytest.raises(EncodeError):
        async with place.edit("k") as found:
            found.append(value)
    assert await place.get("k") == [1]
    assert await place.count() == 2


async def test_a_value_of_the_wrong_type(place):
    with pytest.raises(TypeError, match="not a number"):
        await place.increment("k")
    with pytest.raises(TypeError, match="not a list"):
        await place.append("n", 1)
    for amount in ("1", None, True, [1], 1j):
        with pytest.raises(TypeError, match="number"):
            await place.increment("n", amount)


async def test_true_is_no_number(rival, store):
    rival.domain("d")["flag"] = True
    with pytest.raises(TypeError, match="bool"):
        await store.domain("d").increment("flag")
    assert rival.domain("d")["flag"] is True


DURATIONS = [0, -1, True, "10", float("nan"), float("inf"), timedelta(0), timedelta(-1), 10**12, [1]]


async def test_wrong_durations(place):
    for ttl in DURATIONS:
        for name, arguments in (("set", ("k", 1)), ("add", ("new", 1)), ("set_many", ({"k": 1},)), ("touch", ("k",))):
            with pytest.raises(ConfigurationError, match="ttl"):
                await getattr(place, name)(*arguments, ttl=ttl)
        with pytest.raises(ConfigurationError, match="keep"):
            place.domain("d", keep=ttl)


MOMENTS = [datetime(2030, 1, 1), 1_900_000_000, "2030-01-01", timedelta(1)]


async def test_wrong_moments(place):
    for moment in MOMENTS:
        for name, arguments in (("set", ("k", 1)), ("add", ("new", 1)), ("set_many", ({"k": 1},)), ("touch", ("k",))):
            with pytest.raises(ConfigurationError, match="time zone"):
                await getattr(place, name)(*arguments, expires_at=moment)


async def test_either_ttl_or_expires_at(place):
    with pytest.raises(ConfigurationError, match="not both"):
        await place.set("k", 1, ttl=1, expires_at=datetime.now(timezone.utc))


async def test_wrong_versions(place):
    for version in (True, False, "1", 1.0, (1,)):
        with pytest.raises(ConfigurationError, match="if_version"):
            await place.set("k", 1, if_version=version)


async def test_wrong_bounds(place):
    for option in ("prefix", "start", "stop"):
        for bound in (1, b"k", "\0", "\ud800"):
            for name in ("keys", "values", "items"):
                with pytest.raises(InvalidKeyError):
                    await collect(getattr(place, name)(**{option: bound}))
            with pytest.raises(InvalidKeyError):
                await place.count(**{option: bound})


async def test_an_empty_range_is_no_error(place):
    assert await collect(place.keys(start="z", stop="a")) == []
    assert await place.count(start="k", stop="k") == 0
    assert await collect(place.keys("k", start="l")) == []
    await place.set_many({})
    assert await place.get_many([]) == {}


async def test_an_edit_that_fails_writes_nothing(place):
    with pytest.raises(ZeroDivisionError):
        async with place.edit("k") as value:
            value.append(2)
            raise ZeroDivisionError
    with pytest.raises(KeyError):
        async with place.edit("absent"):
            pytest.fail("there is nothing to edit")
    assert await place.get("k") == [1]


async def test_what_is_given_is_the_callers_copy(place):
    found = await place.get("k")
    found.append(2)
    assert await place.get("k") == [1]


async def test_the_default_of_an_edit_stays_as_it_is(store):
    default = {"visits": []}
    for key in ("one", "two"):
        async with store.edit(key, default) as value:
            value["visits"].append(key)
    assert default == {"visits": []}
    assert await store.pop("one") == {"visits": ["one"]}
    assert await store.pop("two") == {"visits": ["two"]}


async def test_an_update_is_made_whole_or_not_at_all(place):
    def pairs():
        yield "a", 1
        raise ZeroDivisionError

    for wrong, error in (
        ({"a": 1, "": 2}, InvalidKeyError),
        ({"a": 1, "b": object()}, EncodeError),
        (pairs(), ZeroDivisionError),
        (1, TypeError),
    ):
        with pytest.raises(error):
            await place.update(wrong)
    for wrong in (None, [1]):
        with pytest.raises(TypeError):
            await place.set_many(wrong)


def test_joining_in_place(rival):
    store = rival
    store |= [("a", 1)]
    assert store is rival
    assert (store.pop("a"), list(reversed(store.keys()))) == (1, ["n", "k"])


async def test_a_key_that_is_an_enum_member_is_its_text(store):
    await store.set(Color.RED, 1)
    assert await store.pop("red") == 1


@pytest.mark.parametrize("timeout", ["1", None, True, float("nan"), timedelta(1)])
async def test_wrong_timeouts(store, location, timeout):
    with pytest.raises(ConfigurationError, match="timeout takes a number of seconds"):
        store.transaction(lock=True, timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout takes a number of seconds"):
        store.lock("name", timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout takes a number of seconds"):
        connect(location, timeout=timeout)


def test_a_function_of_the_other_face(rival):
    async def grow(view):
        view["n"] = 2

    with pytest.raises(TypeError, match="plain function"):
        rival.run(grow)


async def test_a_plain_function_is_not_awaited(location, rival):
    async with connect_async(location) as database:
        store = await database.store("shop")
        with pytest.raises(TypeError, match="takes an async function; this gave a NoneType"):
            await store.run(lambda _view: None)


async def test_a_lease_that_was_given_back(store):
    async with store.lock("name") as lease:
        lease.check()
    with pytest.raises(LeaseLostError, match="was given back"):
        lease.check()


async def test_a_transaction_that_has_ended(store):
    async with store.transaction() as view:
        pass
    for late in (view.set("k", 2), view.get("k"), view.increment("n")):
        with pytest.raises(StoreClosedError, match="the transaction has ended"):
            await late


async def test_a_transaction_that_is_open_already(store):
    transaction = store.transaction()
    async with transaction as view:
        await view.set("a", 1)
        with pytest.raises(ReentryError, match="is open already"):
            async with transaction:
                pass
    async with transaction:
        assert await store.pop("a") == 1


async def test_what_expired_before_the_epoch_is_not_shown(store):
    await store.set("old", 1, expires_at=datetime(1, 1, 1, tzinfo=timezone.utc))
    assert await store.get("old") is None


def test_names_of_stores(location):

    with connect(location) as database:
        for name in [*NAMES, ""]:
            with pytest.raises(InvalidKeyError, match="store name"):
                database.create(name)
        with pytest.raises(StoreExistsError, match="another name"):
            database.create("shop")
        with pytest.raises(StoreNotFoundError, match="names"):
            database.store("absent")
        assert database.names() == ["shop"]


async def test_after_closing(store, location):
    if isinstance(store, SyncStore):
        with connect(location) as database:
            closed = SyncStore(database.store("shop"))
    else:
        async with connect_async(location) as database:
            closed = await database.store("shop")
    with pytest.raises(StoreClosedError, match="closed"):
        await closed.get("k")
    with pytest.raises(StoreClosedError):
        await closed.set("k", 2)
    for lock in (False, True):
        with pytest.raises(StoreClosedError):
            async with closed.transaction(lock=lock):
                await closed.set("k", 3)
