"""Wrong arguments at public functions: an error that names what is wrong, at once, and nothing is written."""

from __future__ import annotations

import itertools

import pytest

from ptb_kvpersistence import KVPersistence, connect, connect_async
from ptb_kvpersistence.errors import ConfigurationError, EncodeError, InvalidKeyError, KVPersistenceError
from tests.faults.raw import users


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bot.db"


@pytest.fixture
async def kept(path):
    kept = KVPersistence(path, bot="4711")
    await kept.update_user_data(1, {"name": "old"})
    yield kept
    await kept.flush()


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {}, "filepath"),
        ((None,), {}, "filepath"),
        ((5,), {}, "int"),
        (("",), {}, "path or a URL"),
        (("ftp://host/file",), {}, "ftp://"),
        (("sqlite://bot.db",), {}, "sqlite:///relative.db"),
        (("sqlite:///",), {}, "names no file"),
        (("redis:shop",), {}, "begins with redis://"),
        (("PostgreSQL:/s3cret@host",), {}, "begins with postgresql://"),
        (("host=db password=s3cret",), {}, "named by a URL, postgresql://user"),
        (("sqlite:bot.db",), {}, "sqlite:///relative.db"),
        (("sqlite:///what?.db",), {}, "takes no options; a ? in the name is %3F"),
        (("sqlite:///bot.db#1",), {}, "a # is %23"),
        (("bot\0.db",), {}, "cannot contain a NUL"),
        (("\ud800",), {}, r"'\ud800' cannot be the name of a file"),
        (("sqlite:///bot%00.db",), {}, "NUL cannot be in it"),
        (("postgresql://user:secret@host/db?nonsense=1",), {}, "no URL that PostgreSQL understands"),
        (("bot.db",), {"store": object()}, "not both"),
        ((), {"store": object()}, "AsyncStore"),
        (("bot.db",), {"bot": ""}, "namespace"),
        (("bot.db",), {"bot": True}, "namespace"),
        (("bot.db",), {"bot": "x" * 300}, "256"),
        (("bot.db",), {"bot": "a\0b"}, "NUL"),
        (("bot.db",), {"share": "user_data"}, "share"),
        (("bot.db",), {"share": ["conversations"]}, "share"),
        (("bot.db",), {"share": [5]}, "share"),
        (("bot.db",), {"merge": "mine"}, "mine"),
        (("bot.db",), {"merge": {"user_data.*.n": "average"}}, "average"),
        (("bot.db",), {"merge": {5: "sum"}}, "merge"),
        (("bot.db",), {"max_staleness": -1}, "max_staleness"),
        (("bot.db",), {"max_staleness": "1"}, "max_staleness"),
        (("bot.db",), {"max_staleness": float("nan")}, "max_staleness"),
        (("bot.db",), {"update_interval": "often"}, "update_interval"),
        (("bot.db",), {"types": 5}, "types"),
        (("bot.db",), {"types": ["Cart"]}, "types"),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, dict) or "store" not in value else "store",
)
def test_of_the_persistence(tmp_path, monkeypatch, arguments, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as found:
        KVPersistence(*arguments, **options)
    assert words in str(found.value)
    assert "secret" not in str(found.value)
    assert isinstance(found.value, ValueError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda kept: kept.update_user_data("1", {}),
        lambda kept: kept.update_user_data(True, {}),
        lambda kept: kept.update_user_data(1.0, {}),
        lambda kept: kept.update_chat_data(None, {}),
        lambda kept: kept.drop_user_data("1"),
        lambda kept: kept.drop_chat_data(b"1"),
        lambda kept: kept.update_conversation(5, (1,), "x"),
        lambda kept: kept.update_conversation("name", [1], "x"),
        lambda kept: kept.update_conversation("name", (1.5,), "x"),
        lambda kept: kept.update_conversation("x" * 600, (1,), "x"),
        lambda kept: kept.update_conversation("\ud800", (1,), "x"),
    ],
    ids=map(str, itertools.count()),
)
async def test_of_its_methods(kept, path, call):
    with pytest.raises(ConfigurationError):
        await call(kept)
    assert users(path) == {1: {"name": "old"}}
    assert kept.pending == 0


async def test_a_value_that_cannot_be_stored_is_named_and_not_shown(kept, path, caplog):
    with pytest.raises(EncodeError) as found:
        await kept.update_user_data(7, {"cart": [{"password": "secret", "file": object()}]})
    assert "user_data[7]['cart'][0]['file']" in str(found.value)
    assert "secret" not in str(found.value) + caplog.text
    assert isinstance(found.value, TypeError)
    assert users(path) == {1: {"name": "old"}}


@pytest.mark.parametrize(
    "key", ["", 5, None, "a\0b", "\ud800", "x" * 1025, b"bytes", True], ids=lambda key: repr(key)[:12]
)
async def test_keys(kept, path, key):
    with connect(path) as database, pytest.raises(InvalidKeyError):
        database.store().set(key, 1)
    with pytest.raises(InvalidKeyError):
        await kept.store.set(key, 1)
    with pytest.raises(InvalidKeyError):
        await kept.store.get(key)


@pytest.mark.parametrize("name", ["", 5, None, "a\0b", "x" * 1025], ids=lambda name: repr(name)[:12])
def test_store_names(path, name):
    with connect(path) as database, pytest.raises(KVPersistenceError):
        database.create(name)
    with connect(path) as database, pytest.raises(KVPersistenceError):
        database.store(name)


@pytest.mark.parametrize("location", [5, None, "", "ftp://x", "postgresql://user:%secret@host/db"])
def test_locations(location):
    for function in (connect, connect_async):
        with pytest.raises(ConfigurationError) as found:
            function(location)
        assert "secret" not in str(found.value)
