"""Stores out of a database as JSON lines, and back into one, without I/O: generators like the operations.

The lines themselves are :mod:`.jsonlines`; how entries get into a database at once is :mod:`.staging`.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.errors import DatabaseError, StoreNotFoundError
from ptb_kvpersistence.model import Address, Delete, DomainInfo, GetMany, ListDomains, Put
from ptb_kvpersistence.store import jsonlines, paging
from ptb_kvpersistence.store.jsonlines import Begin, End
from ptb_kvpersistence.store.paging import COPY, Pages, add_up, head_of, is_alive
from ptb_kvpersistence.store.staging import begin, drop, settle, swap, write
from ptb_kvpersistence.store.tally import Tally
from ptb_kvpersistence.store.transfer import Moved, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ptb_kvpersistence.model import Record, Requested, StoreInfo
    from ptb_kvpersistence.store.jsonlines import Line
    from ptb_kvpersistence.store.staging import Staging

    Report = Callable[[Step], None]


def dump(
    store: StoreInfo, put_line: Callable[[bytes], object], report: Report
) -> Generator[Requested[Any], Any, Moved]:
    """Write the lines of a store.

    What is written to the store meanwhile comes as lines behind those that it replaces, so that all of them together
    are the store as it was at the end.
    """
    start = yield from head_of(store.id)
    tally, pages, entries = Tally(), Pages(store.id), 0
    put_line(jsonlines.begin_line(store.name))
    for info in (yield ListDomains(store.id)):
        if info.domain != COPY:
            tally.add_setting(*info)
            put_line(jsonlines.setting_line(info))
    first: int | None = None
    while pages.more:
        reply = yield from pages.next()
        now = now_ms()
        for change in reply.changes:
            domain, key, value, version, _, ttl, expires_at = change
            if value is not None and is_alive(change, now):
                tally.add(change)
                put_line(jsonlines.entry_line(domain, key, value, ttl, expires_at))
                entries += 1
            elif version > start and domain != COPY:
                tally.add_deletion(domain, key)
                put_line(jsonlines.deletion_line(domain, key))
        if first is None:
            first = reply.changes[0].version if reply.changes else reply.head
        fraction = (reply.head - first) / max(1, start - first) if reply.more else 1.0
        report(Step(store.name, "exporting", min(1.0, fraction), entries))
    put_line(jsonlines.end_line(store.name, tally.total))
    return Moved(store.name, tally.stored.entries, tally.stored.digest)


class Section(NamedTuple):
    """The lines of a store in a file."""

    store: str
    lines: int
    digest: str


def check(lines: Iterator[Line]) -> list[Section]:
    """Read all lines, which checks them, and tell what there is."""
    return [Section(*line) for line in lines if isinstance(line, End)]


class Load:
    """Writes the lines of a file to a database; its stores appear there when all are complete and compared.

    Args:
        file: What to call the file in messages.
        target: What to call the database.
        sections: The stores to write.
        overwrite: Replace stores that have entries.
        report: Called at each step.
    """

    def __init__(self, file: str, target: str, sections: Iterable[Section], *, overwrite: bool, report: Report) -> None:
        self._file = file
        self._target = target
        self._sections = {section.store: section for section in sections}
        self._overwrite = overwrite
        self._report = report
        self._stagings: dict[str, Staging] = {}

    def run(self, lines: Iterator[Line]) -> Generator[Requested[Any], Any, list[Moved]]:
        """Write.

        Raises:
            ConfigurationError: A store in the database has entries and is not to be replaced.
            StoreInUseError: Bots are attached to a store that would be replaced.
            DatabaseError: What was written is not what is in the file, or the database cannot be used.
        """
        origins = {name: f"lines {section.digest}" for name, section in self._sections.items()}
        self._stagings = yield from begin(origins, overwrite=self._overwrite, resume=False)
        moved = {name: Moved(name, 0, "") for name in self._stagings}
        for line in lines:
            staging = self._stagings.get(line.store) if isinstance(line, Begin) else None
            if staging is not None and not staging.is_done:
                domains, tally = yield from self._fill(staging, lines)
                moved[staging.name] = yield from self._compare(staging, tally)
                yield from settle(staging.info, domains)
        yield from swap(self._stagings, overwrite=self._overwrite)
        return list(moved.values())

    def discard(self) -> Generator[Requested[Any], Any, None]:
        """Throw away what was written by an attempt that failed."""
        for staging in self._stagings.values():
            if not staging.is_done:
                with suppress(StoreNotFoundError):  # thrown away already
                    yield from drop(staging)

    def _fill(
        self, staging: Staging, lines: Iterator[Line]
    ) -> Generator[Requested[Any], Any, tuple[list[DomainInfo], Tally]]:
        tally, domains = Tally(now_ms()), []
        batch: dict[Address, Put | Delete] = {}
        size = done = 0
        for line in takewhile(lambda line: not isinstance(line, End), lines):
            done += 1
            if isinstance(line, DomainInfo):
                domains.append(line)
            elif isinstance(line, (Put, Delete)):
                batch[Address(line.domain, line.key)] = line
                size += len(line.value) if isinstance(line, Put) else 0
            if len(batch) >= paging.BATCH or size >= paging.BATCH_BYTES:
                yield from self._write(staging, batch, tally, done)
                batch, size = {}, 0
        yield from self._write(staging, batch, tally, done, durable=True)
        return domains, tally

    def _write(
        self, staging: Staging, batch: dict[Address, Put | Delete], tally: Tally, done: int, *, durable: bool = False
    ) -> Generator[Requested[Any], Any, None]:
        addresses = tuple(batch)
        replaced: tuple[Record | None, ...] = ()
        if addresses and staging.version:
            replaced = yield GetMany(staging.info.id, addresses)
        for address, record in zip(addresses, replaced, strict=False):
            if record is not None:
                tally.add(Put(*address, record.value, record.ttl, record.expires_at), -1)
        mutations: list[Put | Delete] = []
        for address, line in batch.items():
            if isinstance(line, Put) and (line.expires_at is None or line.expires_at > tally.at):
                tally.add(line)
                mutations.append(line)
            else:
                mutations.append(Delete(*address))
        progress = staging.progress._replace(copied=tally.total.entries)
        yield from write(staging, mutations, progress, durable=durable)
        fraction = done / max(1, self._sections[staging.name].lines)
        self._report(Step(staging.name, "importing", fraction, tally.total.entries))

    def _compare(self, staging: Staging, tally: Tally) -> Generator[Requested[Any], Any, Moved]:
        def report(entries: int) -> None:
            self._report(Step(staging.name, "comparing", entries / max(1, tally.total.entries), entries))

        copy = yield from add_up(staging.info.id, tally.at, None, report)
        assert copy is not None  # noqa: S101 - for the type checker
        now = now_ms()
        there, here = tally.lasting(now), copy.lasting(now)
        if there != here:
            message = (
                f"store {staging.name!r} in {self._target} is not like {self._file}: {here.entries} entries instead of "
                f"{there.entries}, or not the same ones; it was thrown away"
            )
            raise DatabaseError(message)
        return Moved(staging.name, copy.total.entries, copy.total.digest)
