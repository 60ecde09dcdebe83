"""Copying stores from one database to another, without I/O: generators that say which of the two is asked.

The source is read by its change feed, so that a copy that was broken off goes on from its cursor, and what is written
to the source meanwhile comes along. How the entries get into the target is the business of :mod:`.staging`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.errors import ConfigurationError, ConflictError, DatabaseError
from ptb_kvpersistence.model import Delete, DeleteStore, ListDomains, ListStores, OpenStore, Put, check_name
from ptb_kvpersistence.store import paging
from ptb_kvpersistence.store.operations import drive
from ptb_kvpersistence.store.paging import COPY, Pages, add_up, has_changed, head_of, is_alive
from ptb_kvpersistence.store.staging import STAGED, Staging, begin, complete, drop, restart, settle, swap, write

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.model import Change, ChangesReply, Requested, StoreInfo
    from ptb_kvpersistence.store.tally import Sum

T = TypeVar("T")
ATTEMPTS: Final = 5
"""How often a store is looked at again when it is written to while it is copied and compared."""


class Side(Enum):
    """Which of the two databases."""

    SOURCE = "source"
    TARGET = "target"


class Asked(NamedTuple):
    """A request to one of the two databases."""

    side: Side
    request: Requested[Any]


class Step(NamedTuple):
    """Where a transfer is.

    Attributes:
        store: Name of the store.
        activity: What is being done: "copying", "comparing" ...
        fraction: How much of that is done, from 0 to 1.
        entries: How many entries that are.
    """

    store: str
    activity: str
    fraction: float
    entries: int


class Moved(NamedTuple):
    """A store that has arrived.

    Attributes:
        store: Its name.
        entries: How many entries it has.
        digest: Of all of them, see :mod:`.tally`; empty when an earlier attempt had brought it into its place already.
    """

    store: str
    entries: int
    digest: str


def drive_both(operation: Generator[Asked, Any, T], source: Backend, target: Backend) -> T:
    """Run an operation between two databases."""
    backends = {Side.SOURCE: source, Side.TARGET: target}
    return drive(operation, lambda asked: backends[asked.side].perform(asked.request))


def at(side: Side, operation: Generator[Requested[Any], Any, T]) -> Generator[Asked, Any, T]:
    """Run an operation on one of the two."""
    try:
        request = next(operation)
        while True:
            try:
                reply = yield Asked(side, request)
            except Exception as error:  # noqa: BLE001 - the operation decides what to do about it
                request = operation.throw(error)
            else:
                request = operation.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


@dataclass
class _Pair:
    """A store of the source, and what is to be its copy."""

    source: StoreInfo
    staging: Staging
    compared_at: int = -1
    total: Sum | None = None


class Copy:
    """Copies stores; all appear in the target when all are complete and compared.

    Args:
        source: What to call the source in messages.
        target: What to call the target.
        stores: Names of the stores; empty: all.
        overwrite: Replace stores of the target that have entries.
        report: Called at each step.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        stores: Sequence[str] = (),
        overwrite: bool = False,
        report: Callable[[Step], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._target = target
        self._names = tuple(dict.fromkeys(check_name(name, "store name") for name in stores))
        self._overwrite = overwrite
        self._report = report

    def run(self) -> Generator[Asked, Any, list[Moved]]:
        """Copy.

        Raises:
            StoreNotFoundError: The source has no store of a name.
            ConfigurationError: A store in the target has entries and is not to be replaced, or both are one database.
            StoreInUseError: Bots are attached to a store in the target.
            ConflictError: The source is written to all the time; what was copied stays for the next attempt.
            DatabaseError: The copy is not like its source, or one of the databases cannot be used.
        """
        infos = yield from self._chosen()
        if not infos:
            return []
        yield from self._refuse_itself(infos)
        origins = {info.name: info.incarnation for info in infos}
        stagings = yield from at(Side.TARGET, begin(origins, overwrite=self._overwrite, resume=True))
        pairs = [_Pair(info, stagings[info.name]) for info in infos]
        yield from self._bring_up([pair for pair in pairs if not pair.staging.is_done])
        for pair in pairs:
            if not pair.staging.is_done:
                domains = yield Asked(Side.SOURCE, ListDomains(pair.source.id))
                kept = [info for info in domains if info.domain != COPY]
                yield from at(Side.TARGET, settle(pair.staging.info, kept))
        yield from at(Side.TARGET, swap(stagings, overwrite=self._overwrite))
        return [
            Moved(pair.source.name, pair.staging.progress.copied, "")
            if pair.total is None
            else Moved(pair.source.name, pair.total.entries, pair.total.digest)
            for pair in pairs
        ]

    def _chosen(self) -> Generator[Asked, Any, list[StoreInfo]]:
        if not self._names:
            return complete((yield Asked(Side.SOURCE, ListStores())))
        infos = []
        for name in self._names:
            infos.append((yield Asked(Side.SOURCE, OpenStore(name))))  # noqa: PERF401 - yields
        return infos

    def _refuse_itself(self, infos: list[StoreInfo]) -> Generator[Asked, Any, None]:
        """Refuse to copy a database onto itself, by whatever two names: what is made in one is seen in the other."""
        known = {info.incarnation for info in infos}
        if not any(info.incarnation in known for info in (yield Asked(Side.TARGET, ListStores()))):
            return
        probe = yield Asked(Side.TARGET, OpenStore(f"{STAGED}{uuid.uuid4().hex}", "create"))
        seen = yield Asked(Side.SOURCE, ListStores())
        yield Asked(Side.TARGET, DeleteStore(probe.name, force=True))
        if any(info.incarnation == probe.incarnation for info in seen):
            message = f"{self._source} and {self._target} are the same database; give another target"
            raise ConfigurationError(message)

    def _bring_up(self, pairs: list[_Pair]) -> Generator[Asked, Any, None]:
        """Copy and compare until all stores are like their sources at the same time."""
        for _ in range(ATTEMPTS):
            behind = []
            for pair in pairs:
                if not (yield from self._is_current(pair)):
                    behind.append(pair)  # noqa: PERF401 - yields
            if not behind:
                return
            for pair in behind:
                yield from self._follow(pair)
                yield from self._compare(pair)
        message = (
            f"somebody keeps writing to store {behind[0].source.name!r} of {self._source}, so the copy could not be "
            "compared; stop the bots that use it and run the same command again: it goes on where it was"
        )
        raise ConflictError(message)

    def _is_current(self, pair: _Pair) -> Generator[Asked, Any, bool]:
        cursor = pair.staging.progress.cursor
        if pair.compared_at != cursor:
            return False
        return not (yield from at(Side.SOURCE, has_changed(pair.source.id, cursor)))

    def _follow(self, pair: _Pair) -> Generator[Asked, Any, None]:
        """Copy what the source's feed says, from where the copy is up to the feed's end."""
        staging = pair.staging
        pages = Pages(pair.source.id, staging.progress.cursor)
        head = yield from at(Side.SOURCE, head_of(pair.source.id))
        if staging.progress.start < 0:
            staging.progress = staging.progress._replace(start=head)
        first: int | None = None
        while pages.more:
            before = pages.cursor
            reply = yield from at(Side.SOURCE, pages.next())
            start = staging.progress.start
            if reply.horizon > max(before, start) or reply.head < before:
                # Deletions were forgotten, or an older state of the source has come back.
                yield from at(Side.TARGET, restart(staging))
                yield from self._follow(pair)
                return
            for changes, cursor in _batches(reply):
                mutations = list(_mutations(changes, start))
                copied = staging.progress.copied + sum(isinstance(mutation, Put) for mutation in mutations)
                progress = staging.progress._replace(cursor=cursor, copied=copied)
                if progress != staging.progress or not staging.version:
                    yield from at(Side.TARGET, write(staging, mutations, progress, durable=not reply.more))
            if first is None:
                first = reply.changes[0].version if reply.changes else reply.head
            fraction = (reply.head - first) / max(1, head - first) if reply.more else 1.0
            self._report(Step(pair.source.name, "copying", min(1.0, fraction), staging.progress.copied))

    def _compare(self, pair: _Pair) -> Generator[Asked, Any, None]:
        """Compare a store with its copy; leave it as not compared where the store was written to meanwhile."""
        now, name = now_ms(), pair.source.name
        progress, expected = pair.staging.progress, 2 * max(1, pair.staging.progress.copied)

        def report(before: int, entries: int) -> None:
            self._report(Step(name, "comparing", min(1.0, (before + entries) / expected), entries))

        adding = add_up(pair.source.id, now, progress.cursor, lambda entries: report(0, entries))
        original = yield from at(Side.SOURCE, adding)
        if original is None or (yield from at(Side.SOURCE, has_changed(pair.source.id, progress.cursor))):
            return
        read = original.total.entries
        adding = add_up(pair.staging.info.id, now, None, lambda entries: report(read, entries))
        copy = yield from at(Side.TARGET, adding)
        assert copy is not None  # noqa: S101 - for the type checker
        now = now_ms()
        if original.lasting(now) != copy.lasting(now):
            yield from at(Side.TARGET, drop(pair.staging))
            raise _unlike(name, self._source, original.lasting(now).entries, self._target, copy.lasting(now).entries)
        pair.compared_at, pair.total = progress.cursor, copy.total
        self._report(Step(name, "comparing", 1.0, copy.total.entries))


def _batches(reply: ChangesReply) -> Generator[tuple[list[Change], int], None, None]:
    """Divide a page where its values are large, and say up to which version each part goes."""
    batch: list[Change] = []
    size = 0
    for change in reply.changes:
        length = len(change.value or b"")
        if batch and size + length > paging.BATCH_BYTES:
            yield batch, batch[-1].version
            batch, size = [], 0
        batch.append(change)
        size += length
    yield batch, reply.head


def _mutations(changes: list[Change], start: int) -> Generator[Put | Delete, None, None]:
    now = now_ms()
    for change in changes:
        if is_alive(change, now):
            domain, key, value, _, _, ttl, expires_at = change
            assert value is not None  # noqa: S101 - for the type checker
            yield Put(domain, key, value, ttl, expires_at)
        elif change.version > start and change.domain != COPY:
            yield Delete(change.domain, change.key)  # it may have been copied before


def _unlike(store: str, source: str, there: int, target: str, here: int) -> DatabaseError:
    if there == here:
        found = f"both have {there} entries, but not the same ones"
    else:
        found = f"{source} has {there} entries, {target} {here}"
    return DatabaseError(
        f"the copy of store {store!r} is not like its source: {found}; it was thrown away, copy it again"
    )
