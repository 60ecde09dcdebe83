"""From a path or a URL to a backend; the drivers are imported here, when asked for."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from ptb_kvpersistence.backends.base import DEFAULT_TIMEOUT
from ptb_kvpersistence.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptb_kvpersistence.backends.base import AsyncBackend, Backend

_POSTGRES = ("postgresql", "postgres")
_CONNINFO = ("host=", "hostaddr=", "dbname=", "user=", "service=")
"""How libpq's own connection strings begin."""
_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster")


class Target(NamedTuple):
    """What a path or URL names: the kind of database, and its path (SQLite), name (memory) or URL (servers)."""

    kind: str
    path: str

    def __repr__(self) -> str:
        return f"<Target {self.kind}>"  # a URL may hold a password


def parse(location: object) -> Target:
    """Parse a path, or a URL.

    URLs are ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``memory:``, ``memory:name``,
    ``postgresql://user:password@host:port/database``, ``redis://host``, ``rediss://host`` and
    ``redis+cluster://host``; those of servers are taken as they are.

    Raises:
        ConfigurationError: It is none of these, or a kind that this version does not support.
    """
    if isinstance(location, os.PathLike):
        location = os.fspath(location)
    if not isinstance(location, str) or not location:
        message = f"a database is named by a path or a URL that is not empty, this is a {type(location).__name__}"
        raise ConfigurationError(message)
    if "\0" in location:
        message = "a path or a URL cannot contain a NUL character"
        raise ConfigurationError(message)
    if location == ":memory:":
        return Target("memory", "")
    if location.startswith("memory:"):
        return Target("memory", location[len("memory:") :].strip("/"))
    if location[:7].lower() == "sqlite:":
        return Target("sqlite", _sqlite_path(location))
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    if scheme in _POSTGRES:
        return Target("postgres", location)
    if scheme in _REDIS:
        return Target("redis", location)
    if scheme:
        known = "use a path, sqlite:///file.db, postgresql://, redis:// or memory:"
        message = f"{scheme}:// is no kind of database known here; {known}"
        raise ConfigurationError(message)
    _refuse_near_url(location)
    return Target("sqlite", _absolute(location))


def _refuse_near_url(path: str) -> None:
    """Refuse what was surely meant to name a server; it is not quoted, since it may hold a password."""
    scheme = path.partition(":")[0].lower() if ":" in path else ""
    if scheme in (*_POSTGRES, *_REDIS):
        message = f"a URL begins with {scheme}:// and goes on with the host; a file of that name is ./{scheme}:..."
        raise ConfigurationError(message)
    if path.lstrip().startswith(_CONNINFO):
        message = "a server is named by a URL, postgresql://user:password@host/database; a file of that name is ./..."
        raise ConfigurationError(message)


def _sqlite_path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or not path.strip("/"):
        message = f"{url} names no file; write sqlite:///relative.db or sqlite:////absolute.db"
        raise ConfigurationError(message)
    if "?" in url or "#" in url or "\0" in path:
        message = f"{url} takes no options; a ? in the name is %3F, a # is %23, and NUL cannot be in it"
        raise ConfigurationError(message)
    return _absolute(path[1:])


def _absolute(path: str) -> str:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        message = f"{path!a} cannot be the name of a file here; give another path"
        raise ConfigurationError(message) from error
    # A bot that changes its working folder must go on with the same file.
    return str(Path(path).expanduser().absolute())


@contextmanager
def _extra(extra: str, driver: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        # psycopg without its binary part, or without libpq, raises an ImportError of its own.
        if (error.name or driver).split(".")[0].startswith(driver) or error.name is None:
            message = f'{extra} databases need a driver: pip install "ptb_kvpersistence[{extra}]" ({error})'
            raise ConfigurationError(message) from error
        raise


def open_backend(location: object, *, timeout: float = DEFAULT_TIMEOUT) -> Backend:
    """Make the backend of the sync face; nothing is opened before the first request."""
    target = parse(location)
    if target.kind == "memory":
        from ptb_kvpersistence.backends.memory import MemoryBackend

        return MemoryBackend(target.path, timeout=timeout)
    if target.kind == "postgres":
        with _extra("postgres", "psycopg"):
            from ptb_kvpersistence.backends.postgres.sync import PostgresBackend

        return PostgresBackend(target.path, timeout=timeout)
    if target.kind == "redis":
        with _extra("redis", "redis"):
            from ptb_kvpersistence.backends.redis.sync import RedisBackend

        return RedisBackend(target.path, timeout=timeout)
    from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend

    return SQLiteBackend(target.path, timeout=timeout)


def open_async_backend(location: object, *, timeout: float = DEFAULT_TIMEOUT) -> AsyncBackend:
    """Make the backend of the async face; nothing is opened before the first request."""
    target = parse(location)
    if target.kind == "memory":
        from ptb_kvpersistence.backends.memory import AsyncMemoryBackend

        return AsyncMemoryBackend(target.path, timeout=timeout)
    if target.kind == "postgres":
        with _extra("postgres", "psycopg"):
            from ptb_kvpersistence.backends.postgres.aio import AsyncPostgresBackend

        return AsyncPostgresBackend(target.path, timeout=timeout)
    if target.kind == "redis":
        with _extra("redis", "redis"):
            from ptb_kvpersistence.backends.redis.aio import AsyncRedisBackend

        return AsyncRedisBackend(target.path, timeout=timeout)
    from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend

    return AsyncSQLiteBackend(target.path, timeout=timeout)
