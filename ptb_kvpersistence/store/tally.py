"""Count and digest of many entries, whatever their order: whether two stores, or a file and a store, hold the same.

The digest is the sum, modulo 2**256, of the SHA-256 of each entry. An entry is hashed as the lengths in bytes of its
domain, key and value (-1: a deletion), its ttl and its expires_at, each in decimal (``-``: none) with a colon behind,
followed by the UTF-8 bytes of domain and key and the bytes of the value; a domain's setting as ``keep:``, the length of
the domain, a colon, the milliseconds, a colon and the domain. Reading and writing live elsewhere.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptb_kvpersistence.model import Change, Put

_MODULUS: Final = 1 << 256
SKEW: Final = 60_000
"""Milliseconds by which clocks may differ; what expires that soon is there or not, by whoever is asked."""
_LASTING: Final = 0
_OTHERS: Final = -1


class Sum(NamedTuple):
    """How many entries, and the sum of their hashes."""

    entries: int = 0
    hashes: int = 0

    @property
    def digest(self) -> str:
        """The sum as 64 hexadecimal digits."""
        return f"{self.hashes:064x}"


class Tally:
    """Adds entries up.

    So that two tallies can be compared though entries expire while they are made, those that expire are summed in
    groups by how long they still have, each group twice as long as the one before.

    Args:
        at: Milliseconds since the epoch when it was begun; the same for two that are to be compared.
    """

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self._sums: dict[int, list[int]] = {}

    def add(self, entry: Change | Put, times: int = 1) -> None:
        """Add an entry, or take it away again (``times=-1``)."""
        left = _LASTING if entry.expires_at is None else max(1, (entry.expires_at - self.at).bit_length())
        self._add(left, _entry_hash(entry), times)

    def add_deletion(self, domain: str, key: str) -> None:
        """Add the deletion of an entry."""
        self._add(_OTHERS, _hash(f"{_sizes(domain, key)}-1:-:-:", domain, key), 1)

    def add_setting(self, domain: str, keep: int) -> None:
        """Add a domain's setting."""
        self._add(_OTHERS, _hash(f"keep:{len(domain.encode())}:{keep}:", domain), 1)

    def _add(self, group: int, number: int, times: int) -> None:
        added = self._sums.setdefault(group, [0, 0])
        added[0] += times
        added[1] += times * number

    @property
    def total(self) -> Sum:
        """All that was added."""
        return _summed(self._sums.values())

    @property
    def stored(self) -> Sum:
        """All entries that were added, without settings and deletions."""
        return _summed(each for left, each in self._sums.items() if left != _OTHERS)

    def lasting(self, now: int) -> Sum:
        """All entries that were added, but for those that have expired by ``now``, or might have by another clock."""
        until = now - self.at + SKEW
        return _summed(
            each
            for left, each in self._sums.items()
            if left == _LASTING or (left > _LASTING and (1 << (left - 1)) > until)
        )


def _summed(sums: Iterable[list[int]]) -> Sum:
    entries = hashes = 0
    for each in sums:
        entries += each[0]
        hashes += each[1]
    return Sum(entries, hashes % _MODULUS)


def _sizes(domain: str, key: str) -> str:
    return f"{len(domain.encode())}:{len(key.encode())}:"


def _entry_hash(entry: Change | Put) -> int:
    value = entry.value or b""
    ttl = "-" if entry.ttl is None else entry.ttl
    expires_at = "-" if entry.expires_at is None else entry.expires_at
    head = f"{_sizes(entry.domain, entry.key)}{len(value)}:{ttl}:{expires_at}:"
    return _hash(head, entry.domain, entry.key, value)


def _hash(head: str, domain: str, key: str = "", value: bytes = b"") -> int:
    return int.from_bytes(sha256(b"".join((head.encode(), domain.encode(), key.encode(), value))).digest(), "big")
