"""Checks of what users pass, and its turning into what requests take: durations, lifetimes, ranges of keys.

Keys and names themselves are checked by ``model``, values by the codec.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from ptb_kvpersistence.errors import ConfigurationError
from ptb_kvpersistence.model import check_name, prefix_range

if TYPE_CHECKING:
    from ptb_kvpersistence.model import KeyRange

MAX_TIMEOUT: Final = 1e9
"""Seconds; what waits takes no infinity."""
MAX_SECONDS: Final = 10_000 * 366 * 86_400


class Lifetime(NamedTuple):
    """When a written entry expires, in milliseconds: ``ttl`` from the write on, or an absolute time."""

    ttl: int | None = None
    expires_at: int | None = None


FOR_EVER: Final = Lifetime()
"""No lifetime of its own; the domain's setting decides."""


def key_range(domain: str, prefix: str = "", start: str | None = None, stop: str | None = None) -> KeyRange:
    """Give the keys of a domain that begin with ``prefix`` and lie from ``start`` (inclusive) to ``stop`` (exclusive).

    Raises:
        InvalidKeyError: One of them is no str.
    """
    for bound in (prefix, start, stop):
        if bound is not None:
            check_name(bound, "key", allow_empty=True)
    keys = prefix_range(domain, prefix)
    if start is not None:
        keys = keys._replace(start=max(keys.start, start))
    if stop is not None:
        keys = keys._replace(stop=stop if keys.stop is None else min(keys.stop, stop))
    return keys


def lifetime(ttl: object = None, expires_at: object = None) -> Lifetime:
    """Check what a user said of an entry's lifetime.

    Args:
        ttl: Seconds, or a timedelta; more than 0.
        expires_at: A datetime with a time zone.

    Raises:
        ConfigurationError: It is something else, or both are given.
    """
    if ttl is not None and expires_at is not None:
        message = "give either ttl or expires_at, not both"
        raise ConfigurationError(message)
    if expires_at is not None:
        if not isinstance(expires_at, datetime) or expires_at.tzinfo is None:
            message = "expires_at takes a datetime with a time zone"
            raise ConfigurationError(message)
        return Lifetime(None, max(1, int(expires_at.timestamp() * 1000)))
    return Lifetime(None if ttl is None else milliseconds(ttl, "ttl"))


def milliseconds(duration: object, name: str) -> int:
    """Turn seconds or a timedelta into milliseconds.

    Raises:
        ConfigurationError: It is neither, not more than 0, or longer than 10,000 years.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < MAX_SECONDS:
        message = f"{name} takes a number of seconds or a timedelta, more than 0 and less than 10,000 years"
        raise ConfigurationError(message)
    return max(1, int(seconds * 1000))


def patience(timeout: object) -> float:
    """Check a number of seconds to wait; 0 or less is not at all.

    Raises:
        ConfigurationError: It is no number.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:  # noqa: PLR0124 - nan
        what = "nan" if isinstance(timeout, float) else type(timeout).__name__
        message = f"timeout takes a number of seconds, not {what}"
        raise ConfigurationError(message)
    return min(timeout, MAX_TIMEOUT)
