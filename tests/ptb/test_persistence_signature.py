"""KVPersistence stands where PicklePersistence stood: arguments, attributes, typing, what a wrong argument is told."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
from pathlib import Path

import pytest
from telegram import Bot
from telegram.ext import (
    BasePersistence,
    ContextTypes,
    ExtBot,
    PersistenceInput,
    PicklePersistence,
)

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.errors import ConfigurationError, PickleFoundError
from tests.ptb.offline import OTHER_TOKEN, TOKEN


def test_every_argument_of_pickle_persistence_is_taken_by_position_and_keyword():
    theirs = list(inspect.signature(PicklePersistence).parameters.values())
    ours = list(inspect.signature(KVPersistence).parameters.values())
    assert [(p.name, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.kind) for p in theirs]
    assert all(our.default == their.default for our, their in zip(ours[1:], theirs[1:], strict=False))
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_both_take_the_same_positional_call(path):
    store_data, context_types = PersistenceInput(bot_data=False), ContextTypes(user_data=dict)
    arguments = (path, store_data, False, True, 30.0, context_types)
    ours, theirs = KVPersistence(*arguments), PicklePersistence(*arguments)
    names = ("filepath", "store_data", "single_file", "on_flush", "update_interval", "context_types")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert [getattr(ours, name) for name in names] == list(arguments)


def test_every_public_attribute_of_pickle_persistence_exists(path):
    ours, theirs = KVPersistence(path), PicklePersistence(path)
    for name in [name for name in dir(theirs) if not name.startswith("_")]:
        assert hasattr(ours, name), name
    for name in ("user_data", "chat_data", "bot_data", "conversations", "callback_data"):
        assert getattr(theirs, name) is None
        assert getattr(ours, name) is None
    assert ours.context_types.user_data is theirs.context_types.user_data is dict


def test_the_path_is_given_as_str_or_path(path, monkeypatch):
    assert KVPersistence(str(path)).filepath == path
    assert KVPersistence(path).filepath == path
    monkeypatch.chdir(path.parent)
    relative = KVPersistence("bot.db")
    assert isinstance(relative.filepath, Path)
    assert relative.store.backend.name == str(path)


def test_a_persistence_is_built_without_touching_the_disk(path):
    KVPersistence(path)
    assert list(path.parent.iterdir()) == []


def test_coroutines_may_be_made_without_being_awaited():
    # PTB makes all coroutines of a cycle first; where a value cannot be copied, it awaits none of them.
    persistence = KVPersistence("memory:", on_flush=True)
    coroutine = persistence.update_user_data(1, {})
    assert asyncio.iscoroutine(coroutine)
    del coroutine


async def test_everything_pickle_persistence_does_in_a_script_works(path):
    """No Application, no bot; the same calls on both."""
    found = []
    for kind in (PicklePersistence, KVPersistence):
        persistence = kind(path.with_suffix(f".{kind.__name__}"))
        await persistence.update_user_data(1, {"a": [1]})
        await persistence.update_chat_data(-2, {"b": (2,)})
        await persistence.update_bot_data({"c": {3}})
        await persistence.update_conversation("form", (1, -2), 5)
        await persistence.update_conversation("form", (3, 4), "six")
        await persistence.update_conversation("form", (3, 4), None)
        await persistence.update_callback_data(([("uuid", 1.5, {"button": ("a", 1)})], {"query": "uuid"}))
        await persistence.drop_user_data(99)
        await persistence.flush()
        again = kind(path.with_suffix(f".{kind.__name__}"))
        found.append(
            {
                "user": await again.get_user_data(),
                "chat": await again.get_chat_data(),
                "bot": await again.get_bot_data(),
                "form": {k: v for k, v in (await again.get_conversations("form")).items() if v is not None},
                "other": await again.get_conversations("other"),
            }
        )
        await again.flush()
    assert found[0] == found[1]
    assert found[1]["user"] == {1: {"a": [1]}}
    assert found[1]["form"] == {(1, -2): 5}


async def test_the_properties_give_what_was_loaded_or_handed_over(path, start_bot):
    first = KVPersistence(path)
    await first.update_user_data(1, {"a": 1})
    await first.update_conversation("form", (1, 2), "state")
    await first.update_bot_data({"b": 2})
    assert first.user_data == {1: {"a": 1}}
    assert first.conversations == {"form": {(1, 2): "state"}}
    await first.flush()
    second = KVPersistence(path)
    await second.get_user_data()
    assert second.user_data == {1: {"a": 1}}
    assert second.chat_data == {}
    assert second.bot_data == {"b": 2}
    assert second.conversations == {"form": {(1, 2): "state"}}
    assert second.callback_data is None
    second.user_data[1]["a"] = "a copy, as the documentation says"
    assert second.user_data == {1: {"a": 1}}
    await second.flush()


async def test_pending_and_last_saved_at_tell_its_health(path):
    persistence = KVPersistence(path)
    assert (persistence.pending, persistence.last_saved_at) == (0, None)
    waiting = [persistence.update_user_data(1, {"a": 1}), persistence.update_user_data(2, {})]
    assert persistence.pending == 2
    await asyncio.gather(*waiting)
    assert persistence.pending == 0
    assert persistence.last_saved_at is not None
    assert persistence.last_saved_at.utcoffset().total_seconds() == 0
    await persistence.flush()


# --- on_flush, store_data ---


async def test_with_on_flush_nothing_is_in_the_file_before(path, start_bot, witness):
    bot = await start_bot(options={"on_flush": True})
    await bot.say("x", lambda _, context: context.user_data.update(a=1))
    await bot.save()
    assert witness.values("ptb:user_data:1001") == {}
    assert witness.commits() == 0
    assert bot.persistence.pending
    assert bot.persistence.user_data == {42: {"a": 1}}
    await bot.stop()
    assert witness.values("ptb:user_data:1001") == {"42": {"a": 1}}
    assert witness.commits() == 1


@pytest.mark.parametrize("left_out", ["bot_data", "chat_data", "user_data", "callback_data"])
async def test_a_section_that_store_data_leaves_out_is_not_saved(left_out, start_bot, witness):
    store_data = PersistenceInput(**{left_out: False})
    bot = await start_bot(options={"store_data": store_data})

    async def fill(update, context):
        context.user_data["a"] = context.chat_data["a"] = context.bot_data["a"] = 1
        context.bot.callback_data_cache.load_persistence_data(([("0" * 32, 1.0, {"1" * 32: "a"})], {}))

    await bot.say("x", fill)
    await bot.stop()
    sections = {domain.split(":")[1] for domain, _ in witness.rows()} - {"bots"}
    assert sections == {"bot_data", "chat_data", "user_data", "callback_data"} - {left_out}


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "give either filepath"),
        ({"filepath": "a.db", "store": 1}, "give either filepath"),
        ({"store": "bot.db"}, "takes an AsyncStore, not str; make one with connect_async"),
        ({"filepath": ""}, "not empty"),
        ({"filepath": 7}, "this is a int"),
        ({"filepath": "mysql://localhost/x"}, "mysql:// is no kind of database known here"),
        ({"filepath": "a.db", "share": "user_data"}, "share takes a collection of names"),
        ({"filepath": "a.db", "share": ["conversations"]}, "user_data, chat_data, bot_data"),
        ({"filepath": "a.db", "bot": ""}, "bot takes the name of a namespace"),
        ({"filepath": "a.db", "bot": 1.5}, "bot takes the name of a namespace"),
        ({"filepath": "a.db", "bot": "x" * 300}, "bot takes the name of a namespace"),
        ({"filepath": "a.db", "merge": "mine"}, "ours"),
        ({"filepath": "a.db", "merge": {"user_data.*.visits": "multiply"}}, "multiply"),
        ({"filepath": "a.db", "max_staleness": -1}, "max_staleness takes a number of seconds"),
        ({"filepath": "a.db", "max_staleness": "1"}, "max_staleness takes a number of seconds"),
        ({"filepath": "a.db", "update_interval": -1}, "update_interval takes a number of seconds"),
        ({"filepath": "a.db", "types": dict}, "types takes a collection of classes"),
        ({"filepath": "a.db", "types": ["dict"]}, "types takes classes only"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_told_clearly(arguments, told):
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        KVPersistence(**arguments)


async def test_a_sync_store_is_refused(path):
    with connect(path) as database:
        store = database.create("shop")
        with pytest.raises(ConfigurationError, match="takes an AsyncStore, not Store"):
            KVPersistence(store=store)


def test_ids_that_are_no_ids_are_told(path):
    persistence = KVPersistence(path)
    with pytest.raises(ConfigurationError, match="user_data is keyed by int, not by str"):
        persistence.update_user_data("42", {})
    with pytest.raises(ConfigurationError, match="tuple of int and str"):
        persistence.update_conversation("form", [1, 2], "state")
    with pytest.raises(ConfigurationError, match="shorten the name"):
        persistence.update_conversation("form" * 1000, (1, 2), "state")


async def test_another_bot_on_the_same_object_is_refused(path):
    persistence = KVPersistence(path)
    persistence.set_bot(ExtBot(TOKEN))
    persistence.set_bot(ExtBot(TOKEN))  # the same bot, another object: a second Application in the same process
    with pytest.raises(ConfigurationError, match="store="):
        persistence.set_bot(ExtBot(OTHER_TOKEN))
    assert persistence.bot.token == TOKEN


def test_callback_data_needs_an_ext_bot_as_with_pickle_persistence(path):
    with pytest.raises(TypeError, match="ExtBot"):
        KVPersistence(path).set_bot(Bot(TOKEN))


# --- a pickle in the way ---


@pytest.mark.parametrize("single_file", [True, False])
async def test_the_files_of_pickle_persistence_are_recognised_and_left_alone(path, single_file):
    old = PicklePersistence(path, single_file=single_file)
    await old.update_user_data(1, {"a": 1})
    await old.update_bot_data({"b": 1})
    await old.flush()
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert before
    with pytest.raises(PickleFoundError, match="ptb-kv import-pickle") as caught:
        await KVPersistence(path).get_user_data()
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


async def test_an_application_does_not_start_beside_a_pickle(path, start_bot):
    path.write_bytes(pickle.dumps({"user_data": {}}))
    with pytest.raises(PickleFoundError):
        await start_bot()


# --- typing ---

TYPED = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
from typing_extensions import assert_type
from telegram.ext import Application, CallbackContext, ContextTypes, ExtBot
from ptb_kvpersistence import AsyncStore, KVPersistence

@dataclass
class User:
    visits: int = 0
class Chat(dict[str, int]): ...
class Shop: ...
class Context(CallbackContext[ExtBot[None], User, Chat, Shop]): ...

plain = KVPersistence("bot.db")
assert_type(plain, KVPersistence[dict[Any, Any], dict[Any, Any], dict[Any, Any]])
types = ContextTypes(context=Context, user_data=User, chat_data=Chat, bot_data=Shop)
typed = KVPersistence("bot.db", None, True, False, 60, types)
assert_type(typed, KVPersistence[User, Chat, Shop])
named: KVPersistence[User, Chat, Shop] = KVPersistence(filepath="bot.db", context_types=types, share=["user_data"])
assert_type(typed.store, AsyncStore)
assert_type(typed.pending, int)

async def use() -> None:
    assert_type(await typed.get_user_data(), dict[int, User])
    assert_type(await typed.get_bot_data(), Shop)
    await typed.update_chat_data(1, Chat())
    await typed.update_chat_data("1", Chat())  # wrong
    await typed.update_chat_data(1, {"a": 1})  # wrong
    Application.builder().token("t").context_types(types).persistence(typed).build()

KVPersistence(store=1)  # wrong
KVPersistence("bot.db", share="user_data", merge="mine")  # wrong
"""


def test_it_is_typed_as_ptb_types_its_own(tmp_path, request):
    api = pytest.importorskip("mypy.api", reason="mypy is a development tool")
    cache = getattr(request.config, "cache", None)
    folder = tmp_path if cache is None else cache.mkdir("typed_api")  # the second time takes a tenth
    file = folder / "typed.py"
    file.write_text(TYPED)
    report, errors, _ = api.run(
        ["--strict", "--config-file", "", "--cache-dir", str(folder / "mypy"), "--hide-error-context", str(file)]
    )
    wrong = {number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")}
    found = {int(number) for number in re.findall(r"typed\.py:(\d+): error:", report)}
    assert not errors
    assert found == wrong, report


def test_it_is_generic_at_run_time_too():
    assert KVPersistence[dict, dict, dict].__origin__ is KVPersistence
    assert issubclass(KVPersistence, BasePersistence)
