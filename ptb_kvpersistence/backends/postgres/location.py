"""From a URL to what libpq is told, and what the database is called in messages; nothing is opened here."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from ptb_kvpersistence.backends.server_urls import split
from ptb_kvpersistence.errors import ConfigurationError

KEEPALIVES: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""So that a machine that vanished is noticed within half a minute; the URL may say otherwise."""
MAX_SCHEMA: Final = 63


class Location(NamedTuple):
    """Where a database is.

    Attributes:
        name: For messages; without user and password.
        parameters: For libpq.
        schema: That holds the tables; None: the first of the search path.
    """

    name: str
    parameters: dict[str, str | int]
    schema: str | None


def locate(url: str) -> Location:
    """Take a ``postgresql://`` URL apart; ``schema`` is ours, all other parameters are libpq's.

    Raises:
        ConfigurationError: libpq would not accept it.
    """
    parts = split(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(given).get("schema")
    # libpq takes a plus sign for itself, not for a space.
    query = urlencode([item for item in given if item[0] != "schema"], quote_via=quote)
    try:
        found = conninfo_to_dict(f"postgresql://{parts.netloc}{parts.path}{'?' if query else ''}{query}")
    except ProgrammingError:
        # What libpq says may quote a part of the password.
        message = (
            "this is no URL that PostgreSQL understands; write "
            "postgresql://user:password@host:port/database?parameter=value, with special characters percent-encoded"
        )
        raise ConfigurationError(message) from None
    if schema is not None and (not schema or "\0" in schema):
        message = "the schema in the URL is empty; name one, or leave ?schema= out"
        raise ConfigurationError(message)
    if len((schema or "").encode()) > MAX_SCHEMA:
        # The server would cut it off, and two long names could be one schema.
        message = f"the schema in the URL is too long; PostgreSQL takes up to {MAX_SCHEMA} bytes"
        raise ConfigurationError(message)
    parameters: dict[str, str | int] = {
        **KEEPALIVES,
        **{key: value for key, value in found.items() if value is not None},
    }
    parameters.setdefault("application_name", "ptb_kvpersistence")
    parameters["client_encoding"] = "utf8"
    return Location(_name(parameters, schema), parameters, schema)


def _name(parameters: dict[str, str | int], schema: str | None) -> str:
    host = str(parameters.get("host", ""))
    hosts = [_shown(each) for each in host.split(",")]
    ports = str(parameters.get("port", "")).split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    where = ",".join(f"{each}:{port}" if port else each for each, port in zip(hosts, ports, strict=True))
    return f"postgresql://{where}/{parameters.get('dbname', '')}{f'?schema={quote(schema)}' if schema else ''}"


def _shown(host: str) -> str:
    if host.startswith("/"):
        return quote(host, safe="")
    return f"[{host}]" if ":" in host else host
