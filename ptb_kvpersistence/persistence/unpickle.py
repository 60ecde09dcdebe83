"""An unpickler that builds data and nothing else.

What a pickle may name is decided here: plain data of the standard library, telegram's data classes, and classes from
modules that the user named. Files and their layout are the affair of :mod:`.pickle_file`.

Source: "Restricting Globals" in the documentation of :mod:`pickle`. A pickle calls what it names with arguments of its
own choice, so a name is allowed only where that does no harm, and functions are replaced by narrow stand-ins.

The unpickler written in Python is used, not the one in C: it takes five times as long (3.5 s for 100,000 users), but it
lets us look at each call, and a damaged file costs it neither gigabytes nor minutes (shown with single flipped bits).
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import importlib
import io
import pathlib
import pickle
import struct
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, Final

import telegram
import telegram.ext
from telegram.error import TelegramError

from ptb_kvpersistence.errors import ConfigurationError

KNOWN_BOT_ID: Final = "a known bot replaced by PTB's PicklePersistence"
UNKNOWN_BOT_ID: Final = "an unknown bot replaced by PTB's PicklePersistence"

_BUILTINS: Final = (
    bool,
    bytearray,
    bytes,
    complex,
    dict,
    float,
    frozenset,
    int,
    list,
    object,
    range,
    set,
    slice,
    str,
    tuple,
)
_LIBRARY: Final = (
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    collections.deque,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    fractions.Fraction,
    uuid.SafeUUID,
    uuid.UUID,
    zoneinfo.ZoneInfo,
)
_PATHS: Final = (
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.WindowsPath,
)
_PLAIN: Final[dict[tuple[str, str], type]] = {
    **{("builtins", cls.__name__): cls for cls in _BUILTINS},
    **{(cls.__module__, cls.__name__): cls for cls in _LIBRARY},
    # Python 3.13 writes pathlib._local, other versions pathlib.
    **{(module, cls.__name__): cls for cls in _PATHS for module in ("pathlib", "pathlib._local")},
}


_REDUCIBLE_BUILTINS: Final = (bytearray, bytes, complex, frozenset, range, set, slice)
_ORIGINAL: Final[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch  # noqa: SLF001


class DataUnpickler(pickle._Unpickler):  # noqa: SLF001 - the documented name is the C version
    """Load a pickle that PicklePersistence wrote, without running code that the user did not name.

    Args:
        data: The pickle.
        allow: Modules and packages whose classes may be built; they are imported when the pickle names them.
        bot: What stands where the persistence's own bot stood.
        main: The module to take classes of ``__main__`` from, if not the running one.

    Attributes:
        users_types: The users' classes that the pickle named, in order.
    """

    stack: list[Any]
    append: Callable[[object], None]
    read: Callable[[int], bytes]

    def __init__(self, data: bytes, *, allow: Sequence[str], bot: object, main: ModuleType | None) -> None:
        super().__init__(io.BytesIO(data))
        self._allow = tuple(allow)
        self._bot = bot
        self._main = main
        self.users_types: dict[type, None] = {}
        self._pytz_offsets: dict[int, tuple[zoneinfo.ZoneInfo, datetime.timedelta]] = {}
        self._stand_ins: dict[tuple[str, str], Callable[..., Any]] = {
            ("builtins", "getattr"): _get_member,
            ("datetime", "datetime"): self._datetime,
            ("msgspec._core", "rebuild"): _rebuild_struct,
            ("msgspec._utils", "rebuild"): _rebuild_struct,
            ("pytz", "FixedOffset"): _minutes_zone,
            ("pytz", "_UTC"): _utc,
            ("pytz", "_p"): self._pytz_zone,
            ("telegram.ext._picklepersistence", "_reconstruct_to"): _reconstruct_to,
        }

    def persistent_load(self, pid: Any) -> object:
        """Put the known bot, or ``None`` for a foreign one, where PicklePersistence left a placeholder."""
        if pid == KNOWN_BOT_ID:
            return self._bot
        if pid == UNKNOWN_BOT_ID:
            return None
        raise pickle.UnpicklingError("unknown persistent id")

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Find what the pickle names.

        Raises:
            ConfigurationError: It is not plain data, not telegram's, and not of a module that the user named.
        """
        place = (module_name, global_name)
        found = self._stand_ins.get(place) or _PLAIN.get(place)
        if found is None and module_name.partition(".")[0] == "telegram":
            found = _telegram_class(module_name, global_name)
        if found is None and _is_within(module_name, self._allow):
            cls = self._users_class(module_name, global_name)
            if cls is not None:
                self.users_types[cls] = None
            found = cls
        if found is None:
            raise ConfigurationError(_refusal(module_name, global_name), refused=f"{module_name}.{global_name}")
        return found

    def _users_class(self, module_name: str, global_name: str) -> type | None:
        if module_name == "__main__" and self._main is not None:
            module = self._main
        else:
            try:
                module = importlib.import_module(module_name)
            except ImportError as error:
                raise ConfigurationError(
                    f"cannot import {module_name}, which defines {global_name}: {error}; "
                    "run this where the bot's own modules can be imported (for example with PYTHONPATH)",
                    refused=f"{module_name}.{global_name}",
                ) from error
        return _nested_class(module, global_name, self._allow)

    # --- opcodes that call or change something ---

    def _call(self) -> None:
        function, args = self.stack[-2:]
        _check_call(function, args)
        _ORIGINAL[pickle.REDUCE[0]](self)

    def _new(self) -> None:
        if self.stack[-2] in _BUILTINS:
            raise pickle.UnpicklingError("built-in objects are not made this way")
        _ORIGINAL[pickle.NEWOBJ[0]](self)

    def _build(self) -> None:
        if callable(self.stack[-2]) and isinstance(self.stack[-2], (type, FunctionType, MethodType)):
            raise pickle.UnpicklingError("classes and functions have no state")
        _ORIGINAL[pickle.BUILD[0]](self)

    def _bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # unlike the original, allocates no more than there is

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an opcode that PicklePersistence does not write")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refuse),
        **_ORIGINAL,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _new,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _bytearray,
        **dict.fromkeys(pickle.INST + pickle.OBJ + pickle.EXT1 + pickle.EXT2 + pickle.EXT4, _refuse),
    }

    # --- time zones ---

    def _pytz_zone(self, key: str, *seconds: Any) -> zoneinfo.ZoneInfo:
        """Give the ZoneInfo for a zone of pytz, which pickles one object per offset of the zone."""
        zone = zoneinfo.ZoneInfo(key)
        if not seconds:
            return zone
        marked = zoneinfo.ZoneInfo.no_cache(key)
        self._pytz_offsets[id(marked)] = (marked, datetime.timedelta(seconds=seconds[0]))
        return marked

    def _datetime(self, *args: Any) -> datetime.datetime:
        moment = datetime.datetime(*args)  # noqa: DTZ001 - the zone is among the arguments
        marked = self._pytz_offsets.get(id(moment.tzinfo))
        if marked is None:
            return moment
        zone, offset = zoneinfo.ZoneInfo(str(marked[0].key)), marked[1]
        for fold in (0, 1):
            candidate = moment.replace(tzinfo=zone, fold=fold)
            if candidate.utcoffset() == offset:
                return candidate
        return moment.replace(tzinfo=datetime.timezone(offset))


def _refusal(module_name: str, global_name: str) -> str:
    name = f"{module_name}.{global_name}"
    if module_name == "__main__":
        advice = "it was defined in the bot's own script: name that script (--main bot.py)"
    elif module_name.partition(".")[0] == "telegram":
        advice = "this is no data class of the installed python-telegram-bot"
    else:
        advice = f"if it is your own data class and the file is yours, allow its module (--allow {module_name})"
    return f"the pickle names {name}, which is not loaded without being asked for; {advice}"


def _telegram_class(module_name: str, global_name: str) -> type | None:
    """Find a data class, an enum or an error of python-telegram-bot, never anything that acts."""
    module = sys.modules.get(module_name)
    cls = None if module is None else _nested_class(module, global_name, ("telegram",))
    if cls is None:
        return None
    if issubclass(cls, telegram.TelegramObject):
        return None if issubclass(cls, telegram.Bot) else cls
    if issubclass(cls, (enum.Enum, TelegramError)):
        return cls
    return cls if (module_name, global_name) == ("telegram._utils.defaultvalue", "DefaultValue") else None


def _is_within(module_name: str, names: Sequence[str]) -> bool:
    return any(module_name == name or module_name.startswith(f"{name}.") for name in names)


def _nested_class(module: ModuleType, global_name: str, origins: Sequence[str]) -> type | None:
    """Follow a qualified name through classes only, and only through those that were defined in ``origins``."""
    found: Any = module
    for name in global_name.split("."):
        found = vars(found).get(name)
        if not isinstance(found, type) or not _is_within(found.__module__, origins):
            return None
    return found if isinstance(found, type) else None


def _check_call(function: object, args: Any) -> None:
    """Refuse calls of allowed classes that only serve to fill the memory or to burn time."""
    first = args[0] if args else None
    if function in _BUILTINS:
        is_fine = function in _REDUCIBLE_BUILTINS and (
            type(first) in {bytes, str, list, tuple, type(None)} or function in {complex, range, slice}
        )
    elif function is fractions.Fraction:
        is_fine = type(first) is not str or "e" not in first.lower()
    else:
        is_fine = function not in _LIBRARY or type(first) is not range
    if not is_fine:
        raise pickle.UnpicklingError("a call that no value of a standard type needs")


# --- stand-ins for the functions that PicklePersistence's files name ---


def _reconstruct_to(cls: Any, attributes: dict[str, object]) -> object:
    """Rebuild a Telegram object as PTB's function of the same name does, attributes of older versions included."""
    if not isinstance(cls, type) or not issubclass(cls, telegram.TelegramObject):
        raise pickle.UnpicklingError("only Telegram objects are rebuilt this way")
    rebuilt = cls.__new__(cls)
    rebuilt.__setstate__(attributes)  # type: ignore[no-untyped-call,unused-ignore]
    return rebuilt


def _rebuild_struct(cls: Any, fields: dict[str, object]) -> object:
    """Rebuild a msgspec struct with keyword-only fields as msgspec does it."""
    if not isinstance(cls, type) or not hasattr(cls, "__struct_fields__"):
        raise pickle.UnpicklingError("only msgspec structs are rebuilt this way")
    return cls(**fields)


def _get_member(owner: object, name: str) -> object:
    """Stand in for getattr, which pickles use for time zones and, on some Python versions, for enum members."""
    if owner is zoneinfo.ZoneInfo and name == "_unpickle":
        return _zone
    if isinstance(owner, type) and issubclass(owner, enum.Enum) and name in owner.__members__:
        return owner.__members__[name]
    raise pickle.UnpicklingError("only members of enums are looked up by name")


def _zone(key: str, from_cache: object = True) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(key) if from_cache else zoneinfo.ZoneInfo.no_cache(key)


def _utc() -> datetime.timezone:
    return datetime.timezone.utc


def _minutes_zone(minutes: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(minutes=minutes))
