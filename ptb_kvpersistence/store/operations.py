"""What each operation of a store means, without I/O: generators that yield requests and receive replies.

``drive`` and ``drive_async`` run them; cleanup belongs to those, never to a generator's ``finally``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from ptb_kvpersistence.errors import (
    ConfigurationError,
    ConflictError,
    DecodeError,
    EncodeError,
    KeyExistsError,
    KeyNotFoundError,
)
from ptb_kvpersistence.model import (
    ABSENT,
    Absent,
    Address,
    Commit,
    CommitReply,
    Count,
    Delete,
    GetMany,
    KeyRange,
    OpenStore,
    Page,
    PageReply,
    Put,
    Record,
    SetDomain,
    StoreInfo,
    VersionCheck,
    check_address,
)
from ptb_kvpersistence.store.arguments import FOR_EVER, Lifetime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.model import Requested

T = TypeVar("T")
Q = TypeVar("Q")
PAGE: Final = 1000
"""Entries per page of a listing."""
ATTEMPTS: Final = 1000
"""How often an atomic operation starts again when others write the same key."""


@dataclass(slots=True)
class Handle:
    """Which store an operation works on; the id is looked up by the first operation.

    Attributes:
        name: Name of the store.
        mode: How it is opened, see OpenStore.
        codec: Turns values into text and back.
        backend: The database it is in, to tell stores apart.
        durable: Whether a write waits for the disk.
        info: What the database said, once asked.
    """

    name: str
    mode: Literal["open", "create", "ensure"]
    codec: Codec
    backend: object = None
    durable: bool = False
    info: StoreInfo | None = None


@dataclass(slots=True, eq=False)
class Settings:
    """Settings of a domain that are written by the first operation on it.

    Attributes:
        keep: Milliseconds for which entries are kept, from their writing on.
        is_stored: Whether that was written.
    """

    keep: int
    is_stored: bool = False


class Scope(NamedTuple):
    """One domain of a store."""

    handle: Handle
    domain: str = ""
    settings: Settings | None = None


class Entry(NamedTuple):
    """An entry with its value decoded.

    What a transaction itself has written has a placeholder for a version, and times by this machine's clock: a ``ttl``
    counts anew from the commit on, by the database's clock, and what the domain's ``keep`` adds is known only then.

    Attributes:
        value: The value.
        version: Grows with each write in the store; for compare-and-set.
        updated_at: Milliseconds since the epoch.
        expires_at: Milliseconds since the epoch; None if it does not expire.
    """

    value: Any
    version: int
    updated_at: int
    expires_at: int | None


def drive(operation: Generator[Q, Any, T], perform: Callable[[Q], Any]) -> T:
    """Run an operation with a blocking performer."""
    try:
        request = next(operation)
        while True:
            try:
                reply = perform(request)
            except Exception as error:  # noqa: BLE001 - the operation decides what to do about it
                request = operation.throw(error)
            else:
                request = operation.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def drive_async(
    operation: Generator[Requested[Any], Any, T], perform: Callable[[Requested[Any]], Awaitable[Any]]
) -> T:
    """Run an operation with an async performer."""
    try:
        request = next(operation)
        while True:
            try:
                reply = await perform(request)
            except Exception as error:  # noqa: BLE001 - the operation decides what to do about it
                request = operation.throw(error)
            else:
                request = operation.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def open_store(handle: Handle) -> Generator[Requested[Any], Any, int]:
    """Find the store's id, once."""
    if handle.info is None:
        handle.info = yield OpenStore(handle.name, handle.mode)
    assert handle.info is not None  # noqa: S101 - for the type checker
    return handle.info.id


def prepare(scope: Scope) -> Generator[Requested[Any], Any, int]:
    """Find the store's id, and write the domain's settings, once."""
    store = yield from open_store(scope.handle)
    settings = scope.settings
    if settings is not None and not settings.is_stored:
        to_be_stored: set[Settings] | None = yield SetDomain(store, scope.domain, settings.keep)
        if to_be_stored is None:
            settings.is_stored = True
        else:  # with the commit of the transaction, which then says so
            to_be_stored.add(settings)
    return store


def _known(scope: Scope) -> int:
    """Give the store's id where nothing has to be asked or written first, else 0."""
    info, settings = scope.handle.info, scope.settings
    return 0 if info is None or (settings is not None and not settings.is_stored) else info.id


def decode_value(scope: Scope, key: str, text: bytes) -> Any:
    """Decode a value; DecodeError says where it is stored."""
    try:
        return scope.handle.codec.decode(text)
    except DecodeError as error:
        raise DecodeError(
            place=error.place, reason=error.reason, store=scope.handle.name, domain=scope.domain, key=key
        ) from error


def _decode(scope: Scope, key: str, record: Record) -> Any:
    return decode_value(scope, key, record.value)


def get_request(scope: Scope, key: object) -> GetMany | None:
    """Give the one request that reads a key; None where something has to be asked or written before."""
    address = check_address(scope.domain, key)
    store = _known(scope)
    return GetMany(store, (address,)) if store else None


def _read(scope: Scope, key: object) -> Generator[Requested[Any], Any, tuple[str, Record | None]]:
    request = get_request(scope, key)
    if request is None:
        request = GetMany((yield from prepare(scope)), (check_address(scope.domain, key),))
    (record,) = yield request
    return request.addresses[0].key, record


def value_of(scope: Scope, key: str, record: Record | None, default: Any) -> Any:
    """Decode the value of what was read; ``default`` if there is no entry."""
    if record is None:
        return default
    try:
        return scope.handle.codec.decode(record.value)
    except DecodeError:
        return decode_value(scope, key, record.value)  # raises with the place


def get(scope: Scope, key: object, default: Any) -> Generator[Requested[Any], Any, Any]:
    """Read a value; ``default`` if there is no entry."""
    name, record = yield from _read(scope, key)
    return value_of(scope, name, record, default)


def get_item(scope: Scope, key: object) -> Generator[Requested[Any], Any, Any]:
    """Read a value; KeyNotFoundError if there is no entry."""
    name, record = yield from _read(scope, key)
    if record is None:
        raise _not_found(scope, name)
    return _decode(scope, name, record)


def entry(scope: Scope, key: object) -> Generator[Requested[Any], Any, Entry | None]:
    """Read an entry with its version; None if there is none."""
    name, record = yield from _read(scope, key)
    if record is None:
        return None
    return Entry(_decode(scope, name, record), record.version, record.updated_at, record.expires_at)


def contains(scope: Scope, key: object) -> Generator[Requested[Any], Any, bool]:
    """Tell whether there is an entry."""
    _, record = yield from _read(scope, key)
    return record is not None


def get_many(scope: Scope, keys: Iterable[object]) -> Generator[Requested[Any], Any, dict[str, Any]]:
    """Read several values from one snapshot; absent keys are left out."""
    addresses = tuple(check_address(scope.domain, key) for key in keys)
    store = yield from prepare(scope)
    records = yield GetMany(store, addresses)
    found = zip(addresses, records, strict=True)
    return {address.key: _decode(scope, address.key, record) for address, record in found if record is not None}


def count(scope: Scope, keys: KeyRange) -> Generator[Requested[Any], Any, int]:
    """Count the entries of a range."""
    store = yield from prepare(scope)
    return (yield Count(store, keys))  # type: ignore[no-any-return]


def page(
    scope: Scope, keys: KeyRange, after: str | None, *, reverse: bool
) -> Generator[Requested[Any], Any, PageReply]:
    """Read the next page of a range behind ``after``; :func:`decode_value` tells the values."""
    if after is not None:
        # No key contains NUL, so this is the smallest text behind `after`.
        keys = keys._replace(stop=after) if reverse else keys._replace(start=after + "\0")
    store = yield from prepare(scope)
    return (yield Page(store, keys, PAGE, reverse))  # type: ignore[no-any-return]


def set_item(
    scope: Scope, key: object, value: Any, if_version: int | None = None, life: Lifetime = FOR_EVER
) -> Generator[Requested[Any], Any, int]:
    """Write a value; reply: its version. With ``if_version`` only over that version (0: no entry)."""
    put = _put(scope, key, value, life)
    checks: tuple[VersionCheck, ...] = ()
    if if_version is not None:
        # Inside a transaction what it wrote itself has versions below 0.
        if type(if_version) is not int:
            message = "if_version takes the version of an entry, or 0 for no entry"
            raise ConfigurationError(message)
        checks = (VersionCheck(put.domain, put.key, if_version),)
    store = _known(scope) or (yield from prepare(scope))
    reply: CommitReply = yield Commit(store, (put,), checks, None, scope.handle.durable)
    if not reply.is_committed:
        raise _changed(scope, put.key)
    return reply.versions[0]


def _put(scope: Scope, key: object, value: Any, life: Lifetime) -> Put:
    address = check_address(scope.domain, key)
    handle = scope.handle
    try:
        text = handle.codec.encode(value)
    except EncodeError:
        text = handle.codec.encode(value, f"{handle.name}[{address.key!r}]")  # raises with the place
    return tuple.__new__(Put, (*address, text, *life))


def set_many(scope: Scope, items: Any, life: Lifetime = FOR_EVER) -> Generator[Requested[Any], Any, None]:
    """Write several values, a mapping or pairs, all or none."""
    puts = [_put(scope, key, value, life) for key, value in dict(items).items()]
    store = yield from prepare(scope)
    yield Commit(store, tuple(puts), durable=scope.handle.durable)


def add(scope: Scope, key: object, value: Any, life: Lifetime = FOR_EVER) -> Generator[Requested[Any], Any, int]:
    """Write a value where there is none; KeyExistsError where there is."""
    put = _put(scope, key, value, life)
    store = yield from prepare(scope)
    absence = VersionCheck(put.domain, put.key, 0)
    reply: CommitReply = yield Commit(store, (put,), (absence,), durable=scope.handle.durable)
    if not reply.is_committed:
        message = f"{_place(scope, put.key)} has an entry already; use set() to overwrite it"
        raise KeyExistsError(message, key=put.key)
    return reply.versions[0]


def replace(scope: Scope, key: object, value: Any) -> Generator[Requested[Any], Any, bool]:
    """Write a value where there is one; reply: whether there was."""

    def new(current: Any) -> Any:
        return current if current is ABSENT else value

    before, _ = yield from modify(scope, key, new)
    return before is not ABSENT


def discard(scope: Scope, key: object) -> Generator[Requested[Any], Any, bool]:
    """Delete an entry; reply: whether there was one."""
    address = check_address(scope.domain, key)
    store = yield from prepare(scope)
    reply = yield Commit(store, (Delete(*address),), durable=scope.handle.durable)
    return bool(reply.versions[0])


def delete(scope: Scope, key: object) -> Generator[Requested[Any], Any, None]:
    """Delete an entry; KeyNotFoundError if there is none."""
    if not (yield from discard(scope, key)):
        raise _not_found(scope, str(key))


def _renewed(record: Record | None) -> Lifetime:
    """Give an entry that is written again the lifetime it had: counted anew, unless it was an absolute time."""
    if record is None:
        return FOR_EVER
    return Lifetime(record.ttl) if record.ttl is not None else Lifetime(None, record.expires_at)


def modify(
    scope: Scope, key: object, function: Callable[[Any], Any], life: Lifetime | None = None
) -> Generator[Requested[Any], Any, tuple[Any, Any]]:
    """Replace a value by ``function(value)``, atomically; ABSENT stands for no entry on both sides.

    Args:
        scope: Where.
        key: The key.
        function: Gets the value, gives the new one; called again when somebody else was quicker.
        life: The new lifetime; None renews the one that the entry had.

    Returns:
        The value before and the value after.
    """
    name, record = yield from _read(scope, key)
    address = Address(scope.domain, name)
    for _ in range(ATTEMPTS):
        before = ABSENT if record is None else _decode(scope, name, record)
        after = function(before)
        if after is ABSENT and before is ABSENT:
            return before, after
        check = VersionCheck(*address, 0 if record is None else record.version)
        mutation: Put | Delete
        if after is ABSENT:
            mutation = Delete(*address)
        else:
            mutation = _put(scope, name, after, _renewed(record) if life is None else life)
        store = yield from prepare(scope)
        reply = yield Commit(store, (mutation,), (check,), durable=scope.handle.durable)
        if reply.is_committed:
            return before, after
        record = reply.conflicts[address]
    raise _changed(scope, name)


def write_back(scope: Scope, key: object, value: Any, version: int) -> Generator[Requested[Any], Any, None]:
    """Write a value over the version it was read at; the entry keeps its lifetime, counted anew."""
    name, record = yield from _read(scope, key)
    if (0 if record is None else record.version) != version:
        raise _changed(scope, name)
    yield from set_item(scope, key, value, version, _renewed(record))


def touch(scope: Scope, key: object, life: Lifetime) -> Generator[Requested[Any], Any, bool]:
    """Renew an entry's lifetime, or give it another one; reply: whether there was an entry."""
    before, _ = yield from modify(scope, key, lambda current: current, None if life == FOR_EVER else life)
    return before is not ABSENT


def append(scope: Scope, key: object, items: tuple[Any, ...]) -> Generator[Requested[Any], Any, int]:
    """Add items to the end of a list, atomically; an absent entry counts as []. Reply: the new length."""

    def new(current: Any) -> Any:
        if isinstance(current, Absent):
            return list(items)
        if not isinstance(current, list):
            message = f"{_place(scope, str(key))} holds a {type(current).__name__}, not a list; set() a list first"
            raise TypeError(message)
        return [*current, *items]

    _, after = yield from modify(scope, key, new)
    return len(after)


def increment(scope: Scope, key: object, amount: float) -> Generator[Requested[Any], Any, Any]:
    """Add to a number, atomically; an absent entry counts as 0. Reply: the sum."""

    def new(current: Any) -> Any:
        if isinstance(current, Absent):
            return amount
        if isinstance(current, bool) or not isinstance(current, (int, float)):
            message = f"{_place(scope, str(key))} holds a {type(current).__name__}, not a number; set() a number first"
            raise TypeError(message)
        return current + amount

    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        message = f"increment takes a number, not {type(amount).__name__}"
        raise TypeError(message)
    _, after = yield from modify(scope, key, new)
    return after


def pop(scope: Scope, key: object, default: Any) -> Generator[Requested[Any], Any, Any]:
    """Delete an entry and give its value; ``default`` (unless ABSENT) if there is none."""
    before, _ = yield from modify(scope, key, lambda _: ABSENT)
    if before is not ABSENT:
        return before
    if default is ABSENT:
        raise _not_found(scope, str(key))
    return default


def popitem(scope: Scope) -> Generator[Requested[Any], Any, tuple[str, Any]]:
    """Delete the first entry and give its key and value; KeyNotFoundError if there is none."""
    store = yield from prepare(scope)
    for _ in range(ATTEMPTS):
        reply: PageReply = yield Page(store, KeyRange(scope.domain), 1)
        if not reply.items:
            domain = f"domain {scope.domain!r} of " if scope.domain else ""
            raise KeyNotFoundError(f"{domain}store {scope.handle.name!r} is empty; ask for its len() first", key="")
        ((key, record),) = reply.items
        value = _decode(scope, key, record)
        check = VersionCheck(scope.domain, key, record.version)
        done = yield Commit(store, (Delete(scope.domain, key),), (check,), durable=scope.handle.durable)
        if done.is_committed:
            return key, value
    raise _changed(scope, key)


def setdefault(scope: Scope, key: object, default: Any) -> Generator[Requested[Any], Any, Any]:
    """Give the value, after writing ``default`` where there was none."""
    name, record = yield from _read(scope, key)
    if record is not None:
        return _decode(scope, name, record)
    before, after = yield from modify(scope, key, lambda current: default if current is ABSENT else current)
    return after if before is ABSENT else before


def clear(scope: Scope) -> Generator[Requested[Any], Any, None]:
    """Delete all entries of the domain, in one commit."""
    store = yield from prepare(scope)
    keys, more = KeyRange(scope.domain), True
    deletes: list[Delete] = []
    while more:
        reply = yield Page(store, keys, PAGE)
        more = reply.more
        deletes.extend(Delete(scope.domain, key) for key, _ in reply.items)
        if more:
            keys = keys._replace(start=deletes[-1].key + "\0")
    if deletes:
        yield Commit(store, tuple(deletes), durable=scope.handle.durable)


def _place(scope: Scope, key: str) -> str:
    domain = f" of domain {scope.domain!r}" if scope.domain else ""
    return f"key {key!r}{domain} in store {scope.handle.name!r}"


def _not_found(scope: Scope, key: str) -> KeyNotFoundError:
    return KeyNotFoundError(f"there is no {_place(scope, key)}; use get() for a default", key=key)


def _changed(scope: Scope, key: str) -> ConflictError:
    return ConflictError(f"{_place(scope, key)} was changed by somebody else; read it again and retry")
