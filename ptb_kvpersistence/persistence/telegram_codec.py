"""How python-telegram-bot's objects and bots are stored: two extensions of the codec.

``{"$telegram": [class name, payload]}`` is a Telegram object. Payloads have two forms:

* The Bot API's JSON, ``{"message_id": 1, "date": 1700000000, "chat": {"id": 2, "type": "private"}}``: what ``to_dict``
  gives and ``de_json`` reads. Any service can read it, and PTB itself knows how to read what a newer PTB wrote (fields
  that it does not know go to ``api_kwargs``); where it refuses what an older one wrote,
  :mod:`ptb_kvpersistence.persistence.telegram_older` helps. Nearly everything that a bot receives is stored so.
* The state, ``{"state": {attribute: value, ...}}``, each value as the codec stores it: for objects that ``de_json``
  would not bring back exactly. Those are objects with an empty field that PTB then takes for a missing one, with a
  tuple where ``to_dict`` makes a list, with a Telegram object as ``callback_data``, with fractions of a second, with
  an explicit ``None`` where the default is another, or with a class that ``de_json`` would not choose. Objects for
  uploads (``InputMediaPhoto``) are always stored so, because their ``__init__`` opens files that an argument names; so
  are registered subclasses of users, named ``"module:Qualname"``, whose code must not run; and so are TelegramErrors,
  which are no Telegram objects but may stand in one (``CallbackQuery.data`` as InvalidCallbackData).
  ``None`` is left out, and members of PTB's enums are written as ``{"$telegram": ["constants.ChatType", "private"]}``,
  which is read as the plain value where PTB has lost the enum. ``_frozen`` is written only where false, and the
  entries of ``_id_attrs`` are names of attributes, or ``[value]``. Loading sets the attributes without ``__init__``.
  An attribute that the class has lost is kept in ``api_kwargs``; one that it has got since is ``None``.

Which form an object gets is found out by trying ``de_json`` when it is stored, once per shape of object, see
:mod:`ptb_kvpersistence.persistence.telegram_form`.

``{"$bot": "current"}`` is the persistence's own bot, ``{"$bot": "foreign"}`` any other, which comes back as ``None``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

import telegram
import telegram.ext
import telegram.request
from telegram import Bot, TelegramObject
from telegram.error import TelegramError

from ptb_kvpersistence.codec.place import Fault, Step, shown, type_name
from ptb_kvpersistence.codec.registry import Registry, name_of
from ptb_kvpersistence.codec.text import Tree
from ptb_kvpersistence.persistence import telegram_state
from ptb_kvpersistence.persistence.telegram_form import (
    CLASSES,
    ERRORS,
    Shape,
    UnfitError,
    comes_back,
    is_fitting,
    rebuild,
    write,
)
from ptb_kvpersistence.persistence.telegram_older import rebuild_older
from ptb_kvpersistence.persistence.telegram_private import DefaultValue, default_value

_STATE: Final = "state"
_DEFAULT_VALUE: Final = "DefaultValue"
_MOST_SHAPES: Final = 4096

_REFUSALS: Final[dict[type, str]] = {
    telegram.InputFile: "it holds an upload; store the file_id that Telegram gave for it, or the path, or the bytes",
    telegram.ext.Job: "a job does not outlive the process; store its name and data, and schedule it again at the start",
    telegram.ext.JobQueue: "it belongs to the running application; use context.job_queue where you need it",
    telegram.ext.Application: "it is what runs; use context.application where you need it",
    telegram.ext.Updater: "it is what runs; use context.application.updater where you need it",
    telegram.ext.CallbackContext: "it belongs to one update; store what you need from it",
    telegram.ext.BaseHandler: "handlers are code; store a name, and look the handler up by it",
    telegram.ext.BasePersistence: "a persistence cannot be stored in itself",
    telegram.request.BaseRequest: "it holds open connections",
}


class TelegramExtension:
    """Stores Telegram objects under ``$telegram``.

    Args:
        get_bot: Gives the bot that loaded objects are associated with, so that their shortcuts work; or ``None``.
        types: Classes of users; those that derive from :class:`telegram.TelegramObject` may be stored.
    """

    tag: Final = telegram_state.TAG

    def __init__(self, get_bot: Callable[[], Bot | None], types: Iterable[type] = ()) -> None:
        self._get_bot = get_bot
        self._registry = Registry(
            cls for cls in types if issubclass(type(cls), type) and issubclass(cls, TelegramObject)
        )
        self._fits: dict[Shape, bool] = {}

    def register(self, cls: type[TelegramObject]) -> None:
        """Allow a user's subclass of :class:`telegram.TelegramObject`."""
        self._registry.register(cls)

    def claims(self, cls: type) -> bool:
        """Whether it is a Telegram object, or something of PTB's that is refused with a reason."""
        if issubclass(cls, (TelegramObject, TelegramError, DefaultValue)):
            return not issubclass(cls, Bot)
        return _refusal(cls) is not None

    # --- storing ---

    def encode(self, value: object, encode: Callable[[object, Step], Tree]) -> Tree:
        """Give the payload; see the module's docstring.

        Raises:
            Fault: Something in it cannot be stored, or the class is a user's and not registered.
        """
        cls = type(value)
        if isinstance(value, DefaultValue):
            return [_DEFAULT_VALUE, encode(value.value, ".value")]
        if isinstance(value, TelegramError):
            if ERRORS.get(cls.__name__) is not cls:
                raise Fault(f"cannot store a {type_name(cls)}; store its message instead")
            return [cls.__name__, {_STATE: telegram_state.encode_error(value, encode)}]
        if not isinstance(value, TelegramObject):
            raise Fault(f"cannot store a {type_name(cls)}: {_refusal(cls)}")
        name = self._name_of(cls)
        if is_fitting(cls):
            try:
                tree, shape = write(value, encode)
            except UnfitError:
                pass
            else:
                if self._is_known_to_fit(value, shape) and not _looks_like_state(tree):
                    return [name, tree]
        return [name, {_STATE: telegram_state.encode_object(value, encode)}]

    def _name_of(self, cls: type) -> str:
        if CLASSES.get(cls.__name__) is cls:
            return cls.__name__
        if self._registry.is_registered(cls):
            return name_of(cls)
        raise Fault(f"cannot store a {type_name(cls)}; register the class with types=[...]")

    def _is_known_to_fit(self, value: TelegramObject, shape: Shape) -> bool:
        fits = self._fits.get(shape)
        if fits is None:
            if len(self._fits) >= _MOST_SHAPES:
                self._fits.clear()
            fits = self._fits[shape] = comes_back(value)
        return fits

    # --- loading ---

    def decode(self, payload: Tree, decode: Callable[[Tree], object]) -> object:
        """Rebuild a Telegram object, associated with the current bot.

        Raises:
            Fault: It is not a payload of this extension, or its class is not known here.
        """
        if type(payload) is not list or len(payload) != 2 or type(payload[0]) is not str:
            raise Fault("a Telegram object is written as [class name, data]")
        name, data = payload
        if name == _DEFAULT_VALUE:
            return default_value(decode(data))
        if name.startswith(telegram_state.CONSTANTS):
            return telegram_state.decode_constant(name, data)
        if type(data) is not dict:
            raise Fault(f"the data of a Telegram object are an object, not a {type_name(type(data))}")
        if name in ERRORS:
            return telegram_state.decode_error(ERRORS[name], data[_STATE] if _looks_like_state(data) else {}, decode)
        cls = self._class_named(name)
        if _looks_like_state(data):
            return telegram_state.decode_object(cls, data[_STATE], decode, self._get_bot())
        if not is_fitting(cls):
            raise Fault(f"a {cls.__name__} is only read from its state")
        fields = decode(data)
        if type(fields) is not dict or not all(type(key) is str for key in fields):
            raise Fault("the data of a Telegram object are an object with names")
        bot = self._get_bot()
        try:
            rebuilt = _rebuild(cls, fields, bot)
            rebuilt.set_bot(bot)  # de_json of some classes forgets
        except Exception as error:  # PTB checks nothing, so anything may come of wrong data
            raise Fault(f"the data are not those of a {name} ({type(error).__name__})", error) from error
        return rebuilt

    def _class_named(self, name: str) -> type[TelegramObject]:
        cls: Any = CLASSES.get(name)
        if cls is None and ":" in name:
            cls = self._registry.find(name)
            if not self._registry.is_registered(cls):
                cls = None
        if cls is None:
            raise Fault(
                f"{shown(name)} is no class of the installed python-telegram-bot; was it written by a newer one? "
                "A class of your own must be registered with types=[...]"
            )
        return cls  # type: ignore[no-any-return]


class BotExtension:
    """Stores bots under ``$bot``, as placeholders: a bot holds a token and open connections.

    Args:
        get_bot: Gives the persistence's own bot, or ``None``.
        warn: Called with a message for each foreign bot that is stored.
    """

    tag: Final = "$bot"

    def __init__(self, get_bot: Callable[[], Bot | None], warn: Callable[[str], None]) -> None:
        self._get_bot = get_bot
        self._warn = warn

    def claims(self, cls: type) -> bool:
        """Whether it is a bot of any class."""
        return issubclass(cls, Bot)

    def encode(self, value: object, encode: Callable[[object, Step], Tree]) -> Tree:  # noqa: ARG002 - no children
        """Give ``"current"`` for the persistence's own bot, else ``"foreign"``, with a warning."""
        current = self._get_bot()
        if value is current or (current is not None and _token_of(value) == _token_of(current) is not None):
            return "current"
        self._warn("a bot that is not the persistence's own was stored; it will come back as None")
        return "foreign"

    def decode(self, payload: Tree, decode: Callable[[Tree], object]) -> object:  # noqa: ARG002 - no children
        """Give the current bot, or ``None`` for a foreign one.

        Raises:
            Fault: It is neither.
        """
        if payload == "current":
            return self._get_bot()
        if payload == "foreign":
            return None
        raise Fault('a bot is written as "current" or "foreign"')


def _rebuild(cls: type[TelegramObject], fields: dict[str, Any], bot: Bot | None) -> TelegramObject:
    try:
        return _rebuild_any(cls, fields, bot)
    except Warning:  # the process turns warnings into errors; users' data are not lost over that
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rebuild_any(cls, fields, bot)


def _rebuild_any(cls: type[TelegramObject], fields: dict[str, Any], bot: Bot | None) -> TelegramObject:
    try:
        return rebuild(cls, fields, bot)
    except (TypeError, KeyError):
        return rebuild_older(cls, fields, bot)


def _token_of(bot: object) -> str | None:
    # Bots are equal by to_dict() and have no id before initialize(); the token is always there.
    try:
        token = bot.token  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - a subclass may do anything
        return None
    return token if type(token) is str else None


def _refusal(cls: type) -> str | None:
    return next((reason for base, reason in _REFUSALS.items() if issubclass(cls, base)), None)


def _looks_like_state(tree: Tree) -> bool:
    return len(tree) == 1 and type(tree.get(_STATE)) is dict
