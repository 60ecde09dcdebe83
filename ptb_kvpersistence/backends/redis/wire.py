"""The effects that a conversation asks for, and how commands look on the wire; carrying them out is for the faces.

A conversation is a generator: it yields effects, is sent what came of them, and returns the reply to a request. So what
is asked, where, and what is done when that fails is written once for both faces.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from redis import exceptions as redis_errors

if TYPE_CHECKING:
    from typing import TypeAlias

    from ptb_kvpersistence.backends.redis.settings import Node, Settings

T = TypeVar("T")


class Ask(NamedTuple):
    """Send to a server and read so many replies; those that are errors are given as exceptions.

    Raises, where it is yielded:
        NotSentError: Nothing has reached the server.
        CutError: The connection broke, or time passed, after something was sent.
    """

    node: Node
    packed: bytes
    replies: int
    deadline: float


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Listen(NamedTuple):
    """Give a free link to a server, one that listens to a channel of its own, or make one; NotSentError as for Ask."""

    node: Node
    deadline: float


class Blocked(NamedTuple):
    """Say that somebody has the store to himself; raises ReentryError where waiting would be for ever."""

    store: int


Effect: TypeAlias = "Ask | Pause | Listen | Blocked"
Conversation: TypeAlias = Generator[Effect, Any, T]


class TransportError(Exception):
    """What befell a connection; never leaves the backend."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause) or "time ran out")
        self.cause = cause


class NotSentError(TransportError):
    """Nothing has reached the server."""


class NoneFreeError(NotSentError):
    """All connections are in use."""


class CutError(TransportError):
    """Something was sent, and no reply came."""


def pack(arguments: Iterable[bytes]) -> bytes:
    """Put one command into the Redis protocol.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    arguments = tuple(arguments)
    parts = [b""] * (2 * len(arguments))
    parts[::2] = map(_HEADS.__getitem__, map(len, arguments))
    parts[1::2] = arguments
    return b"*%d%b\r\n" % (len(arguments), b"".join(parts))


class _Heads(dict[int, bytes]):
    """What stands before an argument of so many bytes; formatting it anew took most of the time of packing."""

    def __missing__(self, size: int) -> bytes:
        head = b"\r\n$%d\r\n" % size
        if size < _MANY:
            self[size] = head
        return head


_MANY: Final = 4096
_HEADS: Final = _Heads()


def attempt_timeout(deadline: float) -> float:
    """Seconds for one attempt: some are left for another one, over a connection that is not stuck."""
    left = deadline - time.monotonic()
    return max(0.01, left if left < 1 else left * 0.6)


def is_reply(error: redis_errors.RedisError) -> bool:
    """Whether an exception of redis-py is what the server answered, though it counts as one of the connection."""
    return isinstance(
        error, (redis_errors.ResponseError, redis_errors.BusyLoadingError, redis_errors.AuthenticationError)
    )


def connection_options(settings: Settings, node: Node) -> dict[str, Any]:
    """Arguments for redis-py's connections of both faces; nothing is retried by the driver."""
    return {
        **settings.options,
        "host": node.host,
        "port": node.port,
        "protocol": 2,
        "health_check_interval": 0,
        "socket_keepalive": True,
    }
