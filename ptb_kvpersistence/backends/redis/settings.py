"""From a URL to what the faces need to connect; nothing is connected here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode

from ptb_kvpersistence.backends.server_urls import split
from ptb_kvpersistence.errors import ConfigurationError

DEFAULT_PORT: Final = 6379
MAX_CONNECTIONS: Final = 16
_TEXT: Final = frozenset(
    (
        "username",
        "password",
        "client_name",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_password",
    )
)
_CHOICES: Final = {"ssl_cert_reqs": frozenset({"none", "optional", "required"})}
_SWITCHES: Final = frozenset({"ssl_check_hostname"})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class Node(NamedTuple):
    """A server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """What a URL says.

    Attributes:
        name: The URL without a password, for messages.
        seeds: Where to connect first.
        options: Arguments for redis-py's connections.
        is_tls: Whether they are encrypted.
        is_cluster: None: to be found out.
        prefix: What all keys begin with.
        allow_eviction: Whether the server may throw data away when its memory is full.
        max_connections: To one server, by one process and loop.
    """

    name: str
    seeds: tuple[Node, ...]
    options: dict[str, Any] = field(repr=False)
    is_tls: bool
    is_cluster: bool | None
    prefix: str
    allow_eviction: bool
    max_connections: int


def parse(url: str) -> Settings:
    """Parse ``redis://``, ``rediss://``, ``redis+cluster://`` or ``rediss+cluster://``.

    The form is ``redis://[user[:password]@]host[:port][,host[:port]...][/number][?option=value&...]``.

    Raises:
        ConfigurationError: It says something that is not known, or makes no sense.
    """
    parts = split(url)
    kind, _, variant = parts.scheme.partition("+")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    server = f"{parts.scheme}://{unquote(user) + '@' if user else ''}{places}"
    shown = server + parts.path
    query = parse_qs(parts.query, keep_blank_values=True)
    options: dict[str, Any] = {}
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    number = parts.path.strip("/")
    if number:
        if not re.fullmatch("[0-9]{1,5}", number):
            raise _wrong(server, "the path is the number of a database, as in redis://host:6379/0")
        options["db"] = int(number)
    is_cluster = True if variant == "cluster" else _switch(query, "cluster", shown, None)
    if is_cluster and options.get("db"):
        raise _wrong(shown, "a cluster has database 0 only")
    prefix = _one(query, "prefix", "kv")
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", prefix):
        raise _wrong(shown, "a prefix takes letters, digits and _ . : - only")
    maximum = _one(query, "max_connections", str(MAX_CONNECTIONS))
    if not re.fullmatch("[0-9]{1,4}", maximum) or int(maximum) < 1:
        raise _wrong(shown, "max_connections is a number from 1 on")
    allow_eviction = bool(_switch(query, "allow_eviction", shown, False))
    _add_options(options, query, shown)
    if kind != "rediss" and any(name.startswith("ssl_") for name in options):
        raise _wrong(shown, "options that begin with ssl_ need rediss://")
    if kind == "rediss":
        # Older versions of redis-py would take any host's certificate.
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    seeds = tuple(_node(place, shown) for place in places.split(","))
    return Settings(
        name=shown if prefix == "kv" else f"{shown}?{urlencode({'prefix': prefix})}",
        seeds=seeds,
        options=options,
        is_tls=kind == "rediss",
        is_cluster=is_cluster,
        prefix=prefix,
        allow_eviction=allow_eviction,
        max_connections=int(maximum),
    )


def _add_options(options: dict[str, Any], query: dict[str, list[str]], shown: str) -> None:
    for name in list(query):
        if name in _TEXT:
            options[name] = _one(query, name, "")
        elif name in _SWITCHES:
            options[name] = _switch(query, name, shown, None)
        elif name in _CHOICES:
            options[name] = _one(query, name, "")
            if options[name] not in _CHOICES[name]:
                raise _wrong(shown, f"{name} is one of {', '.join(sorted(_CHOICES[name]))}")
        else:
            raise _wrong(shown, f"the option {name!r} is not known")


def _node(place: str, shown: str) -> Node:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", place)
    if found is None or not 0 < int(found[3] or DEFAULT_PORT) < 65536:
        raise _wrong(shown, "a server is given as host, host:port or [address]:port")
    return Node(unquote(found[1] or found[2] or "localhost"), int(found[3] or DEFAULT_PORT))


def _one(query: dict[str, list[str]], name: str, default: str) -> str:
    return query.pop(name, [default])[-1]


def _switch(query: dict[str, list[str]], name: str, shown: str, default: bool | None) -> bool | None:
    if name not in query:
        return default
    value = _one(query, name, "").lower()
    if value not in _TRUE | _FALSE:
        raise _wrong(shown, f"{name} is true or false")
    return value in _TRUE


def _wrong(shown: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{shown}: {reason}")
