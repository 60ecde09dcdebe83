"""ptb-kv as a person uses it: pickles written by PicklePersistence, databases read by KVPersistence."""

from __future__ import annotations

import datetime
import enum
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from telegram import User
from telegram.ext import ExtBot, PicklePersistence

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.cli.app import app
from ptb_kvpersistence.errors import DatabaseFullError
from ptb_kvpersistence.model import Commit

CALLBACK_DATA = ([("uuid-1", 5.5, {"button": ("buy", 1)}), ("uuid-2", 6.5, {})], {"query": "uuid-1"})
USER_DATA = {1: {"cart": [("tea", 2)], "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)}, -2: {}}
CHAT_DATA = {-100: {7: {1, 2}}}
CONVERSATIONS = {"order": {(1, 2): 0, (1, "inline"): "ADDRESS"}, "menu": {(5,): 3}}


class Mode(enum.Enum):
    ON = 1


@dataclass
class ChatData:
    count: int
    mode: Mode = Mode.ON


class Settings:
    """Found by KVPersistence only when it is registered."""

    def __init__(self, colour):
        self.colour = colour


@pytest.fixture
def bot():
    return ExtBot("123:token", arbitrary_callback_data=True)


class Result(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*args, code=0):
        with pytest.raises(SystemExit) as caught:
            app([str(arg) for arg in args], prog_name="ptb-kv")
        result = Result(*capsys.readouterr())
        assert (caught.value.code or 0) == code, result
        return result

    return invoke


async def write_pickle(path, bot, *, single_file=True, user_data=USER_DATA, chat_data=CHAT_DATA, bot_data=None):
    persistence = PicklePersistence(path, single_file=single_file)
    persistence.set_bot(bot)
    await persistence.get_user_data()
    for user_id, data in user_data.items():
        await persistence.update_user_data(user_id, data)
    for chat_id, data in chat_data.items():
        await persistence.update_chat_data(chat_id, data)
    await persistence.update_bot_data({"greeting": "hi"} if bot_data is None else bot_data)
    for name, states in CONVERSATIONS.items():
        for key, state in states.items():
            await persistence.update_conversation(name, key, state)
    await persistence.update_callback_data(CALLBACK_DATA)


async def held(path, *, bot=None, name=None, types=()):
    """What a bot gets from the database."""
    persistence = KVPersistence(path, bot=name, types=types)
    if bot is not None:
        persistence.set_bot(bot)
    try:
        return {
            "user_data": await persistence.get_user_data(),
            "chat_data": await persistence.get_chat_data(),
            "bot_data": await persistence.get_bot_data(),
            "conversations": {handler: await persistence.get_conversations(handler) for handler in CONVERSATIONS},
            "callback_data": await persistence.get_callback_data(),
        }
    finally:
        await persistence.flush()


EXPECTED = {
    "user_data": USER_DATA,
    "chat_data": CHAT_DATA,
    "bot_data": {"greeting": "hi"},
    "conversations": CONVERSATIONS,
    "callback_data": CALLBACK_DATA,
}


@pytest.mark.parametrize("single_file", [True, False])
async def test_a_bot_goes_on_where_its_pickle_ended(tmp_path, bot, run, single_file):
    source, target = tmp_path / "bot.pickle", tmp_path / "bot.db"
    await write_pickle(source, bot, single_file=single_file)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run("import-pickle", source, target)
    for words in ("user_data 2 users", "chat_data 1 chats", "bot_data 1 keys", "conversations 3 conversations"):
        assert words in " ".join(result.stdout.replace("│", " ").split())
    assert "2 keyboards, 1 callback queries" in result.stdout
    assert "for the first bot without data" in result.stdout
    assert "user_data" in result.stderr
    assert "2/2" in result.stderr, "the progress bar"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before, "the pickle stays"
    assert await held(target, bot=bot) == EXPECTED


async def test_a_named_bot_gets_a_namespace_of_its_own(tmp_path, bot, run):
    source, target = tmp_path / "bot.pickle", tmp_path / "bot.db"
    await write_pickle(source, bot)
    run("import-pickle", source, target, "--bot", "123")
    run("import-pickle", source, f"sqlite:///{target}", "--bot", "other")
    assert await held(target, bot=bot) == EXPECTED
    assert await held(target, name="other") == EXPECTED


async def test_existing_data_is_replaced_only_when_told(tmp_path, bot, run):
    target = tmp_path / "bot.db"
    await write_pickle(tmp_path / "old", bot)
    await write_pickle(tmp_path / "new", bot, user_data={1: {"new": True}}, chat_data={})
    run("import-pickle", tmp_path / "old", target, "--bot", "123")
    result = run("import-pickle", tmp_path / "new", target, "--bot", "123", code=1)
    assert "--overwrite" in result.stderr
    assert "imported" not in result.stdout
    assert await held(target, bot=bot) == EXPECTED
    run("import-pickle", tmp_path / "new", target, "--bot", "123", "--overwrite")
    assert await held(target, bot=bot) == {**EXPECTED, "user_data": {1: {"new": True}}, "chat_data": {}}


async def test_a_value_that_cannot_be_stored_stops_everything(tmp_path, bot, run):
    target = tmp_path / "bot.db"
    await write_pickle(tmp_path / "good", bot)
    run("import-pickle", tmp_path / "good", target, "--bot", "123")
    await write_pickle(tmp_path / "bad", bot, user_data={1: {"new": True}, 5: {"cart": [slice(1)]}})
    result = run("import-pickle", tmp_path / "bad", target, "--bot", "123", "--overwrite", code=1)
    assert "user_data[5]['cart'][0]" in result.stderr
    assert await held(target, bot=bot) == EXPECTED
    run("import-pickle", tmp_path / "bad", tmp_path / "fresh.db", code=1)
    assert not (tmp_path / "fresh.db").exists()


async def test_a_database_that_fails_keeps_what_it_had(tmp_path, bot, run, monkeypatch):
    target = tmp_path / "bot.db"
    await write_pickle(tmp_path / "old", bot)
    await write_pickle(tmp_path / "new", bot, user_data={1: {"new": True}}, chat_data={})
    run("import-pickle", tmp_path / "old", target, "--bot", "123")
    original = SQLiteBackend.perform

    def full(self, request, timeout=None):
        if isinstance(request, Commit):
            raise DatabaseFullError("no space left")
        return original(self, request, timeout)

    monkeypatch.setattr(SQLiteBackend, "perform", full)
    result = run("import-pickle", tmp_path / "new", target, "--bot", "123", "--overwrite", code=1)
    monkeypatch.undo()
    assert result.stderr.splitlines()[-1] == "ptb-kv: no space left"
    assert await held(target, bot=bot) == EXPECTED


async def test_the_import_is_one_commit(tmp_path, bot, run, monkeypatch):
    await write_pickle(tmp_path / "p", bot)
    commits = []
    original = SQLiteBackend.perform

    def counting(self, request, timeout=None):
        if isinstance(request, Commit):
            commits.append(len(request.mutations))
        return original(self, request, timeout)

    monkeypatch.setattr(SQLiteBackend, "perform", counting)
    run("import-pickle", tmp_path / "p", tmp_path / "bot.db", "--bot", "123")
    assert commits == [2 + 1 + 1 + 3 + 3 + 1], "the entries and the bot's registration"


async def test_users_classes_need_a_word(tmp_path, bot, run):
    source, target = tmp_path / "bot.pickle", tmp_path / "bot.db"
    user = User(7, "Ada", False)
    user.set_bot(bot)
    data = {5: {"custom": ChatData(4)}, 6: ChatData(1, Mode.ON), 7: {"user": user, "bot": bot}}
    await write_pickle(source, bot, chat_data=data, bot_data=Settings("red"))
    result = run("import-pickle", source, target, code=1)
    assert f"--allow {__name__}" in result.stderr
    assert not target.exists()
    result = run("import-pickle", source, target, "--allow", __name__)
    assert "types=[Settings]" in result.stdout, "dataclasses and enums are found without registering"
    found = await held(target, bot=bot, types=[Settings])
    assert found["bot_data"].colour == "red"
    assert found["chat_data"] == data
    assert found["chat_data"][7]["bot"] is found["chat_data"][7]["user"].get_bot() is bot


async def test_wrong_sources_and_targets_are_named(tmp_path, bot, run):
    source = tmp_path / "bot.pickle"
    await write_pickle(source, bot)
    raw = source.read_bytes()
    assert "none.pickle" in run("import-pickle", tmp_path / "none.pickle", tmp_path / "bot.db", code=1).stderr
    assert "PicklePersistence" in run("import-pickle", source, source, code=1).stderr
    assert source.read_bytes() == raw
    (tmp_path / "text").write_text("no database, and long enough to be looked at" * 50, encoding="utf-8")
    assert "not an SQLite database" in run("import-pickle", source, tmp_path / "text", code=1).stderr
    assert (
        "no pickle of PicklePersistence" in run("import-pickle", tmp_path / "text", tmp_path / "bot.db", code=1).stderr
    )
    assert not (tmp_path / "bot.db").exists()
    assert "Missing argument" in run("import-pickle", source, code=2).stderr


async def test_info_counts_what_each_bot_keeps(tmp_path, bot, run):
    target = tmp_path / "bot.db"
    await write_pickle(tmp_path / "p", bot)
    run("import-pickle", tmp_path / "p", target, "--bot", "123")
    run("import-pickle", tmp_path / "p", target)
    with connect(target) as database:
        database.store()["own"] = 1
        database.create("loyalty")["color"] = "red"
    lines = run("info", target).stdout.splitlines()
    rows = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in lines]
    assert ["123", "2", "1", "1", "3", "3"] in rows
    assert ["(unclaimed)", "2", "1", "1", "3", "3"] in rows
    assert ["store default"] in rows
    assert ["store loyalty"] in rows
    assert sum("1 entries of its own" in line for line in lines) == 2


def test_info_makes_no_database(tmp_path, run):
    assert "no such database" in run("info", tmp_path / "none.db", code=1).stderr
    assert list(tmp_path.iterdir()) == []


async def test_info_counts_shared_sections(tmp_path, bot, run):
    persistence = KVPersistence(tmp_path / "bot.db", bot="a", share=["user_data"])
    await persistence.get_user_data()
    await persistence.update_user_data(1, {"x": 1})
    await persistence.flush()
    assert "(shared by all) │ 1 │ 0 │ 0" in " ".join(
        run("info", tmp_path / "bot.db").stdout.replace("           ", " ").split()
    )


# --- the script itself ---


def python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=False, encoding="utf-8"
    )


def test_version_and_help(run):
    import ptb_kvpersistence

    assert run("--version").stdout == f"ptb-kv {ptb_kvpersistence.__version__}\n"
    assert "import-pickle" in run("--help").stdout
    done = subprocess.run(
        [sys.executable, "-m", "ptb_kvpersistence.cli", "--version"], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, b"ptb-kv")


START = "import sys; sys.argv[0] = 'ptb-kv'; sys.modules[sys.argv.pop(1)] = None; import ptb_kvpersistence.cli as c; "


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("typer", "--help", "cli"), ("rich", "--help", "cli"), ("aiohttp", "demo", "server")],
)
def test_a_missing_extra_is_named(missing, command, extra):
    done = python(START + "c.main()", missing, command)
    assert done.returncode == 1
    assert f"ptb_kvpersistence[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_missing_modules_are_not_mistaken_for_the_extra():
    done = python(START + "c.main()", "ptb_kvpersistence.cli.app", "--help")
    assert "Traceback" in done.stderr
    assert "ptb_kvpersistence[cli]" not in done.stderr


def test_help_loads_neither_telegram_nor_drivers():
    code = START + "c.main()"
    code = code.replace("c.main()", "exec('try: c.main()\\nexcept SystemExit: pass'); ")
    done = python(code + "print([m for m in ('telegram', 'aiosqlite', 'aiohttp') if m in sys.modules])", "x", "--help")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
