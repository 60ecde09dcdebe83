"""What is stored under which key, so that a program in any language can read it; nothing is read or written here.

All keys begin with a hash tag, so that what belongs together lies on one node of a cluster; ``kv`` is the prefix, which
``?prefix=`` in the URL changes. Numbers are decimal text; times are milliseconds since the epoch by the server's clock.

========================  ======  ====================================================================================
``{kv}:format``           string  number of this layout
``{kv}:stores``           hash    name of a store -> ``<id> <who created it>``
``{kv}:last``             string  the highest id that was given to a store
``{kv:<id>}:meta``        hash    ``incarnation``, ``head`` (highest version), ``horizon`` (deletions up to here may be
                                  forgotten), ``swept_at``; instead of these ``doomed`` for a day after its deletion
``{kv:<id>}:entries``     hash    address -> ``<version> <updated_at> <ttl> <expires_at>``, a newline, the JSON text;
                                  ``-`` stands for no ttl or no end. An address is domain, NUL, key in UTF-8
``{kv:<id>}:index``       zset    the addresses of all entries, all with score 0, which sorts them by code point
``{kv:<id>}:feed``        zset    address -> version of its latest change; one without an entry was deleted
``{kv:<id>}:tombstones``  zset    address that was deleted -> when
``{kv:<id>}:expiry``      zset    address of an entry that ends -> when; past that time it is to be taken as absent
``{kv:<id>}:domains``     hash    domain -> milliseconds for which its entries are kept from their writing on
``{kv:<id>}:commits``     zset    id of a commit -> when it was applied; remembered for seven days
``{kv:<id>}:lane:<lane>`` string  the last commit of one sender: its number there, first version, and a mark per
                                  mutation (``0`` for a deletion of nothing; no marks: none was); for ten minutes
``{kv:<id>}:exclusive``   string  ``<token> <channel>`` of the exclusive session; it is over when nobody listens to the
                                  channel on this node
``{kv:<id>}:leases``      hash    name of a lock -> ``<token> <expires_at> <request> <request> <holder>``
``{kv:<id>}:ends``        zset    name of a lock -> when its lease ends or was given back
``{kv:<id>}:lines``       hash    name of a lock -> ``<seen_at> <holder>``, NUL, for everybody who waits, in order
``{kv:<id>}:bots``        hash    bot, NUL, who uses it -> ``<attached_at> <last_seen> <1 or 0: is attached>``
========================  ======  ====================================================================================

Channels: ``kv:changed`` gets ``<id> <version>`` with each commit, and ``<id> doomed`` when a store is deleted;
``kv:held:<...>`` are listened to by those who hold an exclusive session. Whoever writes by other means must do so
in one script, which takes the next version, ``max(head + 1, microseconds of TIME)``, and keeps all of the keys in step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.crc import key_slot

from ptb_kvpersistence.model import Record

if TYPE_CHECKING:
    from ptb_kvpersistence.model import KeyRange

FORMAT: Final = 1


class StoreKeys:
    """The keys of one store.

    Attributes:
        slot: The hash slot that all of them are in.
    """

    def __init__(self, prefix: str, store: int) -> None:
        tag = f"{{{prefix}:{store}}}:".encode()
        self.slot = key_slot(tag)
        self.meta = tag + b"meta"
        self.entries = tag + b"entries"
        self.index = tag + b"index"
        self.feed = tag + b"feed"
        self.tombstones = tag + b"tombstones"
        self.expiry = tag + b"expiry"
        self.domains = tag + b"domains"
        self.commits = tag + b"commits"
        self.exclusive = tag + b"exclusive"
        self.leases = tag + b"leases"
        self.ends = tag + b"ends"
        self.lines = tag + b"lines"
        self.bots = tag + b"bots"
        self._lane = tag + b"lane:"
        self.reading = (self.meta, self.entries, self.index, self.feed, self.expiry, self.tombstones)
        self.writing = (*self.reading, self.domains, self.commits, self.exclusive, self.leases)
        self.sweeping = (*self.writing, self.ends, self.lines)
        self.all = (*self.sweeping, self.bots)
        self.locking = (self.meta, self.leases, self.ends, self.lines)

    def lane(self, lane: bytes) -> bytes:
        """The key that remembers the last commit of a sender."""
        return self._lane + lane


class RegistryKeys:
    """The keys of the list of stores.

    Attributes:
        slot: The hash slot that all of them are in.
    """

    def __init__(self, prefix: str) -> None:
        tag = f"{{{prefix}}}:".encode()
        self.slot = key_slot(tag)
        self.format = tag + b"format"
        self.stores = tag + b"stores"
        self.last = tag + b"last"


def address(domain: str, key: str) -> bytes:
    """The member that stands for a key of a domain."""
    return f"{domain}\0{key}".encode()


def split(member: bytes) -> tuple[str, str]:
    """Domain and key of a member."""
    domain, _, key = member.decode().partition("\0")
    return domain, key


def bounds(keys: KeyRange) -> tuple[bytes, bytes]:
    """The first member of a range, and the first behind it."""
    stop = f"{keys.domain}\x01" if keys.stop is None else f"{keys.domain}\0{keys.stop}"
    return f"{keys.domain}\0{keys.start}".encode(), stop.encode()


def record(stored: bytes | None) -> Record | None:
    """Read an entry as stored; None stays None."""
    if stored is None:
        return None
    header, _, value = stored.partition(b"\n")
    version, updated_at, ttl, expires_at = header.split(b" ")
    return Record(value, int(version), int(updated_at), _optional(ttl), _optional(expires_at))


def _optional(number: bytes) -> int | None:
    return None if number == b"-" else int(number)
