"""Reading the tables of one connection: entries, pages, counts, the change feed, and the checks of a commit.

Each call is one attempt on the calling thread; who calls sees to a snapshot where several statements need one.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import store_gone
from ptb_kvpersistence.backends.sqlite.schema import HEAD
from ptb_kvpersistence.model import (
    Address,
    Change,
    Changes,
    ChangesReply,
    CommitReply,
    Count,
    DomainInfo,
    KeyRange,
    Page,
    PageReply,
    Record,
    VersionCheck,
)

if TYPE_CHECKING:
    from ptb_kvpersistence.model import ListDomains, RangeCheck

    Checks = tuple[VersionCheck | RangeCheck, ...]

ALIVE: Final = "value IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
VERSION: Final = f"SELECT version FROM entries WHERE store = ? AND domain = ? AND key = ? AND {ALIVE}"
_FIELDS = "CAST(value AS BLOB), version, updated_at, ttl, expires_at"
_GET = f"SELECT {_FIELDS} FROM entries WHERE store = ? AND domain = ? AND key = ? AND {ALIVE}"
_EXISTS = "SELECT 1 FROM stores WHERE id = ?"
# Of an entry only its latest change is there; rows of the feed that point to earlier ones wait to be swept.
_CHANGED = "FROM feed CROSS JOIN entries ON entries.entry = feed.entry AND entries.version = feed.version"
_FEED_FIELDS = "CAST(value AS BLOB), feed.version, updated_at, ttl, expires_at"
# Of the whole file, since the index on it knows no stores.
_NEXT_EXPIRY = "SELECT min(expires_at) FROM entries WHERE expires_at IS NOT NULL"
_IN_ONE_STATEMENT = 500


class StatementConnection(sqlite3.Connection):
    """A connection with a way to run statements for which a subclass has no other meaning."""

    statement = sqlite3.Connection.execute


class Reads:
    """What one connection reads."""

    def __init__(self, connection: StatementConnection) -> None:
        self._execute = connection.statement

    def check_store(self, store: int) -> None:
        """Raise StoreNotFoundError where the store is gone; entries go with it, so only who found none has to ask."""
        if self._execute(_EXISTS, (store,)).fetchone() is None:
            raise store_gone()

    def head(self) -> int:
        """Give the highest version ever given."""
        (head,) = self._execute(HEAD).fetchone()
        return int(head)

    def record(self, store: int, domain: str, key: str, now: int) -> Record | None:
        """Read an entry that is alive."""
        row = self._execute(_GET, (store, domain, key, now)).fetchone()
        return None if row is None else tuple.__new__(Record, row)  # half the time of Record._make

    def page(self, request: Page, now: int) -> PageReply:
        """Read a page of a range."""
        where, parameters = range_clause(request.store, request.range)
        order = "DESC" if request.reverse else "ASC"
        rows = self._execute(
            f"SELECT key, {_FIELDS} FROM entries WHERE {where} AND {ALIVE} ORDER BY key {order} LIMIT ?",
            (*parameters, now, request.limit + 1),
        ).fetchall()
        items = [(row[0], Record(*row[1:])) for row in rows[: request.limit]]
        if not items:
            self.check_store(request.store)
        return PageReply(items, len(rows) > request.limit)

    def count(self, request: Count, now: int) -> int:
        """Count the entries of a range."""
        where, parameters = range_clause(request.store, request.range)
        statement = f"SELECT count(*) FROM entries WHERE {where} AND {ALIVE}"
        counted = int(self._execute(statement, (*parameters, now)).fetchone()[0])
        if not counted:
            self.check_store(request.store)
        return counted

    def domains(self, request: ListDomains) -> tuple[DomainInfo, ...]:
        """List the domains that have a setting."""
        statement = "SELECT domain, keep FROM domains WHERE store = ? AND keep IS NOT NULL ORDER BY domain"
        found = tuple(map(DomainInfo._make, self._execute(statement, (request.store,))))
        if not found:
            self.check_store(request.store)
        return found

    def changes(self, request: Changes, now: int) -> ChangesReply:
        """Read the feed; inside a snapshot."""
        wanted, domains = "", request.domains or ()
        if request.domains is not None:
            wanted = f"AND domain IN ({', '.join('?' * len(domains))})"
        info = self._execute(
            f"SELECT incarnation, horizon, ({HEAD}), ({_NEXT_EXPIRY}) FROM stores WHERE id = ?", (request.store,)
        ).fetchone()
        if info is None:
            raise store_gone()
        rows = self._execute(
            f"SELECT domain, key, {_FEED_FIELDS} {_CHANGED}"
            f" WHERE feed.store = ? AND feed.version > ? {wanted} ORDER BY feed.version LIMIT ?",
            (request.store, request.since, *domains, request.limit + 1),
        ).fetchall()
        incarnation, horizon, head, expires_at = info
        more = len(rows) > request.limit
        changes = list(map(Change._make, rows[: request.limit]))
        # Also below the horizon a reader gets all that is there, page by page.
        head = changes[-1].version if more else max(head, horizon)
        expires_in = None if expires_at is None else expires_at - now
        return ChangesReply(changes, head, horizon, incarnation, more, expires_in)

    def failed_checks(self, store: int, checks: Checks, now: int) -> CommitReply | None:
        """Compare what a commit relies on with what is there; inside a snapshot."""
        conflicts: dict[Address, Record | None] = {}
        execute = self._execute
        if self._are_current(store, checks, now):
            return None
        for check in checks:
            if isinstance(check, VersionCheck):
                row = execute(VERSION, (store, check.domain, check.key, now)).fetchone()
                if (0 if row is None else row[0]) != check.version:
                    record = self.record(store, check.domain, check.key, now)
                    conflicts[Address(check.domain, check.key)] = record
            else:
                where, parameters = range_clause(store, check.range)
                statement = (
                    f"SELECT 1 FROM entries WHERE {where} AND (version > ? OR (expires_at > ? AND expires_at <= ?))"
                )
                if execute(statement, (*parameters, check.since, check.at, now)).fetchone():
                    return CommitReply(range_conflict=True)
        return CommitReply(conflicts=conflicts) if conflicts else None

    def _are_current(self, store: int, checks: Checks, now: int) -> bool:
        """Whether all that is checked are versions, and all of them are still there: the feed finds them quickly."""
        versions = [check.version for check in checks if isinstance(check, VersionCheck) and check.version]
        if len(versions) < len(checks):
            return False
        found: set[Any] = set()
        for start in range(0, len(versions), _IN_ONE_STATEMENT):
            part = versions[start : start + _IN_ONE_STATEMENT]
            marks = ", ".join("?" * len(part))
            statement = (
                f"SELECT domain, key, feed.version {_CHANGED}"
                f" WHERE feed.version IN ({marks}) AND feed.store = ? AND {ALIVE}"
            )
            found.update(self._execute(statement, (*part, store, now)))
        return found.issuperset(checks)


def range_clause(store: int, keys: KeyRange) -> tuple[str, tuple[Any, ...]]:
    """Build the condition for a range of keys, and its parameters."""
    clause, parameters = "store = ? AND domain = ? AND key >= ?", (store, keys.domain, keys.start)
    if keys.stop is None:
        return clause, parameters
    return f"{clause} AND key < ?", (*parameters, keys.stop)
