"""The frozen values that travel between the floors: records, checks, mutations, requests and replies.

No I/O, no encoding: a value is the JSON text that the codec made, as UTF-8 bytes, and opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from ptb_kvpersistence.errors import InvalidKeyError

R = TypeVar("R")

MAX_KEY_BYTES: Final = 1024
_SURELY_SHORT: Final = MAX_KEY_BYTES // 4
"""Characters; no character takes more than four bytes."""
RESERVED_PREFIX: Final = "ptb:"


class Absent(Enum):
    """The type of :data:`ABSENT`."""

    ABSENT = "absent"

    def __bool__(self) -> Literal[False]:
        return False


ABSENT: Final = Absent.ABSENT
"""No entry; JSON ``null`` is a value, this is none."""


class Address(NamedTuple):
    """Where an entry lives inside a store."""

    domain: str
    key: str


class Record(NamedTuple):
    """An entry as stored.

    Attributes:
        value: JSON text, UTF-8.
        version: Assigned by the database at the write.
        updated_at: Milliseconds since the epoch.
        ttl: Lifetime in milliseconds that the writer asked for, if any.
        expires_at: Milliseconds since the epoch, if it expires.
    """

    value: bytes
    version: int
    updated_at: int
    ttl: int | None = None
    expires_at: int | None = None


class Change(NamedTuple):
    """The latest change of one key; ``value`` ``None`` means that the entry was deleted."""

    domain: str
    key: str
    value: bytes | None
    version: int
    updated_at: int
    ttl: int | None = None
    expires_at: int | None = None


def check_name(name: object, what: str = "key", *, allow_empty: bool = False) -> str:
    """Check a key, a domain or a store name.

    Args:
        name: What the user passed.
        what: The word for it in the message.
        allow_empty: Whether ``""`` is fine (the root domain).

    Returns:
        The name.

    Raises:
        InvalidKeyError: It is no str, empty, too long, or holds a NUL or a lone surrogate.
    """
    if not isinstance(name, str):
        reason = f"a {what} must be a str, not {type(name).__name__}"
    elif not name and not allow_empty:
        reason = f"a {what} must not be empty"
    elif "\0" in name:
        reason = f"a {what} must not contain a NUL character"
    else:
        try:
            size = len(name) if name.isascii() else len(name.encode("utf-8"))
        except UnicodeEncodeError:
            reason = f"a {what} must not contain a lone surrogate"
        else:
            if size <= MAX_KEY_BYTES:
                return str.__str__(name)  # not str(): of a str that is an Enum member that is its name
            reason = f"a {what} takes at most {MAX_KEY_BYTES} UTF-8 bytes, this one has {size}"
    raise InvalidKeyError(f"{reason}; use another name", reason=reason)


def check_address(domain: str, key: object) -> Address:
    """Check a key together with its (already checked) domain.

    Raises:
        InvalidKeyError: The key is wrong, or both together are too long.
    """
    # What nearly every key is, without the cost of finding out why another one is wrong.
    if type(key) is str and key and key.isascii() and len(domain) + len(key) <= _SURELY_SHORT and "\0" not in key:
        return tuple.__new__(Address, (domain, key))
    checked = check_name(key)
    if len(domain) + len(checked) > _SURELY_SHORT:
        size = len(domain.encode("utf-8")) + len(checked.encode("utf-8"))
        if size > MAX_KEY_BYTES:
            reason = f"key and domain together take at most {MAX_KEY_BYTES} UTF-8 bytes, these have {size}"
            raise InvalidKeyError(f"{reason}; shorten one of them", reason=reason)
    return Address(domain, checked)


class KeyRange(NamedTuple):
    """Keys of one domain from ``start`` (inclusive) up to ``stop`` (exclusive, ``None``: no end)."""

    domain: str
    start: str = ""
    stop: str | None = None


def prefix_range(domain: str, prefix: str) -> KeyRange:
    """The range of all keys that begin with ``prefix``, in code point order."""
    for position in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[position])
        if point < 0x10FFFF:
            successor = 0xE000 if point == 0xD7FF else point + 1
            return KeyRange(domain, prefix, prefix[:position] + chr(successor))
    return KeyRange(domain, prefix, None)


# --- checks and mutations of a commit ---


class VersionCheck(NamedTuple):
    """The entry has this version; ``version`` 0 means that there is none."""

    domain: str
    key: str
    version: int


class RangeCheck(NamedTuple):
    """Nothing in the range was written or deleted after version ``since``, nor has expired after the time ``at``."""

    range: KeyRange
    since: int
    at: int = 0


class Put(NamedTuple):
    """Store a value.

    Attributes:
        ttl: Milliseconds to live from the write on, by the database's clock; kept for later writes and touching.
        expires_at: Absolute time in milliseconds since the epoch. With both, the entry expires then, and the ``ttl`` is
            kept for later writes. With neither, the domain's setting decides.
    """

    domain: str
    key: str
    value: bytes
    ttl: int | None = None
    expires_at: int | None = None


class Delete(NamedTuple):
    """Remove an entry; no error when there is none."""

    domain: str
    key: str


class Fence(NamedTuple):
    """The named lock ``name`` is still held under this token."""

    name: str
    token: int


class Requested(Generic[R]):
    """Base of the requests; the type argument is the type of the reply."""

    __slots__ = ()


@dataclass(slots=True, unsafe_hash=True)  # never changed; made for each read, and a frozen one takes twice the time
class GetMany(Requested["tuple[Record | None, ...]"]):
    """Read entries from one snapshot; the reply is in the order of the addresses."""

    store: int
    addresses: tuple[Address, ...]


class CheckedReply(NamedTuple):
    """The reply to a reading request, and whether what had been read before still held in the same snapshot.

    Attributes:
        reply: The reply; None when a check failed.
        is_current: Whether all checks held.
        head: Highest version of the database in that snapshot.
        at: When it was taken, in milliseconds since the epoch by the database's clock.
    """

    reply: Any
    is_current: bool
    head: int
    at: int


class PageReply(NamedTuple):
    """A page of entries in key order, and whether there are more behind it."""

    items: list[tuple[str, Record]]
    more: bool


@dataclass(frozen=True, slots=True)
class Page(Requested[PageReply]):
    """Read up to ``limit`` entries of a range in key order (descending with ``reverse``)."""

    store: int
    range: KeyRange
    limit: int
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Count(Requested[int]):
    """Count the entries of a range."""

    store: int
    range: KeyRange


class CommitReply(NamedTuple):
    """What became of a commit.

    Attributes:
        versions: Version per mutation, 0 for a deletion of nothing; empty when nothing was written.
        conflicts: Current records of the addresses whose check failed; empty means committed.
        range_conflict: A range check failed.
        applied_before: A commit of this id had been applied already, so this one wrote nothing.
    """

    versions: tuple[int, ...] = ()
    conflicts: dict[Address, Record | None] = {}  # noqa: RUF012 - never mutated, a NamedTuple default
    range_conflict: bool = False
    applied_before: bool = False

    @property
    def is_committed(self) -> bool:
        """Whether the commit's mutations are in the store."""
        return not self.conflicts and not self.range_conflict


@dataclass(slots=True, unsafe_hash=True)  # as GetMany
class Commit(Requested[CommitReply]):
    """All of the mutations or none.

    Attributes:
        id: Unique; a commit that is sent twice is applied once. ``None``: not remembered.
        durable: Wait for the disk (survives power loss), where the backend tells the difference.
        fences: Locks that must be held until the commit is in the store, or LeaseLostError is raised.
    """

    store: int
    mutations: tuple[Put | Delete, ...]
    checks: tuple[VersionCheck | RangeCheck, ...] = ()
    id: str | None = None
    durable: bool = True
    fences: tuple[Fence, ...] = ()


class ChangesReply(NamedTuple):
    """Changes after the cursor, from one snapshot.

    Attributes:
        changes: In version order.
        head: Highest version in the store; with ``more`` the version of the last change given.
        horizon: Changes up to here may have been forgotten; a cursor below it has a gap. A store begins with one that
            is above all versions given before, so that those of an earlier store of its name have a gap too.
        incarnation: Identity of the store; a cursor belongs to one incarnation.
        more: There are changes after ``head``.
        expires_in: Milliseconds until the next entry expires, by the database's clock, at the earliest; 0 or less: one
            that has expired is not swept yet. That of another store may count. None: none will.
    """

    changes: list[Change]
    head: int
    horizon: int
    incarnation: str
    more: bool
    expires_in: int | None = None


@dataclass(frozen=True, slots=True)
class Changes(Requested[ChangesReply]):
    """Read the latest change of each key after version ``since``.

    Attributes:
        domains: Only these domains, ``None`` for all.
        limit: At most so many.
    """

    store: int
    since: int
    domains: tuple[str, ...] | None = None
    limit: int = 1000


class StoreInfo(NamedTuple):
    """A named store as the database knows it."""

    id: int
    name: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Checked(Requested[CheckedReply]):
    """Perform a reading request and the checks of what was read before, all in one snapshot."""

    store: int
    request: GetMany | Page | Count
    checks: tuple[VersionCheck | RangeCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenStore(Requested[StoreInfo]):
    """Find a store by name.

    Attributes:
        mode: "open" raises StoreNotFoundError, "create" raises StoreExistsError, "ensure" neither.
    """

    name: str
    mode: Literal["open", "create", "ensure"] = "open"


@dataclass(frozen=True, slots=True)
class SetDomain(Requested[None]):
    """Set for how many milliseconds entries of a domain are kept, from their writing on; None: for ever."""

    store: int
    domain: str
    keep: int | None


class DomainInfo(NamedTuple):
    """The setting of a domain: for how many milliseconds its entries are kept."""

    domain: str
    keep: int


@dataclass(frozen=True, slots=True)
class ListDomains(Requested["tuple[DomainInfo, ...]"]):
    """List the domains of a store that have a setting, by name in code point order."""

    store: int


@dataclass(frozen=True, slots=True)
class ListStores(Requested["tuple[StoreInfo, ...]"]):
    """List the stores, by name in code point order."""


@dataclass(frozen=True, slots=True)
class RenameStore(Requested[None]):
    """Give a store another name; it stays the same store, for those too who have it open.

    Attributes:
        force: Do so though bots are attached.
    """

    name: str
    new_name: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class DeleteStore(Requested[None]):
    """Delete a store with all that belongs to it.

    Attributes:
        force: Do so though bots are attached.
    """

    name: str
    force: bool = False


# --- leases and attached bots: performed also while somebody has the database to himself ---


class LeaseReply(NamedTuple):
    """Who has a named lock.

    Attributes:
        token: Of the lease just acquired; grows from lease to lease. None: somebody else has the lock, or its turn.
        holder: Who has it; None if nobody has.
        ahead: How many wait that came before.
    """

    token: int | None
    holder: str | None
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class AcquireLease(Requested[LeaseReply]):
    """Try to acquire a named lock.

    Attributes:
        holder: Who asks; unique among all processes.
        ttl: Milliseconds until the lease is over unless renewed.
        waits: Stand in line if it is not free; to keep the place, ask again within :data:`.base.LINE_PATIENCE`.
    """

    store: int
    name: str
    holder: str
    ttl: int
    waits: bool = True


@dataclass(frozen=True, slots=True)
class RenewLease(Requested[bool]):
    """Prolong a lease to ``ttl`` milliseconds from now; reply: whether it was still held."""

    store: int
    name: str
    token: int
    ttl: int


@dataclass(frozen=True, slots=True)
class ReleaseLease(Requested[bool]):
    """Give a lease back (``token``) and leave the line; reply: whether the lease was still held."""

    store: int
    name: str
    holder: str
    token: int | None = None


class BotInfo(NamedTuple):
    """A bot that is, or was, attached to a store.

    Attributes:
        name: Its name.
        attached_at: When it last became attached, in milliseconds since the epoch.
        last_seen: When it last said so, in milliseconds since the epoch.
        is_attached: Whether it still is, as far as can be told.
    """

    name: str
    attached_at: int
    last_seen: int
    is_attached: bool


@dataclass(frozen=True, slots=True)
class AttachBot(Requested[None]):
    """Note that a bot uses a store; to be repeated every :data:`.base.HEARTBEAT` seconds.

    Attributes:
        holder: Who says so, unique among all processes; a bot is attached as long as one of them is.
    """

    store: int
    bot: str
    holder: str = ""


@dataclass(frozen=True, slots=True)
class DetachBot(Requested[None]):
    """Note that one of those who used a store for a bot does so no longer."""

    store: int
    bot: str
    holder: str = ""


@dataclass(frozen=True, slots=True)
class ListBots(Requested["tuple[BotInfo, ...]"]):
    """List the bots that are or were attached to a store, by name."""

    store: int


LEASE_REQUESTS: Final = frozenset({AcquireLease, RenewLease, ReleaseLease, AttachBot, DetachBot, ListBots})
"""The requests that never wait for the database's writer lock."""


@dataclass(frozen=True, slots=True)
class Sweep(Requested[int]):
    """Turn up to ``limit`` expired entries into tombstones and drop old tombstones; reply: how many."""

    limit: int = 1000
