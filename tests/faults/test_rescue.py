"""The rescue file: what cannot be saved at the end is merged by the next start, once, and by nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import sys
from pathlib import Path

import pytest

from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.persistence import rescue
from tests.faults import processes
from tests.faults.faulty import append, faulty_bot
from tests.faults.raw import rescue_files, rows, users

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "bot.db"


def expected(items):
    return {"items": list(items), "count": len(items)}


async def leave(path, change, *, fault="busy", cut=None, **options):
    """A bot that has saved user 1 with "a", then changes something and ends while nothing can be written."""
    async with faulty_bot(path, **options) as bot:
        if not bot.data:
            await bot.touch(1, append("a"))
            await bot.cycle([1])
        if cut is not None:
            await bot.touch(1, append("cut"))
            bot.backend.plan = [cut]
            await bot.cycle([1])
        await change(bot)
        bot.backend.plan, bot.backend.default = [], fault
        bot.keeper.finish()


async def append_b(bot):
    await bot.touch(1, append("b"))


async def test_what_is_in_it(path):
    await leave(path, append_b)
    (file,) = rescue_files(path.parent)
    assert file.name.startswith("bot.db.")
    document = json.loads(file.read_bytes())
    assert document["format"] == 1
    assert document["store"] == "default"
    (entry,) = document["entries"]
    assert (entry["domain"], entry["key"]) == ("ptb:user_data", "1")
    assert json.loads(entry["base_ours"]) == json.loads(entry["base_theirs"]) == expected("a")
    assert json.loads(entry["ours"]) == expected("ab")
    assert list(path.parent.glob("*.part")) == []
    assert users(path) == {1: expected("a")}


@posix
async def test_it_is_its_owners_alone(path):
    before = os.umask(0)
    try:
        await leave(path, append_b)
    finally:
        os.umask(before)
    (file,) = rescue_files(path.parent)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_the_next_start_takes_it_in(path, caplog):
    await leave(path, append_b)
    with caplog.at_level(logging.WARNING):
        async with faulty_bot(path) as bot:
            assert bot.data == {1: expected("ab")}
    assert "took in 1 entries" in caplog.text
    assert users(path) == {1: expected("ab")}
    assert rescue_files(path.parent) == []


@posix
async def test_who_comes_by_a_symbolic_link_finds_it(path):
    await leave(path, append_b)
    (path.parent / "links").mkdir()
    link = path.parent / "links" / "other.db"
    link.symlink_to(path)
    async with faulty_bot(link) as bot:
        assert bot.data == {1: expected("ab")}
    assert rescue_files(path.parent) == []


async def test_several_of_them(path):
    for letter in "bc":
        async with faulty_bot(path, bot=letter) as bot:
            if letter == "b":
                bot.data = {1: expected("a")}
                await bot.cycle([1])
            await bot.touch(1, append(letter))
            bot.backend.default = "busy"
            bot.keeper.finish()
            for number, file in enumerate(rescue_files(path.parent)):
                file.rename(path.parent / f"{letter}{number}.hidden")
    for number, file in enumerate(sorted(path.parent.glob("*.hidden"))):
        document = json.loads(file.read_bytes())
        stem = rescue._stem(bot.persistence.store)
        file.rename(path.parent / f"{stem}{document['id']}-{number}.rescue.json")
    async with faulty_bot(path) as bot:
        assert sorted(bot.data[1]["items"]) == ["a", "b", "c"]
        assert bot.data[1]["count"] == 3


async def test_edits_made_meanwhile_stay_and_conflicts_go_to_the_store(path, caplog):
    async def change(bot):
        await append_b(bot)
        bot.data[1]["name"] = "rescued"
        bot.data[1]["mine"] = 1

    await leave(path, change)
    (file,) = rescue_files(path.parent)
    hidden = file.rename(path.parent / "hidden")
    async with faulty_bot(path) as other:
        await other.touch(1, append("x"))
        other.data[1]["name"] = "meanwhile"
        await other.cycle([1])
    hidden.rename(file)
    async with faulty_bot(path) as bot:
        assert bot.data == {1: {"items": ["a", "x", "b"], "count": 3, "name": "meanwhile", "mine": 1}}


async def test_a_drop_and_a_new_entity(path):
    async def change(bot):
        bot.persistence.drop_user_data(1).close()
        bot.persistence.update_user_data(2, {"new": True}).close()

    await leave(path, change)
    async with faulty_bot(path) as bot:
        assert bot.data == {2: {"new": True}}
    assert users(path) == {2: {"new": True}}


async def test_every_section_comes_back(path):
    async def change(bot):
        kept = bot.persistence
        kept.update_chat_data(-5, {"chat": 1}).close()
        kept.update_bot_data({"bot": 2}).close()
        kept.update_conversation("form", (1, 2), "NAME").close()
        kept.update_callback_data(([("uuid", 1.5, {"button": [1, 2]})], {"query": "uuid"})).close()

    await leave(path, change)
    async with faulty_bot(path) as bot:
        kept = bot.persistence
        assert await kept.get_chat_data() == {-5: {"chat": 1}}
        assert await kept.get_bot_data() == {"bot": 2}
        assert await kept.get_conversations("form") == {(1, 2): "NAME"}
        assert await kept.get_callback_data() == ([("uuid", 1.5, {"button": [1, 2]})], {"query": "uuid"})
    assert rows(path, "conversations") == {'["form",[1,2]]': "NAME"}


async def test_policies_hold_for_every_section(path):
    policies = {"user_data.*.count": "sum", "chat_data.*.count": "sum", "bot_data.count": "sum"}
    options = {"share": ("user_data", "chat_data", "bot_data"), "merge": policies}

    async def add(bot, amount):
        for update, load, key in (
            (lambda data: bot.persistence.update_chat_data(5, data), bot.persistence.get_chat_data, 5),
            (bot.persistence.update_bot_data, bot.persistence.get_bot_data, None),
        ):
            loaded = await load()
            data = loaded.get(5, {}) if key else loaded
            data["count"] = data.get("count", 0) + amount
            update(data).close()

    await leave(path, lambda bot: add(bot, 1), fault=None, **options)
    await leave(path, lambda bot: add(bot, 10), **options)
    (file,) = rescue_files(path.parent)
    hidden = file.rename(path.parent / "hidden")
    await leave(path, lambda bot: add(bot, 100), fault=None, **options)
    hidden.rename(file)
    async with faulty_bot(path, **options) as bot:
        assert await bot.persistence.get_chat_data() == {5: {"count": 111}}
        assert await bot.persistence.get_bot_data() == {"count": 111}


# --- once ---


@pytest.mark.parametrize("cut", [None, "lost before", "lost after"])
@pytest.mark.parametrize("fault", ["busy", "lost before", "lost after"])
async def test_a_start_that_breaks_down_at_each_commit_of_the_replay(path, cut, fault):
    await leave(path, append_b, cut=cut)
    letters = ["a", "b"] if cut is None else ["a", "cut", "b"]
    for number in range(4):
        try:
            async with faulty_bot_that_fails(path, number, fault) as bot:
                assert bot.data == {1: expected(letters)}
        except DatabaseError:
            assert rescue_files(path.parent) != []
    async with faulty_bot(path) as bot:
        assert bot.data == {1: expected(letters)}
    assert users(path) == {1: expected(letters)}
    assert rescue_files(path.parent) == []


def faulty_bot_that_fails(path, number, fault):
    return faulty_bot(path, plan=[None] * number + [fault])


@pytest.mark.parametrize("cut", [None, "lost before", "lost after"])
async def test_starts_at_the_same_time_apply_it_once(path, cut):
    await leave(path, append_b, cut=cut)
    contexts = [faulty_bot(path, bot=f"{number}") for number in range(6)]
    bots = await asyncio.gather(*(context.__aenter__() for context in contexts))
    wanted = expected(["a", "b"] if cut is None else ["a", "cut", "b"])
    assert users(path) == {1: wanted}
    for bot, context in zip(bots, contexts, strict=True):
        await bot.touch(1, lambda _live: None)
        assert bot.data == {1: wanted}
        await context.__aexit__(None, None, None)
    assert rescue_files(path.parent) == []


async def leave_of_a_bot_of_its_own(path):
    async with faulty_bot(path, share=()) as bot:
        bot.data = {1: expected("a")}
        await bot.cycle([1])
        await bot.touch(1, append("b"))
        bot.backend.default = "busy"
        bot.keeper.finish()


def test_processes_that_start_at_the_same_time_apply_it_once(path):
    asyncio.run(leave_of_a_bot_of_its_own(path))
    assert len(rescue_files(path.parent)) == 1
    started = [processes.start("bots", "read_all", path, folder=path.parent) for _ in range(4)]
    outputs = []
    for process in started:
        try:
            outputs.append(process.communicate(timeout=processes.TIMEOUT)[0])
        finally:
            processes.end(process)
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert all(str({1: expected("ab")}) in output for output in outputs), outputs
    assert users(path) == {1: expected("ab")}
    assert rescue_files(path.parent) == []


async def test_a_file_that_cannot_be_deleted_is_not_applied_again(path, monkeypatch, caplog):
    await leave(path, append_b)

    def refuse(*_arguments, **_options):
        raise PermissionError("on purpose")

    for start in range(3):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", refuse)
            async with faulty_bot(path) as bot:
                assert bot.data == {1: expected("ab")} if not start else bot.data[1]["count"] == 2
    assert "cannot be deleted" in caplog.text
    assert len(rescue_files(path.parent)) == 1
    assert users(path) == {1: expected("ab")}


# --- files that are not used ---


async def start_without_it(path, caplog, message, *, stays=1):
    with caplog.at_level(logging.ERROR):
        async with faulty_bot(path) as bot:
            assert bot.data == {1: expected("a")}
    assert message in caplog.text
    assert len(rescue_files(path.parent)) == stays


@posix
async def test_a_symlink_is_not_followed(path, caplog):
    await leave(path, append_b)
    (file,) = rescue_files(path.parent)
    file.symlink_to(file.rename(path.parent / "elsewhere"))
    await start_without_it(path, caplog, "left alone")
    assert (path.parent / "elsewhere").exists()


@posix
async def test_a_file_of_somebody_else_is_not_used(path, caplog, monkeypatch):
    await leave(path, append_b)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    await start_without_it(path, caplog, "is not a file of this user")


async def test_something_that_is_no_file(path, caplog):
    await leave(path, append_b)
    (file,) = rescue_files(path.parent)
    file.unlink()
    file.mkdir()
    await start_without_it(path, caplog, "left alone")


def _with(**fields):
    return lambda text: json.dumps({**json.loads(text), **fields}).encode()


DAMAGES = {
    "cut short": lambda text: text[:-20],
    "empty": lambda text: b"",
    "a list": lambda text: b"[]",
    "null": lambda text: b"null",
    "fields missing": lambda text: b'{"format": 1}',
    "entries no list": _with(entries=5),
    "entry no object": _with(entries=[5]),
    "entry without fields": _with(entries=[{}]),
    "no id": _with(id=None),
    "commit no text": _with(commit=7),
    "unknown domain": lambda text: text.replace(b"ptb:user_data", b"nonsense"),
    "value no JSON": lambda text: text.replace(b'"ours":"{', b'"ours":"'),
    "value no text": lambda text: text.replace(b'"base_ours":"', b'"base_ours":7,"other":"'),
    "no UTF-8": lambda text: b"\xff\xfe" + text,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_file_keeps_no_bot_from_starting(path, caplog, damage):
    await leave(path, append_b)
    (file,) = rescue_files(path.parent)
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    await start_without_it(path, caplog, "left alone")
    assert file.read_bytes() == damaged


async def test_a_file_of_a_newer_version_waits_for_it(path, caplog):
    await leave(path, append_b)
    (file,) = rescue_files(path.parent)
    file.write_bytes(file.read_bytes().replace(b'"format":1', b'"format":2'))
    await start_without_it(path, caplog, "newer version")


async def test_the_file_of_another_database_is_not_used(path):
    await leave(path, append_b)
    async with faulty_bot(path.parent / "second.db") as bot:
        assert bot.data == {}
    assert len(rescue_files(path.parent)) == 1


# --- places ---


def refuse_folder(monkeypatch, *refused):
    original = os.open

    def guarded(name, flags, *arguments, **options):
        if Path(name).parent in refused and flags & os.O_CREAT:
            raise PermissionError(13, "on purpose", str(name))
        return original(name, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", guarded)


async def test_beside_a_folder_that_cannot_be_written_it_goes_to_the_state_folder(path, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        refuse_folder(patched, path.parent)
        await leave(path, append_b)
    folder = path.parent / "state" / "ptb_kvpersistence"
    assert rescue_files(path.parent) == []
    assert len(rescue_files(folder)) == 1
    assert str(folder) in caplog.text
    async with faulty_bot(path) as bot:
        assert bot.data == {1: expected("ab")}
    assert rescue_files(folder) == []


async def test_where_nothing_can_be_written_the_loss_is_said(path, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        refuse_folder(patched, path.parent, path.parent / "state" / "ptb_kvpersistence")
        await leave(path, append_b)
    assert [record.levelname for record in caplog.records][-1] == "CRITICAL"
    assert "1 changes are lost" in caplog.text
    async with faulty_bot(path) as bot:
        assert bot.data == {1: expected("a")}


async def test_a_full_disk_leaves_no_half_a_file(path, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        await leave(path, append_b)
    assert list(path.parent.rglob("*rescue*")) == []
    async with faulty_bot(path) as bot:
        assert bot.data == {1: expected("a")}
