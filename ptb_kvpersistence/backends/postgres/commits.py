"""A commit as the arguments of one function, and the function's rows as a reply; the numbers are in ``routines``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import lease_lost, store_gone
from ptb_kvpersistence.backends.postgres.arrays import Bigints, Jsons, Smallints, Texts
from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.model import Address, Commit, CommitReply, Delete, Put, RangeCheck, Record, VersionCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptb_kvpersistence.backends.postgres.exchange import Rows


def record(row: tuple[Any, ...]) -> Record | None:
    """Read a record; None where there is no value."""
    return None if row[0] is None else Record._make(row)


def bound(key: str) -> str:
    """Give the bound of a range that PostgreSQL takes, which has no NUL."""
    # As keys have none either, what follows "a\0..." follows "a", and begins at "a\1".
    return f"{key[: key.index(chr(0))]}\1" if "\0" in key else key


def fences_of(fences: Sequence[tuple[str, int]]) -> tuple[Any, ...]:
    """Give the arguments ``f_``."""
    if not fences:
        return None, None
    return Texts([name for name, _ in fences]), Bigints([token for _, token in fences])


def checks_of(checks: Sequence[VersionCheck | RangeCheck]) -> tuple[Any, ...]:
    """Give the arguments ``c_`` and ``r_``."""
    versions = [check for check in checks if isinstance(check, VersionCheck)]
    ranges = [check for check in checks if isinstance(check, RangeCheck)]
    arrays: list[Any] = [None] * 8
    if versions:
        domains, keys, numbers = zip(*versions, strict=True)
        arrays[:3] = Texts(domains), Texts(keys), Bigints(numbers)
    if ranges:
        domains, starts, stops = zip(*(check.range for check in ranges), strict=True)
        ends = [None if stop is None else bound(stop) for stop in stops]
        arrays[3:6] = Texts(domains), Texts(list(map(bound, starts))), Texts(ends)
        arrays[6:] = Bigints([check.since for check in ranges]), Bigints([check.at for check in ranges])
    return tuple(arrays)


def mutations_of(mutations: Sequence[Put | Delete]) -> tuple[Any, ...]:
    """Give the arguments ``m_``."""
    if not mutations:
        return None, None, None, None, None, None
    domains, keys = [item.domain for item in mutations], [item.key for item in mutations]
    puts = [item if isinstance(item, Put) else None for item in mutations]
    ttls, expires = [put and put.ttl for put in puts], [put and put.expires_at for put in puts]
    kinds = None
    if None in puts or len(set(zip(domains, keys, strict=True))) < len(keys):
        kinds = Smallints(_kinds(mutations))
    return (
        Texts(domains),
        Texts(keys),
        Jsons([put and put.value for put in puts]),
        Bigints(ttls) if any(ttl is not None for ttl in ttls) else None,
        Bigints(expires) if any(at is not None for at in expires) else None,
        kinds,
    )


def _kinds(mutations: Sequence[Put | Delete]) -> list[int]:
    """Say what each mutation does to its key, as far as that can be told here; ``routines`` has the numbers."""
    kinds: list[int] = []
    last: dict[tuple[str, str], int] = {}
    for number, mutation in enumerate(mutations):
        where = mutation[:2]
        before = last.get(where)
        if isinstance(mutation, Put):
            kind = 0
        elif before is None:
            kind = 1
        else:
            kind = 2 if isinstance(mutations[before], Put) else 3
        kinds.append(kind)
        if kind == 3:
            continue
        if before is not None:
            kinds[before] = {0: 4, 1: 6, 2: 5}[kinds[before]]
        last[where] = number
    return kinds


def commit_reply(request: Commit, rows: Rows, *, is_own_repeated: bool) -> CommitReply:
    """Read the reply; ``is_own_repeated``: that it was applied before means that it was applied now.

    Raises:
        StoreNotFoundError: The store was deleted.
        LeaseLostError: A fence did not hold.
    """
    outcome, first, skipped, item = rows[0][:4]
    if outcome == "gone":
        raise store_gone()
    if outcome == "fence":
        raise lease_lost(request.fences[item - 1].name)
    if outcome == "range":
        return CommitReply(range_conflict=True)
    if outcome == "version":
        checks = [check for check in request.checks if isinstance(check, VersionCheck)]
        return CommitReply(
            conflicts={Address(*checks[row[3] - 1][:2]): record(row[4:]) for row in rows},
        )
    if outcome == "before" and not is_own_repeated:
        return CommitReply(applied_before=True)
    if outcome not in ("done", "before"):
        raise DatabaseError(f"the server gave an unknown outcome, {outcome}; update the package")
    count, nothing = len(request.mutations), set(skipped or ())
    if not nothing:
        return CommitReply(tuple(range(first, first + count)))
    version, versions = first, []
    for number in range(1, count + 1):
        versions.append(0 if number in nothing else version)
        version += number not in nothing
    return CommitReply(tuple(versions))


def claim_reply(rows: Rows) -> bool:
    """Read whether a commit was applied before its id was used up.

    Raises:
        StoreNotFoundError: The store was deleted.
    """
    outcome, _, skipped, _ = rows[0][:4]
    if outcome == "gone":
        raise store_gone()
    return bool(outcome == "before" and skipped != [])
