"""Read the files of PTB's ``PicklePersistence``: one file, or the five of ``single_file=False``.

What a pickle may build is decided in :mod:`.unpickle`; nothing here writes.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from ptb_kvpersistence.errors import ConfigurationError, CorruptDatabaseError
from ptb_kvpersistence.persistence.sections import (
    KNOWN_BOT,
    SECTION_NAMES,
    CallbackData,
    ConversationStates,
    Sections,
)
from ptb_kvpersistence.persistence.unpickle import DataUnpickler

_REQUIRED: Final = ("user_data", "chat_data", "conversations")
_CALLBACK_PARTS: Final = 2


def read_pickle(
    path: str | os.PathLike[str],
    *,
    single_file: bool | None = None,
    allow: Iterable[str] = (),
    bot: object = KNOWN_BOT,
    main: str | os.PathLike[str] | None = None,
) -> Sections:
    """Read what PicklePersistence wrote, without running code from the pickle.

    Built are plain data of the standard library, Telegram's data classes, and classes of the modules in ``allow``.
    Those modules are imported and their classes rebuilt as pickle does it, ``__setstate__`` included: name modules of
    your own only. Time zones of pytz become those of the standard library.

    Args:
        path: The ``filepath`` that PicklePersistence was given.
        single_file: As PicklePersistence was given it; ``None`` finds out.
        allow: Modules and packages whose classes may be built, for example ``["mybot.models"]``; ``"__main__"`` is the
            running script, or ``main``.
        bot: What stands where the persistence's own bot stood. Other bots become ``None``, as in PTB.
        main: The bot's own script, where classes are defined in it; it is run as a module, not as ``__main__``.

    Returns:
        The sections. Those that were not stored are ``None``; states of ended conversations are left out. ``types``
        are the classes of ``allow`` that were met.

    Raises:
        ConfigurationError: There is no such file, it is unclear which is meant, or a class is named that is not
            allowed (``refused`` has its name).
        CorruptDatabaseError: The file is no pickle of PicklePersistence, is damaged, or its objects cannot be rebuilt.
    """
    source = Path(path)
    files = {name: Path(f"{source}_{name}") for name in SECTION_NAMES}
    if single_file is None:
        single_file = _is_single_file(source, files)
    module = None if main is None else _load_script(Path(main))
    allowed = _checked_modules(allow, module)

    types: dict[type, None] = {}

    def load(file: Path) -> Any:
        return _load(file, allowed, bot, module, types)

    if single_file:
        data = load(source)
        if not isinstance(data, dict) or not all(name in data for name in _REQUIRED):
            _corrupt(source, "it is a pickle, but not one that PicklePersistence wrote")
        return _sections({name: (source, data.get(name)) for name in SECTION_NAMES}, tuple(types))
    present = {name: file for name, file in files.items() if file.exists()}
    if not present:
        raise ConfigurationError(f"{files['user_data']}: no such file, nor another of PicklePersistence's five")
    return _sections({name: (file, load(file)) for name, file in present.items()}, tuple(types))


def _is_single_file(source: Path, files: Mapping[str, Path]) -> bool:
    split = [file for file in files.values() if file.exists()]
    if source.is_file() and split:
        raise ConfigurationError(
            f"{source} and {split[0]} both exist; say whether PicklePersistence was given single_file=True "
            "(--single-file) or single_file=False (--five-files)"
        )
    if not source.is_file() and not split:
        raise ConfigurationError(f"{source}: no such file, nor {files['user_data']} or another of the five")
    return not split


def _checked_modules(allow: Iterable[str], main: ModuleType | None) -> Sequence[str]:
    if isinstance(allow, str):
        raise ConfigurationError(f"allow takes several module names: allow=[{allow!r}]")
    names: list[Any] = list(allow)
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigurationError(f"{name!r} is no module name; allow takes names such as 'mybot.models'")
    return [*names, "__main__"] if main is not None else names


def _load_script(path: Path) -> ModuleType:
    """Load the bot's script under another name, so that its ``if __name__ == "__main__"`` does not start the bot.

    Its classes then say that they belong to ``__main__``, as they do when the bot runs.
    """
    spec = importlib.util.spec_from_file_location("__kv_main__", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"{path}: no such Python script")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigurationError(f"{path}: the script cannot be loaded: {type(error).__name__}: {error}") from error
    module.__name__ = "__main__"
    _rename_classes(module.__dict__)
    return module


def _rename_classes(namespace: Mapping[str, Any]) -> None:
    for value in list(namespace.values()):
        if isinstance(value, type) and value.__module__ == "__kv_main__":
            value.__module__ = "__main__"
            _rename_classes(vars(value))


def _load(file: Path, allow: Sequence[str], bot: object, main: ModuleType | None, types: dict[type, None]) -> Any:
    try:
        unpickler = DataUnpickler(file.read_bytes(), allow=allow, bot=bot, main=main)
        data = unpickler.load()
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error.message}", refused=getattr(error, "refused", None)) from error
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror or error}") from error
    except EOFError as error:
        raise CorruptDatabaseError(
            f"{file}: no pickle, or one that was cut short; take a copy that is whole"
        ) from error
    except pickle.UnpicklingError as error:
        raise CorruptDatabaseError(
            f"{file}: no pickle of PicklePersistence, or a damaged one: {error}; take a copy that is whole"
        ) from error
    except Exception as error:
        raise CorruptDatabaseError(
            f"{file}: damaged, or an object in it cannot be rebuilt: {type(error).__name__}: {error}; take a copy that "
            "is whole, and the versions of python-telegram-bot and of your own modules that wrote it"
        ) from error
    types.update(unpickler.users_types)
    return data


# --- the shape of the sections ---


def _corrupt(file: Path, reason: str) -> NoReturn:
    raise CorruptDatabaseError(f"{file}: {reason}; name the file that PicklePersistence was given")


def _sections(found: Mapping[str, tuple[Path, Any]], types: tuple[type, ...]) -> Sections:
    nothing = (Path(), None)
    return Sections(
        user_data=_entities("user_data", *found.get("user_data", nothing)),
        chat_data=_entities("chat_data", *found.get("chat_data", nothing)),
        bot_data=found.get("bot_data", nothing)[1],
        conversations=_conversations(*found.get("conversations", nothing)),
        callback_data=_callback_data(*found.get("callback_data", nothing)),
        types=types,
    )


def _entities(name: str, file: Path, data: Any) -> dict[int, Any] | None:
    if data is None:
        return None
    if not isinstance(data, dict) or not all(isinstance(key, int) for key in data):
        _corrupt(file, f"{name} is no dict with ids as keys")
    return dict(data)


def _conversations(file: Path, data: Any) -> dict[str, ConversationStates] | None:
    if data is None:
        return None
    if not isinstance(data, dict) or not all(isinstance(states, dict) for states in data.values()):
        _corrupt(file, "conversations is no dict of dicts")
    for states in data.values():
        if not all(isinstance(key, tuple) for key in states):
            _corrupt(file, "a conversation key is no tuple")
    return {name: {key: state for key, state in states.items() if state is not None} for name, states in data.items()}


def _callback_data(file: Path, data: Any) -> CallbackData | None:
    if not data:  # PTB keeps {} or None where there never was any
        return None
    if isinstance(data, (tuple, list)) and len(data) == _CALLBACK_PARTS:
        keyboards, queries = data
        try:
            return [(str(uuid), float(used_at), dict(buttons)) for uuid, used_at, buttons in keyboards], dict(queries)
        except (TypeError, ValueError):
            pass
    _corrupt(file, "callback_data has not the form of PTB's callback data cache")
