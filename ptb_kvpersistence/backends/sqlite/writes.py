"""Writing the tables of one connection: the mutations of a commit, and what is swept.

Each call happens inside a write transaction that the caller began, and is one attempt on the calling thread.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME, lifetime
from ptb_kvpersistence.backends.sqlite.reads import ALIVE, VERSION
from ptb_kvpersistence.model import CommitReply, Put, VersionCheck

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from ptb_kvpersistence.backends.sqlite.reads import Reads
    from ptb_kvpersistence.model import Commit, Delete, SetDomain

    Lifetimes = Callable[[Put], tuple[int | None, int | None]]

# An update in place leaves the key's index alone; with the append to the feed, which the triggers make, that is
# about half of the pages that a row of its own for each version would change.
_PUT = """INSERT INTO entries(version, store, domain, key, value, updated_at, ttl, expires_at)
    VALUES(?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?)
    ON CONFLICT(store, domain, key) DO UPDATE SET version = excluded.version, value = excluded.value,
        updated_at = excluded.updated_at, ttl = excluded.ttl, expires_at = excluded.expires_at"""
_REPLACE = f"""UPDATE entries SET version = ?, value = CAST(? AS TEXT), updated_at = ?, ttl = ?, expires_at = ?
    WHERE store = ? AND domain = ? AND key = ? AND version = ? AND {ALIVE}"""
_STALE = """DELETE FROM feed WHERE version IN (
    SELECT feed.version FROM feed LEFT JOIN entries ON entries.entry = feed.entry
        WHERE feed.version BETWEEN ? AND ? AND entries.version IS NOT feed.version)"""
_SLICE: Final = 200
_WORTH_GOING_ON: Final = _SLICE // 3


class HalfWrittenError(Exception):
    """A check failed after something was written: roll back, and apply the commit anew, looking before writing."""


class Writes:
    """What one connection writes."""

    def __init__(self, connection: sqlite3.Connection, reads: Reads) -> None:
        self._connection = connection
        self._reads = reads

    def is_applied(self, commit: str) -> bool:
        """Tell whether a commit of this id is remembered."""
        return self._connection.execute("SELECT 1 FROM commits WHERE id = ?", (commit,)).fetchone() is not None

    def apply(self, request: Commit, now: int, *, quick: bool = False) -> CommitReply:
        """Judge a commit, and write it.

        Args:
            request: The commit.
            now: The time.
            quick: Check while writing, where the commit is of that kind.

        Raises:
            HalfWrittenError: It was quick, and a check failed.
        """
        if request.id is not None and self.is_applied(request.id):
            return CommitReply(applied_before=True)
        if quick and _replaces(request):
            versions = self._replace_all(request, now, self._lifetimes(request, now))
        else:
            failed = self._reads.failed_checks(request.store, request.checks, now)
            if failed is not None:
                return failed
            self._reads.check_store(request.store)
            life = self._lifetimes(request, now)
            versions = self._put_all(request, now, life) or tuple(
                self._mutate(request.store, mutation, now, life) for mutation in request.mutations
            )
        if request.id is not None:
            self._connection.execute("INSERT INTO commits VALUES(?, ?)", (request.id, now))
        return CommitReply(versions)

    def _lifetimes(self, request: Commit, now: int) -> Lifetimes:
        domains = {mutation.domain for mutation in request.mutations}
        marks = ", ".join("?" * len(domains))
        statement = f"SELECT domain, keep FROM domains WHERE store = ? AND domain IN ({marks}) AND keep IS NOT NULL"
        kept = dict(self._connection.execute(statement, (request.store, *domains)))
        return lambda put: lifetime(put, now, kept.get(put.domain))

    def _replace_all(self, request: Commit, now: int, life: Lifetimes) -> tuple[int, ...]:
        """Write a commit each of whose mutations replaces the very version that it checks, in one call."""
        store, first = request.store, self._reads.head() + 1
        rows = [
            (version, put.value, now, *life(put), store, put.domain, put.key, check.version, now)
            for version, (put, check) in enumerate(zip(request.mutations, request.checks, strict=True), first)
            if isinstance(put, Put) and isinstance(check, VersionCheck)
        ]
        if self._connection.executemany(_REPLACE, rows).rowcount != len(rows):
            raise HalfWrittenError
        return tuple(range(first, first + len(rows)))

    def _put_all(self, request: Commit, now: int, life: Lifetimes) -> tuple[int, ...]:
        """Write a commit that only puts, in one call."""
        store, first = request.store, self._reads.head() + 1
        rows = [
            (version, store, put.domain, put.key, put.value, now, *life(put))
            for version, put in enumerate(request.mutations, first)
            if isinstance(put, Put)
        ]
        if len(rows) < len(request.mutations) or not rows:
            return ()
        if len(rows) == 1:
            self._connection.execute(_PUT, rows[0])
        else:
            self._connection.executemany(_PUT, rows)
        return tuple(range(first, first + len(rows)))

    def _mutate(self, store: int, mutation: Put | Delete, now: int, life: Lifetimes) -> int:
        if isinstance(mutation, Put):
            return self._put(store, mutation.domain, mutation.key, mutation.value, now, life(mutation))
        domain, key = mutation
        if self._connection.execute(VERSION, (store, domain, key, now)).fetchone() is None:
            return 0
        return self._put(store, domain, key, None, now)

    def _put(
        self, store: int, domain: str, key: str, value: bytes | None, now: int, life: tuple[Any, Any] = (None, None)
    ) -> int:
        version = self._reads.head() + 1
        self._connection.execute(_PUT, (version, store, domain, key, value, now, *life))
        return version

    def set_domain(self, request: SetDomain) -> None:
        """Set how long entries of a domain are kept."""
        self._reads.check_store(request.store)
        self._connection.execute(
            "INSERT OR REPLACE INTO domains(store, domain, keep) VALUES(?, ?, ?)",
            (request.store, request.domain, request.keep),
        )

    def sweep(self, limit: int, now: int) -> int:
        """Turn expired entries into tombstones, and drop tombstones and commits' ids that are old."""
        expired = self._connection.execute(
            "SELECT store, domain, key FROM entries WHERE expires_at <= ? LIMIT ?", (now, limit)
        ).fetchall()
        for store, domain, key in expired:
            self._put(store, domain, key, None, now)
        old = (now - TOMBSTONE_LIFETIME,)
        self._connection.execute(
            "UPDATE stores SET horizon = max(horizon, coalesce((SELECT max(version) FROM entries"
            " WHERE store = stores.id AND value IS NULL AND updated_at < ?), 0))",
            old,
        )
        dropped = self._connection.execute("DELETE FROM entries WHERE value IS NULL AND updated_at < ?", old)
        self._connection.execute("DELETE FROM commits WHERE committed_at < ?", old)
        return len(expired) + dropped.rowcount

    def sweep_feed(self, most: int) -> int:
        """Drop rows of the feed that no longer are their entry's latest change; a piece of it, drawn at random.

        So nobody has to remember where the last one stopped, and the feed stays below about twice the entries. Its last
        row stays, for the next version follows from it.

        Args:
            most: How many rows to look at; fewer when there is little to drop.

        Returns:
            How many were dropped.
        """
        execute = self._connection.execute
        lowest, highest = execute("SELECT min(version), max(version) FROM feed").fetchone()
        if lowest is None:
            return 0
        dropped = 0
        for _ in range(-(-most // _SLICE)):
            # From before the first one on, so that it has the chance of any other; no secret depends on it.
            first = random.randint(lowest - _SLICE, highest)  # noqa: S311
            last = execute(
                "SELECT max(version) FROM (SELECT version FROM feed WHERE version BETWEEN ? AND ? LIMIT ?)",
                (first, highest - 1, _SLICE),
            ).fetchone()[0]
            found = 0 if last is None else execute(_STALE, (first, last)).rowcount
            dropped += found
            if found < _WORTH_GOING_ON:
                break
        return dropped


def _replaces(request: Commit) -> bool:
    """Tell whether each mutation is a put that checks the version which it replaces, as in a flush."""
    mutations, checks = request.mutations, request.checks
    return len(mutations) == len(checks) > 0 and all(
        isinstance(put, Put)
        and isinstance(check, VersionCheck)
        and check.version > 0
        and (put.key, put.domain) == (check.key, check.domain)
        for put, check in zip(mutations, checks, strict=True)
    )
