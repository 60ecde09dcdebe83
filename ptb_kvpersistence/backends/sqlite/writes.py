"""Writing the tables of one connection: the mutations of a commit, and what is swept.

Each call happens inside a write transaction that the caller began, and is one attempt on the calling thread.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME, lifetime, store_gone
from ptb_kvpersistence.backends.sqlite.reads import ALIVE, VERSION
from ptb_kvpersistence.backends.sqlite.schema import HEAD
from ptb_kvpersistence.model import CommitReply, Delete, Put, VersionCheck

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptb_kvpersistence.backends.sqlite.reads import Reads, StatementConnection
    from ptb_kvpersistence.model import Commit, SetDomain

    Lifetimes = Callable[[Put], tuple[int | None, int | None]]

# An update in place leaves the key's index alone; with the append to the feed, which the triggers make, that is
# about half of the pages that a row of its own for each version would change.
_PUT = """INSERT INTO entries(version, store, domain, key, value, updated_at, ttl, expires_at)
    VALUES(?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?)
    ON CONFLICT(store, domain, key) DO UPDATE SET version = excluded.version, value = excluded.value,
        updated_at = excluded.updated_at, ttl = excluded.ttl, expires_at = excluded.expires_at"""
_REPLACE = f"""UPDATE entries SET version = ?, value = CAST(? AS TEXT), updated_at = ?, ttl = ?, expires_at = ?
    WHERE store = ? AND domain = ? AND key = ? AND version = ? AND {ALIVE}"""
_STATE = f"""SELECT ({HEAD}), (SELECT keep FROM domains WHERE store = stores.id AND domain = ?)
    FROM stores WHERE id = ?"""
_STALE = """DELETE FROM feed WHERE version IN (
    SELECT feed.version FROM feed LEFT JOIN entries ON entries.entry = feed.entry
        WHERE feed.version BETWEEN ? AND ? AND entries.version IS NOT feed.version)"""
_NOWHERE: Final = Delete("", "")
_SLICE: Final = 200
_WORTH_GOING_ON: Final = _SLICE // 3
_IN_VAIN: Final = 3
"""Slices with little to drop after which a sweep ends; one alone may have been drawn where another sweep has been."""


class HalfWrittenError(Exception):
    """A check failed after something was written: roll back, and apply the commit anew, looking before writing."""


class Writes:
    """What one connection writes."""

    def __init__(self, connection: StatementConnection, reads: Reads) -> None:
        self._connection = connection
        self._execute = connection.statement
        self._reads = reads

    def is_applied(self, commit: str) -> bool:
        """Tell whether a commit of this id is remembered."""
        return self._execute("SELECT 1 FROM commits WHERE id = ?", (commit,)).fetchone() is not None

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
        is_quick = quick and _replaces(request)
        if request.checks and not is_quick:
            failed = self._reads.failed_checks(request.store, request.checks, now)
            if failed is not None:
                return failed
        head, life = self._state(request, now)
        if is_quick:
            versions = self._replace_all(request, now, head, life)
        else:
            versions = self._put_all(request, now, head, life) or self._mutate_all(request, now, head, life)
        if request.id is not None:
            self._execute("INSERT INTO commits VALUES(?, ?)", (request.id, now))
        return CommitReply(versions)

    def _state(self, request: Commit, now: int) -> tuple[int, Lifetimes]:
        """Give the highest version, and how long what is put will live, in as few statements as can be."""
        head, kept = 0, {}
        for mutation in request.mutations or (_NOWHERE,):
            domain = mutation.domain
            if domain in kept:
                continue
            row = self._execute(_STATE, (domain, request.store)).fetchone()
            if row is None:
                raise store_gone()
            head, kept[domain] = row
        return head, lambda put: lifetime(put, now, kept[put.domain])

    def _replace_all(self, request: Commit, now: int, head: int, life: Lifetimes) -> tuple[int, ...]:
        """Write a commit each of whose mutations replaces the very version that it checks, in one call."""
        store = request.store
        rows = [
            (version, put.value, now, *life(put), store, put.domain, put.key, check.version, now)
            for version, (put, check) in enumerate(zip(request.mutations, request.checks, strict=True), head + 1)
            if isinstance(put, Put) and isinstance(check, VersionCheck)
        ]
        if self._connection.executemany(_REPLACE, rows).rowcount != len(rows):
            raise HalfWrittenError
        return tuple(range(head + 1, head + 1 + len(rows)))

    def _put_all(self, request: Commit, now: int, head: int, life: Lifetimes) -> tuple[int, ...]:
        """Write a commit that only puts, in one call; gives nothing if it is another one."""
        rows = [
            (version, request.store, put.domain, put.key, put.value, now, *life(put))
            for version, put in enumerate(request.mutations, head + 1)
            if type(put) is Put
        ]
        if len(rows) < len(request.mutations) or not rows:
            return ()
        if len(rows) == 1:
            self._execute(_PUT, rows[0])
            return (head + 1,)
        self._connection.executemany(_PUT, rows)
        return tuple(range(head + 1, head + 1 + len(rows)))

    def _mutate_all(self, request: Commit, now: int, head: int, life: Lifetimes) -> tuple[int, ...]:
        versions = []
        for mutation in request.mutations:
            written = self._mutate(request.store, mutation, now, head + 1, life)
            head += written
            versions.append(head if written else 0)
        return tuple(versions)

    def _mutate(self, store: int, mutation: Put | Delete, now: int, version: int, life: Lifetimes) -> bool:
        if isinstance(mutation, Put):
            self._execute(_PUT, (version, store, mutation.domain, mutation.key, mutation.value, now, *life(mutation)))
            return True
        domain, key = mutation
        if self._execute(VERSION, (store, domain, key, now)).fetchone() is None:
            return False
        self._execute(_PUT, (version, store, domain, key, None, now, None, None))
        return True

    def set_domain(self, request: SetDomain) -> None:
        """Set how long entries of a domain are kept."""
        self._reads.check_store(request.store)
        self._execute(
            "INSERT OR REPLACE INTO domains(store, domain, keep) VALUES(?, ?, ?)",
            (request.store, request.domain, request.keep),
        )

    def sweep(self, limit: int, now: int) -> int:
        """Turn expired entries into tombstones, and drop tombstones and commits' ids that are old; few at a time."""
        expired = self._execute(
            "SELECT store, domain, key FROM entries WHERE expires_at <= ? LIMIT ?", (now, limit)
        ).fetchall()
        for version, (store, domain, key) in enumerate(expired, self._reads.head() + 1):
            self._execute(_PUT, (version, store, domain, key, None, now, None, None))
        old = now - TOMBSTONE_LIFETIME
        dropped = self._execute(
            "SELECT entry, store, version FROM entries WHERE value IS NULL AND updated_at < ?"
            " ORDER BY updated_at LIMIT ?",
            (old, limit),
        ).fetchall()
        for entry, store, version in dropped:
            self._execute("UPDATE stores SET horizon = max(horizon, ?) WHERE id = ?", (version, store))
            self._execute("DELETE FROM entries WHERE entry = ?", (entry,))
        self._execute("DELETE FROM commits WHERE committed_at < ?", (old,))
        return len(expired) + len(dropped)

    def sweep_feed(self, most: int) -> int:
        """Drop rows of the feed that no longer are their entry's latest change; a piece of it, drawn at random.

        So nobody has to remember where the last one stopped, and the feed stays below about twice the entries. Its last
        row stays, for the next version follows from it.

        Args:
            most: How many rows to look at; fewer when there is little to drop.

        Returns:
            How many were dropped.
        """
        execute = self._execute
        lowest, highest = execute("SELECT min(version), max(version) FROM feed").fetchone()
        if lowest is None:
            return 0
        dropped = in_vain = 0
        for _ in range(-(-most // _SLICE)):
            # From before the first one on, so that it has the chance of any other; no secret depends on it.
            first = random.randint(lowest - _SLICE, highest)  # noqa: S311
            last = execute(
                "SELECT max(version) FROM (SELECT version FROM feed WHERE version BETWEEN ? AND ? LIMIT ?)",
                (first, highest - 1, _SLICE),
            ).fetchone()[0]
            found = 0 if last is None else execute(_STALE, (first, last)).rowcount
            dropped += found
            in_vain += found < _WORTH_GOING_ON
            if in_vain == _IN_VAIN:
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
