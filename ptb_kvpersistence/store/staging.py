"""How a whole store comes into a database at once: written under another name, and renamed when it is complete.

One database only, without I/O: generators like the operations. Where the entries come from is the business of the
modules that use this.

While it is written, the store is called ``ptb:copy:NAME``, and its entry ``progress`` in the domain ``ptb:copy`` says
what it is a copy of and how far it is; each batch writes that entry too, in the same commit. A store that it replaces
is called ``ptb:replaced:NAME`` until it is deleted. The entry ``progress`` goes last, so that whoever begins again
after any of the steps finds out which are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ptb_kvpersistence.backends.base import in_use
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import (
    ConfigurationError,
    ConflictError,
    DatabaseError,
    DecodeError,
    StoreExistsError,
    StoreNotFoundError,
)
from ptb_kvpersistence.model import (
    MAX_KEY_BYTES,
    RESERVED_PREFIX,
    Address,
    Commit,
    Delete,
    DeleteStore,
    GetMany,
    ListBots,
    ListDomains,
    ListStores,
    OpenStore,
    Put,
    RenameStore,
    SetDomain,
    VersionCheck,
)
from ptb_kvpersistence.store.paging import COPY, Pages, is_alive

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from ptb_kvpersistence.model import DomainInfo, Record, Requested, StoreInfo

STAGED: Final = f"{RESERVED_PREFIX}copy:"
"""What names of stores begin with that are being written."""
REPLACED: Final = f"{RESERVED_PREFIX}replaced:"
"""What names of stores begin with that a copy takes the place of."""
_PROGRESS: Final = Address(COPY, "progress")


class Progress(NamedTuple):
    """How far a copy is.

    Attributes:
        origin: Identity of what it is a copy of.
        cursor: All changes of the origin up to this version are in the copy.
        start: The origin's highest version when the copy was begun; what was deleted before was never copied.
        copied: How many changes were written.
        together: Names of the stores that get their names at the same time; empty until they do.
    """

    origin: str
    cursor: int = 0
    start: int = -1
    copied: int = 0
    together: tuple[str, ...] = ()


@dataclass
class Staging:
    """A store on its way into a database.

    Attributes:
        name: What it is called in the end.
        info: The store as it is now.
        progress: How far it is.
        version: Of the entry that says so; nobody else writes it.
        is_done: It is in its place already, and only what is left of the copying has to be tidied up.
    """

    name: str
    info: StoreInfo
    progress: Progress
    version: int = 0
    is_done: bool = False


def begin(
    origins: Mapping[str, str], *, overwrite: bool, resume: bool
) -> Generator[Requested[Any], Any, dict[str, Staging]]:
    """Find, or make, the stores to write to; put right what an attempt that was broken off has left.

    Args:
        origins: By name of store the identity of what is to be copied.
        overwrite: Whether stores of these names with entries may be replaced.
        resume: Whether copies of the same origins are gone on with; else they are begun anew.

    Returns:
        By name of store.

    Raises:
        ConfigurationError: There is a store of one of the names with entries, and ``overwrite`` is false.
        StoreInUseError: Bots are attached to it.
    """
    stores = {info.name: info for info in (yield ListStores())}
    stagings: dict[str, Staging] = {}
    for name in origins.keys() & stores.keys():
        progress, version = yield from _read_progress(stores[name])
        if progress is not None and progress.origin == origins[name]:
            stagings[name] = Staging(name, stores[name], progress, version, is_done=True)
    tidied = {name for staging in stagings.values() for name in staging.progress.together}
    for name in (tidied & origins.keys() & stores.keys()) - stagings.keys():
        if _hidden(STAGED, name) not in stores:
            stagings[name] = Staging(name, stores[name], Progress(origins[name]), is_done=True)
    left = [name for name in origins if name not in stagings]
    for name in left:
        yield from _make_way(name, stores, overwrite=overwrite)
    for name in left:
        staged = stores.get(_hidden(STAGED, name))
        stagings[name] = yield from _stage(name, origins[name], staged, resume=resume)
    return {name: stagings[name] for name in origins}


def _make_way(name: str, stores: Mapping[str, StoreInfo], *, overwrite: bool) -> Generator[Requested[Any], Any, None]:
    """Refuse to replace what has to stay, after giving back its name where an attempt took it away."""
    final, replaced = stores.get(name), stores.get(_hidden(REPLACED, name))
    if replaced is not None:
        if final is not None:
            message = (
                f"a copy was broken off before, and a store {name!r} was made since; the one that was to be replaced "
                f"is there as {replaced.name!r}: rename or delete one of them"
            )
            raise ConfigurationError(message)
        yield RenameStore(replaced.name, name)
        final = replaced
    if final is None:
        return
    if not overwrite and (yield from has_entries(final)):
        raise _refused(name)
    bots = tuple(info.name for info in (yield ListBots(final.id)) if info.is_attached)
    if bots:
        raise in_use(name, bots)


def _stage(
    name: str, origin: str, staged: StoreInfo | None, *, resume: bool
) -> Generator[Requested[Any], Any, Staging]:
    if staged is not None:
        progress, version = yield from _read_progress(staged)
        if resume and progress is not None and progress.origin == origin:
            yield from settle(staged, ())
            return Staging(name, staged, progress, version)
        yield DeleteStore(staged.name, force=True)
    return Staging(name, (yield OpenStore(_hidden(STAGED, name), "create")), Progress(origin))


def restart(staging: Staging) -> Generator[Requested[Any], Any, None]:
    """Throw away what was written, and begin anew."""
    yield from drop(staging)
    staging.info = yield OpenStore(_hidden(STAGED, staging.name), "create")
    staging.progress, staging.version = Progress(staging.progress.origin), 0


def drop(staging: Staging) -> Generator[Requested[Any], Any, None]:
    """Throw away what was written."""
    yield DeleteStore(_hidden(STAGED, staging.name), force=True)


def write(
    staging: Staging, mutations: Iterable[Put | Delete], progress: Progress, *, durable: bool = False
) -> Generator[Requested[Any], Any, None]:
    """Write a batch, and how far the copy is with it, in one commit.

    Raises:
        ConflictError: Another process goes on with the same copy.
        DatabaseError: The database refuses an entry, which is named.
    """
    puts = (*mutations, Put(*_PROGRESS, dumps(progress._asdict())))
    check = VersionCheck(*_PROGRESS, staging.version)
    try:
        reply = yield Commit(staging.info.id, puts, (check,), durable=durable)
    except StoreNotFoundError as error:
        raise _contended(staging.name) from error
    except DatabaseError as error:
        if type(error) is DatabaseError:
            yield from _name_refused(staging, puts[:-1], check, error)
        raise
    if not reply.is_committed:
        raise _contended(staging.name)
    staging.progress, staging.version = progress, reply.versions[-1]


def _name_refused(
    staging: Staging, mutations: Sequence[Put | Delete], check: VersionCheck, error: DatabaseError
) -> Generator[Requested[Any], Any, None]:
    """Find which entry of a batch the database does not take; the others are written anew by the next attempt.

    Raises:
        DatabaseError: That one is named.
    """
    while len(mutations) > 1:
        half = mutations[: len(mutations) // 2]
        is_in_half = yield from _is_refused(staging, half, check)
        mutations = half if is_in_half else mutations[len(half) :]
    if mutations and (yield from _is_refused(staging, mutations, check)):
        domain, key = mutations[0][:2]
        message = f"entry {key!r} of domain {domain!r} in store {staging.name!r} is not taken there: {error}"
        raise DatabaseError(message) from error


def _is_refused(
    staging: Staging, mutations: Sequence[Put | Delete], check: VersionCheck
) -> Generator[Requested[Any], Any, bool]:
    try:
        yield Commit(staging.info.id, tuple(mutations), (check,), durable=False)
    except DatabaseError as error:
        if type(error) is not DatabaseError:
            raise
        return True
    return False


def settle(store: StoreInfo, domains: Iterable[DomainInfo]) -> Generator[Requested[Any], Any, None]:
    """Give a store's domains these settings and no others.

    Entries are written while there are none: a setting would give a lifetime to those that have none.
    """
    wanted = {info.domain: info.keep for info in domains}
    found = {info.domain: info.keep for info in (yield ListDomains(store.id))}
    for domain in sorted({*wanted, *found}):
        if wanted.get(domain) != found.get(domain):
            yield SetDomain(store.id, domain, wanted.get(domain))


def swap(stagings: Mapping[str, Staging], *, overwrite: bool) -> Generator[Requested[Any], Any, None]:
    """Give the stores their names, and delete those that had them.

    Raises:
        ConfigurationError: There is a store of that name with entries by now, and ``overwrite`` is false.
        StoreInUseError: Bots are attached to it.
        StoreExistsError: Somebody made another one at the same moment.
    """
    together = tuple(stagings)
    left = [staging for staging in stagings.values() if not staging.is_done]
    for staging in left:
        yield from write(staging, (), staging.progress._replace(together=together), durable=True)
    for staging in left:
        yield from _rename(staging, overwrite=overwrite)
    for staging in stagings.values():
        yield from _tidy_up(staging)


def _rename(staging: Staging, *, overwrite: bool) -> Generator[Requested[Any], Any, None]:
    name, replaced = staging.name, _hidden(REPLACED, staging.name)
    final = next((info for info in (yield ListStores()) if info.name == name), None)
    if final is not None:
        yield RenameStore(name, replaced)
        # Nobody finds it by its name any more; what was written to it until now is seen.
        if not overwrite and (yield from has_entries(final)):
            yield RenameStore(replaced, name)
            raise _refused(name)
    try:
        yield RenameStore(_hidden(STAGED, name), name, force=True)
    except StoreExistsError as error:
        before = f", the one before as {replaced!r}" if final is not None else ""
        message = f"somebody made a store {name!r} meanwhile; the copy is there as {_hidden(STAGED, name)!r}{before}"
        raise StoreExistsError(message) from error
    staging.is_done = True


def _tidy_up(staging: Staging) -> Generator[Requested[Any], Any, None]:
    replaced = _hidden(REPLACED, staging.name)
    if any(info.name == replaced for info in (yield ListStores())):
        yield DeleteStore(replaced)
    yield Commit(staging.info.id, (Delete(*_PROGRESS),))


def complete(stores: Iterable[StoreInfo]) -> list[StoreInfo]:
    """Give the stores without those that are still being written."""
    return [store for store in stores if not store.name.startswith(STAGED)]


def explain(store: StoreInfo) -> str:
    """Say what a store is that has its name from a copy which was broken off, or is being made; else nothing."""
    for prefix, what, otherwise in (
        (STAGED, "a copy of store {!r} that is not complete", "or delete it by this name"),
        (REPLACED, "store {!r} as it was before a copy that takes its place", "or give it another name"),
    ):
        if store.name.startswith(prefix):
            return (
                f"{store.name} is {what.format(store.name.removeprefix(prefix))}; where nobody is copying just now, "
                f"that was broken off: run the same `ptb-kv copy` or `import` again, {otherwise}"
            )
    return ""


def has_entries(store: StoreInfo) -> Generator[Requested[Any], Any, bool]:
    """Tell whether a store has entries in any domain, without those that have expired."""
    pages = Pages(store.id)
    while pages.more:
        reply = yield from pages.next()
        at = now_ms()
        if any(is_alive(change, at) for change in reply.changes):
            return True
    return False


def _hidden(prefix: str, name: str) -> str:
    hidden = prefix + name
    return hidden if len(hidden.encode()) <= MAX_KEY_BYTES else prefix + sha256(name.encode()).hexdigest()


def _read_progress(store: StoreInfo) -> Generator[Requested[Any], Any, tuple[Progress | None, int]]:
    record: Record | None
    (record,) = yield GetMany(store.id, (_PROGRESS,))
    if record is None:
        return None, 0
    try:
        return Progress(**loads(record.value)), record.version
    except (DecodeError, TypeError):
        return None, record.version


def _contended(name: str) -> ConflictError:
    return ConflictError(f"somebody else is writing a copy of store {name!r} there; wait until that has ended")


def _refused(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is a store {name!r} with entries already; replace it with --overwrite")
