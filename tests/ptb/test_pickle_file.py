"""Files really written by PicklePersistence, and files written to do harm."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import pickle
import subprocess
import sys
import textwrap
import uuid
import warnings
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
import pytz
from telegram import Bot, Chat, InlineKeyboardButton, InlineKeyboardMarkup, LinkPreviewOptions, Message, Update, User
from telegram.constants import ChatType, ParseMode
from telegram.error import BadRequest
from telegram.ext import CallbackDataCache, ExtBot, InvalidCallbackData, PersistenceInput, PicklePersistence

from ptb_kvpersistence.errors import ConfigurationError, CorruptDatabaseError
from ptb_kvpersistence.persistence.pickle_file import read_pickle
from ptb_kvpersistence.persistence.sections import KNOWN_BOT, Sections

UTC = datetime.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class State(enum.Enum):
    ADDRESS = "address"


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)

    class Kind(enum.Enum):
        GIFT = 1


@dataclass(frozen=True)
class Frozen:
    x: int


class Slotted:
    __slots__ = ("x", "y")

    def __eq__(self, other):
        return type(other) is Slotted and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


@attrs.define
class Attrs:
    x: int


class Model(pydantic.BaseModel):
    x: int


class Struct(msgspec.Struct, kw_only=True):
    x: int


class MyUser(User):
    __slots__ = ("extra",)


class CustomDict(dict):
    pass


class BotData:
    def __init__(self):
        self.counter = 3


@pytest.fixture
def bot() -> ExtBot:
    return ExtBot("123:token", arbitrary_callback_data=True)


async def written(path, bot, *, single_file=True, **sections: Any) -> PicklePersistence:
    """Let PicklePersistence write sections as an Application makes it do."""
    persistence = PicklePersistence(path, single_file=single_file)
    persistence.set_bot(bot)
    for getter in ("get_user_data", "get_chat_data", "get_bot_data", "get_callback_data"):
        await getattr(persistence, getter)()
    for name in sections.get("conversations", ()):
        await persistence.get_conversations(name)
    for user_id, data in sections.get("user_data", {}).items():
        await persistence.update_user_data(user_id, data)
    for chat_id, data in sections.get("chat_data", {}).items():
        await persistence.update_chat_data(chat_id, data)
    if "bot_data" in sections:
        await persistence.update_bot_data(sections["bot_data"])
    for name, states in sections.get("conversations", {}).items():
        for key, state in states.items():
            await persistence.update_conversation(name, key, state)
    if "callback_data" in sections:
        await persistence.update_callback_data(sections["callback_data"])
    await persistence.flush()
    return persistence


def message(**more: Any) -> Message:
    return Message(
        message_id=5,
        date=datetime.datetime(2024, 5, 1, 12, tzinfo=UTC),
        chat=Chat(-100, ChatType.SUPERGROUP, title="Shop"),
        from_user=User(7, "Ada", False),
        text="hello",
        **more,
    )


PLAIN = {
    "str": "ä\ud800\0",
    "numbers": [1, 2**100, 1.5, -0.0, float("inf"), 1 + 2j, True, None],
    "bytes": [b"\0\xff", bytearray(b"x")],
    "containers": [(1, (2,)), {1, 2}, frozenset({3}), range(1, 9, 2), deque([1, 2], maxlen=3)],
    "dicts": [OrderedDict(b=1, a=2), Counter("aab"), defaultdict(list, a=[1]), {1: "int", (1, 2): "tuple", None: 0}],
    "times": [
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
        datetime.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "two")),
        datetime.date(2024, 1, 2),
        datetime.time(3, 4, tzinfo=UTC),
        datetime.timedelta(1, 2, 3),
        BERLIN,
        UTC,
    ],
    "others": [
        decimal.Decimal("1.10"),
        Fraction(1, 3),
        uuid.UUID(int=5),
        pathlib.Path("a/b"),
        pathlib.PureWindowsPath("c:/x"),
    ],
    "enums": [ParseMode.HTML, ChatType.PRIVATE],
}


@pytest.mark.parametrize("single_file", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
async def test_all_sections_come_back(tmp_path, bot, single_file, explicit):
    path = tmp_path / "bot.pickle"
    markup = InlineKeyboardMarkup.from_button(InlineKeyboardButton("Buy", callback_data={"item": [1, (2,)]}))
    cache = CallbackDataCache(bot)
    cache.process_keyboard(markup)
    expected = Sections(
        user_data={1: {"plain": PLAIN}, -2: {}},
        chat_data={-100: {"m": message()}},
        bot_data={"seen": {1, 2}},
        conversations={"order": {(1, 2): 0, (1, "inline"): (1, 2)}, "nested": {(5,): "x"}},
        callback_data=cache.persistence_data,
    )
    await written(path, bot, single_file=single_file, **vars(expected))
    found = read_pickle(path, single_file=single_file if explicit else None)
    assert found == expected
    assert repr(found.user_data) == repr(expected.user_data), "types and order too"
    assert found.counts() == {"user_data": 2, "chat_data": 1, "bot_data": 1, "conversations": 3, "callback_data": 1}


async def test_what_was_not_stored_is_none(tmp_path, bot):
    await written(tmp_path / "split", bot, single_file=False, chat_data={1: {"a": 1}})
    assert read_pickle(tmp_path / "split") == Sections(chat_data={1: {"a": 1}})
    persistence = PicklePersistence(tmp_path / "single", store_data=PersistenceInput(bot_data=False))
    persistence.set_bot(bot)
    await persistence.get_user_data()
    await persistence.update_user_data(1, {"a": 1})
    assert read_pickle(tmp_path / "single") == Sections({1: {"a": 1}}, {}, {}, {}, None)


async def test_ended_conversations_are_gone(tmp_path, bot):
    persistence = await written(tmp_path / "p", bot, conversations={"order": {(1, 2): 3, (1, 3): 4}})
    await persistence.update_conversation("order", (1, 3), None)
    assert pickle.loads((tmp_path / "p").read_bytes())["conversations"]["order"][(1, 3)] is None
    assert read_pickle(tmp_path / "p").conversations == {"order": {(1, 2): 3}}


async def test_telegram_objects_and_bots(tmp_path, bot):
    sent = message(link_preview_options=LinkPreviewOptions(is_disabled=True), api_kwargs={"future": [1]})
    sent.set_bot(bot)
    foreign = Bot("456:token")
    data = {
        "update": Update(5, message=sent),
        "error": BadRequest("no"),
        "invalid": InvalidCallbackData("x"),
        "bot": bot,
        "again": [bot],
        "foreign": foreign,
    }
    persistence = PicklePersistence(tmp_path / "p")
    persistence.set_bot(bot)
    await persistence.get_user_data()
    with pytest.warns(UserWarning, match="Unknown bot"):
        await persistence.update_user_data(1, data)

    found = read_pickle(tmp_path / "p", bot=bot).user_data[1]
    assert found["bot"] is found["again"][0] is found["update"].message.get_bot() is bot
    assert found["foreign"] is None
    assert found["update"].to_dict() == data["update"].to_dict()
    assert found["update"].message.api_kwargs == {"future": [1]}
    assert str(found["error"]) == "no"
    assert type(found["invalid"]) is InvalidCallbackData
    with pytest.raises(AttributeError):
        found["update"].message.text = "frozen objects stay frozen"
    assert read_pickle(tmp_path / "p").user_data[1]["bot"] is KNOWN_BOT


async def test_attributes_of_other_versions(tmp_path, bot, monkeypatch):
    """What a class gained or lost since the file was written is handled as PTB's own unpickling does it."""
    await written(tmp_path / "p", bot, user_data={1: {"user": User(7, "Ada", False, username="ada")}})
    raw = (tmp_path / "p").read_bytes()
    assert raw.count(b"last_name") == raw.count(b"username") == 1
    (tmp_path / "old").write_bytes(raw.replace(b"username", b"nickname").replace(b"last_name", b"lost_name"))
    theirs = PicklePersistence(tmp_path / "old")
    theirs.set_bot(bot)
    expected = (await theirs.get_user_data())[1]["user"]
    found = read_pickle(tmp_path / "old").user_data[1]["user"]
    assert found.api_kwargs == expected.api_kwargs == {"nickname": "ada", "lost_name": None}
    assert found.first_name == "Ada"
    with pytest.raises(AttributeError):
        _ = found.username


CUSTOM = {
    "enum": State.ADDRESS,
    "flag": Rights.READ | Rights.WRITE,
    "point": Point(1, 2),
    "cart": Cart(["x"]),
    "nested": Cart.Kind.GIFT,
    "frozen": Frozen(1),
    "attrs": Attrs(1),
    "model": Model(x=1),
    "struct": Struct(x=1),
    "dict": CustomDict(a=1),
}


async def test_classes_of_allowed_modules(tmp_path, bot):
    slotted = Slotted()
    slotted.x, slotted.y = 1, [2]
    user = MyUser(7, "Ada", False)
    user._unfreeze()
    user.extra = "more"
    await written(
        tmp_path / "p",
        bot,
        user_data={1: {**CUSTOM, "slotted": slotted, "user": user}, 2: CustomDict(b=2)},
        bot_data=BotData(),
        conversations={"order": {(1, 2): State.ADDRESS}},
    )
    for allow in ((__name__,), ["tests"], ("other", "tests.ptb")):
        found = read_pickle(tmp_path / "p", allow=allow)
        assert {**found.user_data[1], "user": None} == {**CUSTOM, "slotted": slotted, "user": None}
        assert [type(value) for value in found.user_data[1].values()][:-2] == [type(value) for value in CUSTOM.values()]
        assert found.user_data[1]["user"].extra == "more"
        assert type(found.user_data[2]) is CustomDict
        assert {Cart, BotData, CustomDict, State} < set(found.types)
        assert all(cls.__module__ == __name__ for cls in found.types)
        assert found.bot_data.counter == 3
        assert found.conversations["order"][(1, 2)] is State.ADDRESS
    for allow in ((), ("tests.pt",), ("test_pickle_file",)):
        with pytest.raises(ConfigurationError) as caught:
            read_pickle(tmp_path / "p", allow=allow)
        assert caught.value.refused.startswith(f"{__name__}.")
        assert str(tmp_path / "p") in str(caught.value)
        assert f"--allow {__name__}" in str(caught.value)


async def test_a_module_is_imported_only_when_it_was_named(tmp_path, bot, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shopmodels.py").write_text("class Item:\n    pass\n", encoding="utf-8")
    import shopmodels  # type: ignore[import-not-found]

    await written(tmp_path / "p", bot, user_data={1: {"item": shopmodels.Item()}})
    monkeypatch.delitem(sys.modules, "shopmodels")
    with pytest.raises(ConfigurationError, match=r"shopmodels\.Item.*--allow shopmodels"):
        read_pickle(tmp_path / "p")
    assert "shopmodels" not in sys.modules
    assert type(read_pickle(tmp_path / "p", allow=["shopmodels"]).user_data[1]["item"]).__name__ == "Item"

    monkeypatch.delitem(sys.modules, "shopmodels")
    (tmp_path / "shopmodels.py").write_text("import no_such_module_either\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"cannot import shopmodels.*no_such_module_either.*PYTHONPATH"):
        read_pickle(tmp_path / "p", allow=["shopmodels"])


SCRIPT = """
    import asyncio, dataclasses, enum, pathlib, sys
    from telegram.ext import ExtBot, PicklePersistence

    @dataclasses.dataclass
    class ChatData:
        count: int
        class Mode(enum.Enum):
            ON = 1

    async def write():
        persistence = PicklePersistence(sys.argv[1])
        persistence.set_bot(ExtBot("123:token"))
        await persistence.get_chat_data()
        await persistence.update_chat_data(5, {"data": ChatData(4), "mode": ChatData.Mode.ON})

    if __name__ == "__main__":
        pathlib.Path(sys.argv[2]).touch()
        asyncio.run(write())
"""


def test_classes_of_the_bots_own_script(tmp_path):
    script, started = tmp_path / "bot.py", tmp_path / "started"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    subprocess.run([sys.executable, script, tmp_path / "p", started], check=True, timeout=60)
    started.unlink()
    with pytest.raises(ConfigurationError, match=r"__main__\.ChatData.*--main bot\.py"):
        read_pickle(tmp_path / "p")
    found = read_pickle(tmp_path / "p", main=script).chat_data[5]
    assert (found["data"].count, found["mode"].name) == (4, "ON")
    assert (type(found["data"]).__module__, type(found["mode"]).__module__) == ("__main__", "__main__")
    assert not started.exists(), "the bot was not started"
    with pytest.raises(ConfigurationError, match="no such Python script"):
        read_pickle(tmp_path / "p", main=tmp_path / "none.py")
    script.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"cannot be loaded: ZeroDivisionError"):
        read_pickle(tmp_path / "p", main=script)


async def test_zones_of_pytz_become_those_of_the_standard_library(tmp_path, bot):
    zone = pytz.timezone("Europe/Berlin")
    wall = datetime.datetime(2024, 10, 27, 2, 30)
    times = [
        pytz.utc.localize(wall),
        zone.localize(wall, is_dst=True),
        zone.localize(wall, is_dst=False),
        wall.replace(tzinfo=zone),  # pytz's well-known trap: local mean time
        wall.replace(tzinfo=pytz.FixedOffset(90)),
        wall.replace(tzinfo=pytz.timezone("Etc/GMT-3")),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await written(tmp_path / "p", bot, user_data={1: {"times": times, "zone": zone}})
    found = read_pickle(tmp_path / "p").user_data[1]
    assert [time.utcoffset() for time in found["times"]] == [time.utcoffset() for time in times]
    assert [time.replace(tzinfo=None, fold=0) for time in found["times"]] == [wall] * 6
    assert [str(time.tzinfo) for time in found["times"]][:3] == ["UTC", "Europe/Berlin", "Europe/Berlin"]
    assert {type(time.tzinfo).__module__ for time in found["times"]} == {"datetime", "zoneinfo"}
    assert found["zone"].key == "Europe/Berlin"


# --- which file ---


def test_there_is_no_such_file(tmp_path):
    for single_file in (None, True, False):
        with pytest.raises(ConfigurationError, match=r"none\.pickle"):
            read_pickle(tmp_path / "none.pickle", single_file=single_file)
    with pytest.raises(ConfigurationError, match="no such file"):
        read_pickle(tmp_path)


async def test_both_layouts_at_one_path_need_a_word(tmp_path, bot):
    await written(tmp_path / "p", bot, bot_data={"file": "single"})
    await written(tmp_path / "p", bot, single_file=False, bot_data={"file": "five"})
    with pytest.raises(ConfigurationError, match=r"single_file=True.*single_file=False"):
        read_pickle(tmp_path / "p")
    assert read_pickle(tmp_path / "p", single_file=True).bot_data == {"file": "single"}
    assert read_pickle(str(tmp_path / "p"), single_file=False).bot_data == {"file": "five"}


@pytest.mark.parametrize("allow", [["os; import"], [""], [5], "mymodule", ["a..b"]])
def test_what_is_allowed_are_module_names(tmp_path, allow):
    (tmp_path / "p").touch()
    with pytest.raises(ConfigurationError, match="allow"):
        read_pickle(tmp_path / "p", allow=allow)


# --- files that are not what they should be ---


async def test_every_truncation_is_reported(tmp_path, bot):
    await written(tmp_path / "p", bot, user_data={1: {"plain": PLAIN, "m": message()}})
    whole = (tmp_path / "p").read_bytes()
    for length in [*range(60), *range(60, len(whole), 7)]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(CorruptDatabaseError, match="a copy that is whole"):
            read_pickle(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(b"")
    with pytest.raises(CorruptDatabaseError, match="no pickle, or one that was cut short"):
        read_pickle(tmp_path / "cut")


async def test_flipped_bytes_never_raise_anything_else(tmp_path, bot):
    await written(tmp_path / "p", bot, user_data={1: {"plain": {**PLAIN, "numbers": [1]}, "m": message()}})
    whole = (tmp_path / "p").read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 6
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            read_pickle(tmp_path / "damaged")
        except (CorruptDatabaseError, ConfigurationError) as error:
            assert "damaged" in str(error)  # noqa: PT017 - most of the damage goes unnoticed


WRONG_SHAPES: list[Any] = [
    [],
    {},
    {"user_data": {}, "chat_data": {}},
    {"user_data": [], "chat_data": {}, "conversations": {}},
    {"user_data": {}, "chat_data": {"5": {}}, "conversations": {}},
    {"user_data": {}, "chat_data": {}, "conversations": {"order": 5}},
    {"user_data": {}, "chat_data": {}, "conversations": {"order": {5: 5}}},
    {"user_data": {}, "chat_data": {}, "conversations": {}, "callback_data": (1,)},
    {"user_data": {}, "chat_data": {}, "conversations": {}, "callback_data": ([1], {})},
    {"user_data": {}, "chat_data": {}, "conversations": {}, "callback_data": ([], 5)},
]


@pytest.mark.parametrize("data", WRONG_SHAPES, ids=repr)
def test_pickles_of_something_else_are_refused(tmp_path, data):
    (tmp_path / "p").write_bytes(pickle.dumps(data))
    with pytest.raises(CorruptDatabaseError, match="name the file that PicklePersistence was given"):
        read_pickle(tmp_path / "p")


def test_very_old_files_have_neither_bot_data_nor_callback_data(tmp_path):
    old = {"user_data": defaultdict(dict, {1: {}}), "chat_data": {}, "conversations": {}}
    (tmp_path / "p").write_bytes(pickle.dumps(old))
    found = read_pickle(tmp_path / "p")
    assert found == Sections(user_data={1: {}}, chat_data={}, bot_data=None, conversations={})
    assert type(found.user_data) is dict


# --- files that want to do harm ---


def name(module: str, qualname: str) -> bytes:
    """The opcodes that put a global on the stack."""
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, qualname)) + b"\x93"


def call(function: bytes, *args: Any) -> bytes:
    """A pickle that calls a global with arguments and is otherwise one of PicklePersistence."""
    data = b"(" + b"".join(arg if isinstance(arg, bytes) else pickle.dumps(arg, 4)[2:-1] for arg in args) + b"t"
    shell = pickle.dumps({"user_data": {}, "chat_data": {}, "conversations": {}, "bot_data": "HERE"}, 3)
    return b"\x80\x04" + shell[2:].replace(b"X\x04\x00\x00\x00HERE", function + data + b"R")


def test_the_attack_tool_works(tmp_path):
    """Otherwise the tests below would show nothing."""
    payload = call(name("builtins", "eval"), f"open({str(tmp_path / 'harm')!r}, 'w').close()")
    pickle.loads(payload)
    assert (tmp_path / "harm").exists()
    harmless = tmp_path / "harmless"
    harmless.write_bytes(call(name("decimal", "Decimal"), "1.5"))
    assert read_pickle(harmless).bot_data == decimal.Decimal("1.5")


GLOBALS = [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "compile"),
    ("builtins", "open"),
    ("builtins", "__import__"),
    ("builtins", "map"),
    ("builtins", "type"),
    ("builtins", "dict.fromkeys"),
    ("__builtin__", "eval"),
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("pickle", "loads"),
    ("functools", "partial"),
    ("operator", "methodcaller"),
    ("collections", "namedtuple"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "_sys.exit"),
    ("datetime", "sys.exit"),
    ("uuid", "os.system"),
    ("pathlib", "os.system"),
    ("pathlib", "Path.home"),
    ("pathlib", "Path.unlink"),
    ("enum", "Enum"),
    ("pytz", "timezone"),
    ("telegram", "Bot"),
    ("telegram._bot", "Bot"),
    ("telegram._bot", "pickle.loads"),
    ("telegram._bot", "copy.copy"),
    ("telegram.ext._extbot", "ExtBot"),
    ("telegram.ext", "PicklePersistence"),
    ("telegram.ext._picklepersistence", "PicklePersistence"),
    ("telegram.ext._picklepersistence", "Path.unlink"),
    ("telegram.ext._picklepersistence", "pickle.loads"),
    ("telegram.ext._application", "Application"),
    ("telegram.request._httpxrequest", "HTTPXRequest"),
    ("telegram._files.file", "File.download_to_drive"),
    ("telegram._user", "User.de_json"),
    ("telegram.__main__", "main"),
    ("telegram.nowhere", "User"),
    ("__main__", "main"),
    (__name__, "read_pickle"),
    (__name__, "Cart"),
]


@pytest.mark.parametrize(("module", "qualname"), GLOBALS)
def test_nothing_that_acts_can_be_named(tmp_path, module, qualname):
    (tmp_path / "p").write_bytes(call(name(module, qualname), str(tmp_path / "harm")))
    with pytest.raises(ConfigurationError) as caught:
        read_pickle(tmp_path / "p")
    assert caught.value.refused == f"{module}.{qualname}"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    "qualname",
    ["read_pickle", "written", "Bot", "PicklePersistence", "subprocess.run", "pathlib.Path", "Cart.__init__", "no"],
)
def test_an_allowed_module_gives_its_own_classes_only(tmp_path, qualname):
    (tmp_path / "p").write_bytes(call(name(__name__, qualname), str(tmp_path / "harm")))
    with pytest.raises(ConfigurationError) as caught:
        read_pickle(tmp_path / "p", allow=[__name__])
    assert caught.value.refused == f"{__name__}.{qualname}"


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (name("builtins", "getattr"), (name("builtins", "dict"), "fromkeys")),
        (name("builtins", "getattr"), (name("telegram._user", "User"), "de_json")),
        (name("builtins", "getattr"), (name("telegram.constants", "ParseMode"), "__class__")),
        (name("builtins", "getattr"), (name("zoneinfo", "ZoneInfo"), "from_file")),
        (name("telegram.ext._picklepersistence", "_reconstruct_to"), (name("builtins", "dict"), {})),
        (name("telegram.ext._picklepersistence", "_reconstruct_to"), (name("uuid", "UUID"), {"int": 5})),
        (name("telegram.ext._picklepersistence", "_reconstruct_to"), (5, {})),
        (name("msgspec._utils", "rebuild"), (name("builtins", "dict"), {})),
        (name("zoneinfo", "ZoneInfo"), ("../../etc/passwd",)),
        (name("pytz", "_p"), ("/etc/passwd",)),
        (name("decimal", "Decimal"), ("no number",)),
        (name("fractions", "Fraction"), ("1e999999999",)),
        (name("builtins", "bytes"), (1 << 45,)),
        (name("builtins", "bytearray"), (1 << 45,)),
        (name("builtins", "list"), (range(1 << 45),)),
        (name("builtins", "set"), (range(1 << 45),)),
        (name("collections", "deque"), (range(1 << 45),)),
        (name("collections", "Counter"), (range(1 << 45),)),
        (name("builtins", "tuple") + pickle.dumps((range(1 << 45),), 4)[2:-1] + b"\x81", ()),
        (name("builtins", "bytes") + pickle.dumps((1 << 45,), 4)[2:-1] + b"\x81", ()),
        (b"\x96" + (1 << 45).to_bytes(8, "little"), ()),
        (b"r\x00\x00\x00\x80", ()),
        (name("fractions", "Fraction") + b"N}\x8c\x03newK\x01s\x86b", ()),
        (name("telegram._user", "User") + b"N}\x8c\x03newK\x01s\x86b", ()),
        (name("telegram.ext._picklepersistence", "_reconstruct_to") + b"}\x8c\x03newK\x01sb", ()),
        (b"(iuuid\nUUID\n", ()),
        (b"(" + name("uuid", "UUID") + b"o", ()),
        (b"\x82\x01", ()),
        (b"Vunknown\nQ", ()),
    ],
)
def test_what_may_be_named_does_one_thing_only(tmp_path, function, args):
    (tmp_path / "p").write_bytes(call(function, *args))
    with pytest.raises(CorruptDatabaseError) as caught:
        read_pickle(tmp_path / "p")
    assert not isinstance(caught.value.__cause__, MemoryError), "refused before it is tried"
    assert not hasattr(User, "new")
    assert not hasattr(Fraction, "new")


def test_members_of_enums_are_found_by_name(tmp_path):
    """As some versions of Python pickle them."""
    (tmp_path / "p").write_bytes(call(name("builtins", "getattr"), name("telegram.constants", "ParseMode"), "HTML"))
    assert read_pickle(tmp_path / "p").bot_data is ParseMode.HTML


async def test_five_files_are_read_with_the_same_care(tmp_path, bot):
    await written(tmp_path / "p", bot, single_file=False, user_data={1: {}})
    (tmp_path / "p_callback_data").write_bytes(call(name("os", "system"), "true"))
    with pytest.raises(ConfigurationError, match=r"p_callback_data: the pickle names os\.system"):
        read_pickle(tmp_path / "p")
