"""The one place where an error of redis-py, or of the server, becomes an error of the package."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from redis import exceptions as redis_errors

from ptb_kvpersistence.backends.redis.settings import Node
from ptb_kvpersistence.errors import (
    DatabaseError,
    DatabaseFullError,
    DatabaseUnavailableError,
    OutcomeUnknownError,
    ReadOnlyError,
)

if TYPE_CHECKING:
    from ptb_kvpersistence.backends.redis.wire import TransportError

PASSING: Final = ("LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "BUSY", "UNBLOCKED")
"""First words of errors that may be over in a moment; none of them has changed anything."""


def first_word(error: BaseException) -> str:
    """The word that tells what kind of error a server's reply is; redis-py cuts it off the message of some."""
    for kind, word in _KINDS:
        if isinstance(error, kind):
            return word
    return str(error).partition(" ")[0]


_KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (redis_errors.AskError, "ASK"),
    (redis_errors.NoScriptError, "NOSCRIPT"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthorizationError, "NOAUTH"),
    (redis_errors.AuthenticationError, "WRONGPASS"),
)


def redirection(error: object, asked: Node) -> tuple[str, Node] | None:
    """Where a cluster says that a slot is, and by which word; some versions of redis-py have no class for that."""
    if not isinstance(error, redis_errors.ResponseError):
        return None
    text = str(error)
    word = "MOVED" if isinstance(error, redis_errors.MovedError) else first_word(error)
    if word not in {"MOVED", "ASK"}:
        return None
    host, _, port = text.rpartition(" ")[2].rpartition(":")
    return word, Node(host or asked.host, int(port))


def is_final(cause: BaseException) -> bool:
    """Whether trying to connect again cannot help."""
    return (
        isinstance(cause, (redis_errors.AuthenticationError, redis_errors.ResponseError))
        or isinstance(cause.__cause__, (ImportError, ValueError, TypeError))
        or _tls_trouble(cause) is not None
    )


def _tls_trouble(cause: BaseException) -> str | None:
    """Say what is wrong where a connection failed for a certificate."""
    reason = cause.__cause__ or cause.__context__
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted: {reason.verify_message.rstrip('.')}; "
            "name its authority by ?ssl_ca_certs= in the URL, and the host as the certificate does"
        )
    if isinstance(reason, ssl.SSLError) and re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA)", reason.reason or ""):
        return (
            f"the server does not trust this client: {reason.reason}; "
            "give a certificate that it accepts by ?ssl_certfile= and ssl_keyfile= in the URL"
        )
    if isinstance(reason, FileNotFoundError):
        return "there is no such file; look at ssl_ca_certs, ssl_certfile and ssl_keyfile in the URL"
    return None


def refused(error: BaseException, name: str) -> DatabaseError:
    """Find the error for what a server answered."""
    word, text = first_word(error), str(error)
    trouble = _tls_trouble(error)
    if trouble is not None:
        return DatabaseUnavailableError(f"{name}: {trouble}")
    if word == "READONLY":
        return ReadOnlyError(f"{name} is a read-only replica; connect to the primary server")
    if word == "OOM":
        return DatabaseFullError(
            f"{name} has no memory left under its maxmemory; nothing was written, raise it or delete something"
        )
    if word in {"WRONGPASS", "NOAUTH"} or "AUTH" in text.partition(" ")[0]:
        return DatabaseError(f"{name} refuses the user name or the password; check both in the URL")
    if word == "NOPERM":
        return DatabaseError(
            f"{name}: the user may not do this ({text}); it needs the commands of a script, keys and channels that "
            "begin with the prefix: ACL SETUSER ... +@all -@dangerous +info ~{kv* &kv:*"
        )
    if word == "MISCONF":
        return DatabaseError(f"{name} cannot save to its disk and takes no writes ({text}); look at the server's log")
    if word == "NOREPLICAS":
        return DatabaseError(f"{name} has fewer replicas than its min-replicas-to-write asks for; nothing was written")
    if word in PASSING:
        return DatabaseUnavailableError(f"{name} was not ready in time ({text}); try again")
    if "invalid DB index" in text or "DB index is out of range" in text:
        return DatabaseError(f"{name}: there is no database of that number; look at the path of the URL")
    return DatabaseError(f"{name}: {text}")


def unreachable(error: TransportError, name: str, limit: float, *, none_free: bool) -> DatabaseError:
    """Build the error for a server that did not answer before the deadline, when nothing can have been written."""
    if is_final(error.cause):
        return refused(error.cause, name)
    if none_free:
        return DatabaseUnavailableError(
            f"{name}: all connections were in use for {limit:g} s; raise ?max_connections= in the URL, "
            "or do less at once"
        )
    tls, hint = "", ""
    if name.startswith("rediss"):
        tls = " and speaks TLS"
    elif "reset by peer" in str(error):  # what a server says that gets something else than TLS
        hint = "; one that speaks TLS wants rediss instead of redis in the URL"
    advice = f"check that it runs{tls} and can be reached from here{hint}"
    return DatabaseUnavailableError(f"{name} did not answer within {limit:g} s ({error}); {advice}")


def unknown_outcome(error: TransportError, name: str, limit: float) -> OutcomeUnknownError:
    """Build the error for a write whose reply never came."""
    return OutcomeUnknownError(
        f"{name}: the connection broke and the reply did not come within {limit:g} s ({error}); "
        "it may have been written, or not: read it again, or send a commit again with the same id"
    )
