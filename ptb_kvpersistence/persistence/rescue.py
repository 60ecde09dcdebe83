"""The rescue file: what could not be saved when the process ended, for the next start to merge.

It lies beside the database (for a URL, or a folder that cannot be written: in the user's state folder), belongs to
its owner alone, and is applied together with a mark in the store, so that it is never applied twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import DatabaseError
from ptb_kvpersistence.merge import merge
from ptb_kvpersistence.model import (
    ABSENT,
    RESERVED_PREFIX,
    Address,
    Commit,
    Delete,
    GetMany,
    Put,
    VersionCheck,
    check_address,
    check_name,
)
from ptb_kvpersistence.persistence.claims import claim
from ptb_kvpersistence.persistence.layout import BOT_DATA, RESCUED, SECTIONS
from ptb_kvpersistence.policies import Policies

if TYPE_CHECKING:
    from collections.abc import Generator

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.persistence.replica import Replica
    from ptb_kvpersistence.store.aio import AsyncStore

_logger = logging.getLogger(__name__)

FORMAT: Final = 1
SUFFIX: Final = ".rescue.json"
ATTEMPTS: Final = 20


@dataclass(frozen=True)
class Orphan:
    """A rescue file that was found.

    Attributes:
        path: Where.
        id: Unique; the key of its mark.
        commit: Id of a commit whose outcome was not known, if any.
        entries: Per entry: domain, key, base of memory, memory, base of the store, what the unknown commit wrote.
    """

    path: Path
    id: str
    commit: str | None
    entries: list[dict[str, Any]]


def folders(store: AsyncStore) -> list[Path]:
    """List where a rescue file of this store may lie, the best place first."""
    place = _place(store)
    found = [] if _is_url(place) else [Path(place).parent]
    state = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    return [*found, Path(state) / "ptb_kvpersistence"]


def _place(store: AsyncStore) -> str:
    # Whatever way a file is spelled or linked to, its rescue file is found.
    name = store.backend.name
    return name if _is_url(name) else os.path.realpath(name)


def _is_url(name: str) -> bool:
    return "://" in name or name.startswith("memory:")


def _stem(store: AsyncStore) -> str:
    name = _place(store)
    digest = hashlib.sha256(f"{name}\n{store.name}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    readable = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in Path(name).name)[:60]
    return f"{readable}.{digest}."


def write(store: AsyncStore, replica: Replica) -> Path | None:
    """Write what is pending; None, with everything said in the log, if even that is impossible."""
    if not replica.is_attached:
        _logger.critical("%d changes are lost: the database was never reached", len(replica.dirty))
        return None
    document = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "store": store.name,
        "commit": None if replica.unresolved is None else replica.unresolved.commit.id,
        "entries": _entries(replica),
    }
    for folder in folders(store):
        try:
            path = _write(folder, _stem(store), document)
        except OSError as error:
            _logger.warning("no rescue file in %s: %s", folder, error)
        else:
            _logger.error("the changes are in %s; the next start takes them in", path)
            return path
    _logger.critical("%d changes are lost: no folder for a rescue file can be written", len(replica.dirty))
    return None


def _entries(replica: Replica) -> list[dict[str, Any]]:
    sent = {} if replica.unresolved is None else {plan.entity: plan for plan in replica.unresolved.planned}
    entities = {**dict(replica.pending()), **{plan.entity: plan.state for plan in sent.values()}}
    entries = []
    for entity, state in entities.items():
        domain, key = replica.layout.address(entity)
        captured = state.captured if isinstance(state.captured, (bytes, type(None))) else sent[entity].captured
        entry = {
            "domain": domain,
            "key": key,
            "base_ours": _text(state.ours),
            "ours": _text(captured),
            "base_theirs": _text(state.theirs),
        }
        if entity in sent:
            entry["sent_ours"], entry["sent"] = _text(sent[entity].captured), _text(sent[entity].result)
        entries.append(entry)
    return entries


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _write(folder: Path, stem: str, document: dict[str, Any]) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{stem}{document['id']}{SUFFIX}"
    part = path.with_suffix(".part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(part, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(dumps(document))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return path


def find(store: AsyncStore) -> list[Orphan]:
    """Find the rescue files of this store; one that is not ours or cannot be read is left alone and reported."""
    found = []
    for folder in folders(store):
        with contextlib.suppress(OSError):
            for path in sorted(folder.glob(f"{_stem(store)}*{SUFFIX}")):
                orphan = _read(path)
                if orphan is not None:
                    found.append(orphan)
    return found


def _read(path: Path) -> Orphan | None:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or (sys.platform != "win32" and status.st_uid != os.getuid()):
                _logger.error("%s is not a file of this user; it is not used", path)
                return None
            document = loads(file.read())
        if document["format"] != FORMAT:
            _logger.error("%s was written by a newer version; it is left for that one", path)
            return None
        _check(document)
        return Orphan(path, document["id"], document["commit"], document["entries"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        _logger.error("%s cannot be read and is left alone: %s", path, error)  # noqa: TRY400 - the reason is enough
        return None


def _check(document: Any) -> None:
    """Raise unless all that replay() relies on is there: a damaged file must not keep a bot from starting."""
    if not isinstance(document["id"], str) or not isinstance(document["commit"], (str, type(None))):
        raise TypeError("its id is no text")
    check_name(document["id"])
    for entry in document["entries"]:
        check_address(entry["domain"], entry["key"])
        if entry["domain"].partition(":")[0] + ":" != RESERVED_PREFIX or _path(entry)[0] not in SECTIONS:
            raise ValueError("it has an entry of an unknown section")
        for name in ("base_ours", "ours", "base_theirs", *(("sent_ours", "sent") if "sent" in entry else ())):
            if entry[name] is not None:
                loads(entry[name])


def _path(entry: dict[str, Any]) -> tuple[str, ...]:
    """Give an entry's place as merge policies name it."""
    section = entry["domain"][len(RESERVED_PREFIX) :].partition(":")[0]
    return (section,) if section == BOT_DATA.section else (section, entry["key"])


def remove(orphan: Orphan) -> None:
    """Delete a rescue file whose content is in the store."""
    try:
        orphan.path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("%s is applied but cannot be deleted: %s", orphan.path, error)


def replay(orphan: Orphan, store: int, codec: Codec, policies: Policies) -> Generator[Requested[Any], Any, bool]:
    """Merge a rescue file into the store; where both changed the same place, the store's value stays.

    Returns:
        Whether it was applied now; False if it had been before.
    """
    kept = policies.with_default("theirs")
    mark = Address(RESCUED, orphan.id)
    was_sent = orphan.commit is not None and (yield from claim(store, orphan.commit))
    addresses = [Address(entry["domain"], entry["key"]) for entry in orphan.entries]
    for _ in range(ATTEMPTS):
        marked, *records = yield GetMany(store, (mark, *addresses))
        if marked is not None:
            return False
        mutations: list[Put | Delete] = [Put(*mark, b"true")]
        checks = [VersionCheck(*mark, 0)]
        for entry, address, record in zip(orphan.entries, addresses, records, strict=True):
            theirs = None if record is None else record.value
            result = _merged(entry, theirs, kept, codec, was_sent=was_sent)
            if result != theirs:
                mutations.append(Delete(*address) if result is None else Put(*address, result))
                checks.append(VersionCheck(*address, 0 if record is None else record.version))
        reply = yield Commit(store, tuple(mutations), tuple(checks))
        if reply.is_committed:
            _logger.warning("%s: took in %d entries", orphan.path, len(orphan.entries))
            return True
    message = f"{orphan.path} could not be taken in: others kept changing the same entries; start again"
    raise DatabaseError(message)


def _merged(
    entry: dict[str, Any], theirs: bytes | None, policies: Policies, codec: Codec, *, was_sent: bool
) -> bytes | None:
    base_ours, base_theirs = entry["base_ours"], entry["base_theirs"]
    if was_sent and "sent" in entry:
        base_ours, base_theirs = entry["sent_ours"], entry["sent"]
    texts = (base_ours, entry["ours"], base_theirs, theirs)
    trees = [ABSENT if text is None else loads(text) for text in texts]
    result, _ = merge(*trees, place=_path(entry), policies=policies, values=codec)
    return None if result is ABSENT else dumps(result)
