"""URLs of servers are split here; nothing of one that makes no sense is quoted, since any part may be the password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ptb_kvpersistence.errors import ConfigurationError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_PLACE: Final = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
_ADVICE: Final = "special characters in user and password are percent-encoded, for example / as %2F and @ as %40"


def split(url: str) -> SplitResult:
    """Split a URL after a look whether a password with special characters has torn it apart.

    Raises:
        ConfigurationError: It cannot be split, or not in the way that was meant.
    """
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
    except ValueError:
        message = f"this {scheme}:// URL cannot be read; {_ADVICE}"
        raise ConfigurationError(message) from None
    if "#" in url or "@" in parts.path or "@" in parts.query.partition("=")[0]:
        message = f"this {scheme}:// URL has a # or a late @ in it; {_ADVICE}"
        raise ConfigurationError(message)
    for place in parts.netloc.rpartition("@")[2].split(","):
        found = _PLACE.fullmatch(place)
        if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
            message = f"in a {scheme}:// URL a server is given as host, host:port or [address]:port; {_ADVICE}"
            raise ConfigurationError(message)
    return parts
