"""Whole stores, a page at a time: all domains, in the order of the change feed; without I/O, like the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.model import RESERVED_PREFIX, Changes
from ptb_kvpersistence.store.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ptb_kvpersistence.model import Change, ChangesReply, Requested

COPY: Final = f"{RESERVED_PREFIX}copy"
"""Domain of what a copy notes about itself while it is made; never copied."""
BATCH: Final = 1000
"""Changes that are read, and written in one commit, at most."""
BATCH_BYTES: Final = 4 << 20
"""About how many bytes of values that should be at most."""
_FIRST: Final = 8
"""Changes that are read first, while it is not known how large values are."""
_NO_VERSION: Final = 2**62


class Pages:
    """Reads a store's feed.

    Attributes:
        cursor: All up to this version was read.
        more: Whether there is more.
    """

    def __init__(self, store: int, cursor: int = 0) -> None:
        self._store = store
        self._limit = min(_FIRST, BATCH)
        self.cursor = cursor
        self.more = True

    def next(self) -> Generator[Requested[Any], Any, ChangesReply]:
        """Read the next page."""
        reply: ChangesReply = yield Changes(self._store, self.cursor, None, self._limit)
        size = sum(len(change.value or b"") for change in reply.changes)
        fitting = BATCH_BYTES * len(reply.changes) // size if size else BATCH
        self._limit = max(1, min(BATCH, 2 * self._limit, fitting))
        self.cursor, self.more = reply.head, reply.more
        return reply


def head_of(store: int) -> Generator[Requested[Any], Any, int]:
    """Give the highest version of a store."""
    reply: ChangesReply = yield Changes(store, _NO_VERSION, (), 1)
    return reply.head


def has_changed(store: int, cursor: int) -> Generator[Requested[Any], Any, bool]:
    """Tell whether anything was written to a store after this version."""
    reply: ChangesReply = yield Changes(store, cursor, None, 1)
    return bool(reply.changes)


def is_alive(change: Change, at: int) -> bool:
    """Tell whether a change leaves an entry that has not expired at this time, and is none of a copy's own."""
    has_value = change.value is not None and change.domain != COPY
    return has_value and (change.expires_at is None or change.expires_at > at)


def add_up(
    store: int, at: int, until: int | None = None, report: Callable[[int], None] | None = None
) -> Generator[Requested[Any], Any, Tally | None]:
    """Count and hash all entries of a store.

    Args:
        store: Which.
        at: When the tally was begun; what has expired by then is left out.
        until: A version; where something was written after it, the reply is None.
        report: Called with how many entries were read.
    """
    tally, pages, read = Tally(at), Pages(store), 0
    while pages.more:
        reply = yield from pages.next()
        if until is not None and reply.changes and reply.changes[-1].version > until:
            return None
        for change in reply.changes:
            if is_alive(change, at):
                tally.add(change)
                read += 1
        if report is not None:
            report(read)
    return tally
