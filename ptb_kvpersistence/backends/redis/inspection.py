"""Whether data is safe on a server: what its configuration says, judged once when connecting."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.redis.failures import refused
from ptb_kvpersistence.backends.redis.layout import FORMAT, RegistryKeys
from ptb_kvpersistence.backends.redis.wire import pack
from ptb_kvpersistence.errors import ConfigurationError, DatabaseError, FormatVersionError

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.redis.settings import Settings

_logger = logging.getLogger(__name__)
_said: Final[set[str]] = set()

SLOTS_QUESTION: Final = pack((b"CLUSTER", b"SLOTS"))
_CONFIGURATION: Final = (b"maxmemory-policy", b"appendonly", b"appendfsync", b"save")
QUESTIONS: Final = b"".join(
    (SLOTS_QUESTION, pack((b"INFO",)), *(pack((b"CONFIG", b"GET", name)) for name in _CONFIGURATION))
)
QUESTION_COUNT: Final = 2 + len(_CONFIGURATION)
MINIMUM: Final = (6, 2)


def inspect(settings: Settings, replies: list[Any]) -> None:
    """Judge the replies to :data:`QUESTIONS`.

    Raises:
        ConfigurationError: The server may throw data away.
        DatabaseError: It is too old.
    """
    info = {} if isinstance(replies[1], Exception) else _parse(replies[1])
    configuration = {
        name: None if isinstance(reply, Exception) or len(reply) < 2 else reply[1].decode()
        for name, reply in zip(_CONFIGURATION, replies[2:], strict=True)
    }
    version = tuple(int(part) for part in info.get("redis_version", "6.2").split(".")[:2])
    if version < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise DatabaseError(f"{settings.name} is Redis {info['redis_version']}; {wanted} or newer is needed")
    policy = info.get("maxmemory_policy") or configuration[b"maxmemory-policy"]
    if policy is not None and policy != "noeviction" and not settings.allow_eviction:
        raise ConfigurationError(
            f"{settings.name} deletes data when its memory is full (maxmemory-policy {policy}); "
            "set it to noeviction, or accept that with ?allow_eviction=true in the URL"
        )
    _say_what_is_lost(settings.name, info, configuration, policy)


def _say_what_is_lost(
    name: str, info: dict[str, str], configuration: dict[bytes, str | None], policy: str | None
) -> None:
    appends = configuration[b"appendonly"] or {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""))
    fsync, save = configuration[b"appendfsync"], configuration[b"save"]
    if policy is None:
        _say(
            f"{name}: it cannot be checked whether the server deletes data when its memory is full (INFO is forbidden)"
        )
    if appends is None:
        _say(f"{name}: it cannot be checked whether the server keeps data on disk (CONFIG and INFO are forbidden)")
    elif appends == "no" and save == "":
        _say(f"{name} keeps nothing on disk: when the server stops, all data is gone (appendonly no, no save points)")
    elif appends == "no":
        _say(f"{name} has appendonly no: when the server dies, what came after its last snapshot is lost")
    elif fsync is None:
        _say(
            f"{name}: it cannot be checked what a loss of power costs (CONFIG is forbidden, so appendfsync is unknown)"
        )
    elif fsync != "always":
        lost = "about a second of writes" if fsync == "everysec" else "what the system had not written yet"
        _say(f"{name} has appendfsync {fsync}: a loss of power costs {lost}; appendfsync always would keep all")
    if info.get("connected_slaves", "0") != "0":
        _say(f"{name} has replicas that follow behind: a failover can lose writes that were acknowledged")


def _say(message: str) -> None:
    if message not in _said:
        _said.add(message)
        _logger.warning("%s", message)


def _parse(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}


def check_format(settings: Settings, stored: bytes | Exception | None) -> None:
    """Refuse a layout that a newer version has written.

    Raises:
        FormatVersionError: It is newer.
    """
    if isinstance(stored, Exception):
        raise refused(stored, settings.name) from stored
    if stored is not None and int(stored) > FORMAT:
        where = RegistryKeys(settings.prefix).format.decode()
        raise FormatVersionError(
            f"{settings.name} has format {int(stored)} (key {where}), this version of ptb_kvpersistence reads up to "
            f"{FORMAT}; update it"
        )
