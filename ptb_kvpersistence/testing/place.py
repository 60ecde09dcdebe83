"""What a backend's author gives to the contract suite: an empty database, and a witness who looks into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ptb_kvpersistence.backends.base import AsyncBackend, Backend

GUARANTEES: Final[Mapping[str, str]] = {
    "requests": "every request of the port means what its docstring says",
    "atomic commit": "all of a commit or nothing, whatever happens to who sent it",
    "largest commit": "a commit of 5000 mutations and 5000 checks",
    "commit once": "a commit that is sent again with its id, after a cut connection, is not applied again",
    "change feed": "the latest change of each key in version order; below the horizon the reader is told",
    "watching": "watchers of all kinds see what the feed gives, and end without a trace",
    "cheap look": "two equal tokens of peek mean that nothing was committed between them",
    "expiry": "never shown after its time, a deletion in the feed, renewed by writing",
    "stores": "named stores that can be renamed and deleted, and know which bots use them",
    "named locks": "one holder, first come first served, fenced commits",
    "store methods": "every method of Store and AsyncStore",
    "read-your-writes": "a transaction sees its own writes, and nobody else does before its end",
    "serialisable transaction": "what a transaction has read is as it was when it commits, or it conflicts",
    "exclusive transaction": "others wait to write, not to read; nobody waits for himself; a deadline",
    "async face": "requests of cancelled callers, of several tasks and after a release",
    "survives kill -9": "what was acknowledged outlives its client, and so does nothing that a client had locked",
}
"""What the suite proves; each test class names the one that it is about."""


class Witness(Protocol):
    """Reads what is stored by the raw driver, so that no error of the backend can hide itself.

    Places of entries are ``(name of the store, domain, key)``.
    """

    def entries(self) -> Mapping[tuple[str, str, str], bytes]:
        """Give the values of all entries, those that have expired but were not swept too."""
        ...

    def tombstones(self) -> set[tuple[str, str, str]]:
        """Give the places whose entry was deleted and whose deletion is still in the feed."""
        ...

    def stores(self) -> set[str]:
        """Give the names of all stores."""
        ...

    def commits(self) -> set[str]:
        """Give the ids of commits that are remembered, without those that the backend made up itself."""
        ...


class Place(ABC):
    """One empty database that any number of backends can open; made anew for each test.

    The database's clock and this machine's should agree within half a minute. A deadline of 0 means one attempt.

    Attributes:
        limits: What the backend does not guarantee: names out of :data:`GUARANTEES`, each with the reason. The tests of
            these are skipped, and no others.
    """

    limits: Mapping[str, str] = {}

    @abstractmethod
    def open(self, *, timeout: float = 5.0) -> Backend:
        """Make a backend of the sync face, unlike any made before, with a default deadline of ``timeout`` seconds."""

    @abstractmethod
    def open_async(self, *, timeout: float = 5.0) -> AsyncBackend:
        """Make a backend of the async face, unlike any made before, with a default deadline of ``timeout`` seconds."""

    @abstractmethod
    def witness(self) -> Witness:
        """Make a witness."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Make all that is stored that much older, by raw statements: shift every stored time back.

        That is when entries were written and expire, when entries were deleted and commits made, until when locks are
        held, when waiters last asked and bots were last seen. Versions, tokens and the time of the last sweep stay.
        """

    def opener(self) -> Callable[[], Backend]:
        """Give what opens the database in another process: a callable that can be pickled, such as a ``partial``.

        Not needed where "survives kill -9" is among the limits.
        """
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - not every database has to be removed
        """Remove the database; the suite has closed all backends that it opened."""
