"""Which namespace of a store belongs to which bot: the domain ``ptb:bots``.

Its keys are ``bot:<name>``, and ``unclaimed`` for data that was imported or written without a bot's name; the values
are ``{"namespace": ...}``, with which the names of the private domains end.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import BusyError, ConfigurationError, DecodeError, ReadOnlyError
from ptb_kvpersistence.model import Address, Commit, Delete, GetMany, KeyRange, Page, Put, VersionCheck
from ptb_kvpersistence.persistence.layout import BOTS, UNCLAIMED

if TYPE_CHECKING:
    from collections.abc import Generator

    from ptb_kvpersistence.model import Record, Requested

_logger = logging.getLogger(__name__)

PREFIX: Final = "bot:"
MAX_NAME_BYTES: Final = 256


def check_bot_name(name: object) -> str:
    """Check the name of a bot's namespace.

    Raises:
        ConfigurationError: It is no str, empty or too long.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES or "\0" in name:
        message = f"bot takes the name of a namespace: a str of 1 to {MAX_NAME_BYTES} UTF-8 bytes without NUL"
        raise ConfigurationError(message)
    return name


def list_namespaces(store: int) -> Generator[Requested[Any], Any, dict[str, tuple[str, int]]]:
    """Read the registered bots.

    Returns:
        By bot name (``""``: the unclaimed one), the namespace and the version of its entry.
    """
    reply = yield Page(store, KeyRange(BOTS), 10_000)
    found = {}
    for key, record in reply.items:
        name = "" if key == UNCLAIMED else key[len(PREFIX) :]
        found[name] = (_namespace(record, key), record.version)
    return found


def _namespace(record: Record, key: str) -> str:
    try:
        value = loads(record.value)
        if isinstance(value, dict) and isinstance(value["namespace"], str):
            return value["namespace"]
    except (DecodeError, KeyError):
        pass
    message = f"the entry {key!r} of domain {BOTS!r} does not name a namespace; repair or delete it"
    raise DecodeError(message, place=key, reason="does not name a namespace")


def resolve(store: int, bot: str | None) -> Generator[Requested[Any], Any, str]:
    """Find the namespace of a bot, registering it at its first visit.

    Args:
        store: Id of the store.
        bot: The bot's name; None for a script without a bot.

    Raises:
        ConfigurationError: Without a name, and there are several namespaces.
    """
    known = yield from list_namespaces(store)
    if bot is None:
        if len(known) > 1:
            names = ", ".join(sorted(name or UNCLAIMED for name in known))
            message = f"the store holds data of several bots ({names}); say which with bot=..."
            raise ConfigurationError(message)
        if known:
            return next(iter(known.values()))[0]
        return (yield from _register(store, UNCLAIMED, f"unclaimed-{uuid.uuid4().hex[:8]}"))
    if bot in known:
        return known[bot][0]
    if "" in known:
        namespace, version = known[""]
        if (yield from _claim(store, bot, namespace, version)):
            _logger.info("bot %s takes over the data that was imported without a bot's name", bot)
            return namespace
        return (yield from resolve(store, bot))
    if known:
        _logger.warning(
            "bot %s has no data in this store yet, others have: %s; to go on with theirs, pass bot=...",
            bot,
            ", ".join(sorted(known)),
        )
    return (yield from _register(store, PREFIX + bot, bot))


def _register(store: int, key: str, namespace: str) -> Generator[Requested[Any], Any, str]:
    put = Put(BOTS, key, dumps({"namespace": namespace}))
    try:
        reply = yield Commit(store, (put,), (VersionCheck(BOTS, key, 0),))
    except (ReadOnlyError, BusyError) as error:
        # The data can be read all the same; whatever is written later is retried and reported.
        _logger.warning("could not register the bot's namespace: %s", error)
        return namespace
    if not reply.is_committed:
        (record,) = yield GetMany(store, (Address(BOTS, key),))
        if record is not None:
            return _namespace(record, key)
    return namespace


def _claim(store: int, bot: str, namespace: str, version: int) -> Generator[Requested[Any], Any, bool]:
    key = PREFIX + bot
    put = Put(BOTS, key, dumps({"namespace": namespace}))
    checks = (VersionCheck(BOTS, key, 0), VersionCheck(BOTS, UNCLAIMED, version))
    reply = yield Commit(store, (put, Delete(BOTS, UNCLAIMED)), checks)
    return bool(reply.is_committed)
