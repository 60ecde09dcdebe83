"""Stores as JSON lines: what a line looks like; pure, no I/O.

A store is a first line ``{"format":1,"store":NAME}``, its own lines, and a last one
``{"end":NAME,"lines":N,"digest":HEX}``, where N counts the lines between, whose digest :mod:`.tally` describes; then
comes the next store. Its own lines are

- ``{"domain":D,"keep":MILLISECONDS}``: the setting of a domain;
- ``{"domain":D,"key":K,"value":ANY}``: an entry, with ``"ttl"`` and ``"expires_at"`` in milliseconds where it has them.
  Where the value as JSON would not come back byte for byte, ``"text"`` holds its text, or ``"base64"`` what is no text;
- ``{"domain":D,"key":K,"deleted":true}``: an entry of an earlier line is gone.

Of several lines for one key the last counts.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import DecodeError, EncodeError, InvalidKeyError
from ptb_kvpersistence.model import Delete, DomainInfo, Put, check_address, check_name
from ptb_kvpersistence.store.paging import COPY
from ptb_kvpersistence.store.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ptb_kvpersistence.store.tally import Sum

FORMAT: Final = 1
_LONGEST: Final = 2**63 - 1


class Begin(NamedTuple):
    """The first line of a store."""

    store: str


class End(NamedTuple):
    """The last line of a store."""

    store: str
    lines: int
    digest: str


Line = Begin | End | DomainInfo | Put | Delete


class _WrongError(Exception):
    """What is wrong with a line."""


# --- writing ---


def begin_line(store: str) -> bytes:
    """Write the first line of a store."""
    return dumps({"format": FORMAT, "store": store}) + b"\n"


def end_line(store: str, total: Sum) -> bytes:
    """Write the last line of a store."""
    return dumps({"end": store, "lines": total.entries, "digest": total.digest}) + b"\n"


def setting_line(info: DomainInfo) -> bytes:
    """Write the setting of a domain."""
    return dumps(info._asdict()) + b"\n"


def deletion_line(domain: str, key: str) -> bytes:
    """Write that an entry is gone."""
    return dumps({"domain": domain, "key": key, "deleted": True}) + b"\n"


def entry_line(domain: str, key: str, value: bytes, ttl: int | None, expires_at: int | None) -> bytes:
    """Write an entry."""
    tail = b"" if ttl is None else b',"ttl":%d' % ttl
    if expires_at is not None:
        tail += b',"expires_at":%d' % expires_at
    return b"".join((dumps({"domain": domain, "key": key})[:-1], _value_field(value), tail, b"}\n"))


def _value_field(value: bytes) -> bytes:
    try:
        # Inside of something, since what is nested as deeply as can be is too deep in a line.
        if dumps([loads(value)])[1:-1] == value:
            return b',"value":' + value
    except (DecodeError, EncodeError):
        pass
    try:
        return b',"text":' + dumps(value.decode("utf-8"))
    except UnicodeDecodeError:
        return b',"base64":' + dumps(base64.b64encode(value).decode("ascii"))


# --- reading ---


def read_lines(lines: Iterable[bytes], file: str) -> Iterator[Line]:
    """Read lines, and check that each is right and that none is missing.

    Args:
        lines: The lines, as a binary file gives them.
        file: What to call the file in an error.

    Raises:
        DecodeError: A line is wrong, or the file has changed or ends too early; says which line and why.
    """
    store: str | None = None
    tally, number, seen = Tally(), 0, set()
    try:
        for number, text in enumerate(lines, 1):  # noqa: B007 - for the message
            line = _parse(text)
            if isinstance(line, Begin):
                if store is not None:
                    raise _WrongError(f"a store begins, but the lines of store {store!r} have no end")  # noqa: TRY301
                if line.store in seen:
                    raise _WrongError(f"store {line.store!r} is there twice")  # noqa: TRY301
                store, tally = line.store, Tally()
                seen.add(store)
            elif store is None:
                raise _WrongError('a store begins with a line {"format": 1, "store": its name}')  # noqa: TRY301
            elif isinstance(line, End):
                _check_end(line, store, tally.total)
                store = None
            else:
                _add(tally, line)
            yield line
        if store is not None:
            raise _WrongError(f"the file ends before the lines of store {store!r} do; it is not complete")  # noqa: TRY301
        if not seen:
            raise _WrongError("there is nothing in the file")  # noqa: TRY301
    except _WrongError as wrong:
        place = f"{file}, line {number}"
        raise DecodeError(f"{place}: {wrong}; nothing was imported", place=place, reason=str(wrong)) from None


def _add(tally: Tally, line: DomainInfo | Put | Delete) -> None:
    if isinstance(line, Put):
        tally.add(line)
    elif isinstance(line, Delete):
        tally.add_deletion(*line)
    else:
        tally.add_setting(*line)


def _check_end(line: End, store: str, total: Sum) -> None:
    if line.store != store:
        raise _WrongError(f"store {line.store!r} ends where store {store!r} should")
    if line.lines != total.entries:
        raise _WrongError(f"store {store!r} should have {line.lines} lines here and has {total.entries}")
    if line.digest != total.digest:
        raise _WrongError(f"the lines of store {store!r} are not those that were exported: their digest is another one")


def _parse(text: bytes) -> Line:
    try:
        tree = loads(text)
    except DecodeError as error:
        raise _WrongError(error.reason) from None
    if not isinstance(tree, dict):
        raise _WrongError("a line is a JSON object")
    try:
        for field, parse in _KINDS.items():
            if field in tree:
                return parse(tree)
    except KeyError as error:
        raise _WrongError(f"there is no field {error}") from None
    except InvalidKeyError as error:
        raise _WrongError(error.reason) from None
    raise _WrongError("no field says what kind of line this is")


def _only(tree: dict[str, Any], *fields: str) -> None:
    unknown = next((field for field in tree if field not in fields), None)
    if unknown is not None:
        raise _WrongError(f"there is a field {unknown[:40]!r} that this version does not know")


def _parse_begin(tree: dict[str, Any]) -> Begin:
    if tree["format"] != FORMAT:
        raise _WrongError(f"the format has another number than {FORMAT}; was this written by a newer version?")
    _only(tree, "format", "store")
    return Begin(check_name(tree["store"], "store name"))


def _parse_end(tree: dict[str, Any]) -> End:
    _only(tree, "end", "lines", "digest")
    if type(tree["lines"]) is not int or not isinstance(tree["digest"], str):
        raise _WrongError("lines takes an integer, digest a string")
    return End(check_name(tree["end"], "store name"), tree["lines"], tree["digest"])


def _parse_setting(tree: dict[str, Any]) -> DomainInfo:
    _only(tree, "domain", "keep")
    keep = _milliseconds(tree, "keep")
    if keep is None:
        raise _WrongError("keep takes a number of milliseconds")
    return DomainInfo(_domain(tree), keep)


def _parse_deletion(tree: dict[str, Any]) -> Delete:
    _only(tree, "domain", "key", "deleted")
    if tree["deleted"] is not True:
        raise _WrongError("deleted takes true")
    return Delete(*check_address(_domain(tree), tree["key"]))


def _parse_value(tree: dict[str, Any]) -> Put:
    try:
        value = dumps(tree["value"])
    except EncodeError as error:
        raise _WrongError(error.reason) from None
    return _entry(tree, "value", value)


def _parse_text(tree: dict[str, Any]) -> Put:
    if not isinstance(tree["text"], str):
        raise _WrongError("text takes a string")
    return _entry(tree, "text", tree["text"].encode("utf-8"))


def _parse_base64(tree: dict[str, Any]) -> Put:
    try:
        value = base64.b64decode(tree["base64"], validate=True)
    except (TypeError, ValueError):
        raise _WrongError("base64 takes a string of that encoding") from None
    return _entry(tree, "base64", value)


def _entry(tree: dict[str, Any], form: str, value: bytes) -> Put:
    _only(tree, "domain", "key", form, "ttl", "expires_at")
    address = check_address(_domain(tree), tree["key"])
    return Put(*address, value, _milliseconds(tree, "ttl"), _milliseconds(tree, "expires_at"))


def _domain(tree: dict[str, Any]) -> str:
    domain = check_name(tree["domain"], "domain", allow_empty=True)
    if domain == COPY:
        raise _WrongError(f"the domain {COPY!r} is not for entries")
    return domain


def _milliseconds(tree: dict[str, Any], field: str) -> int | None:
    number = tree.get(field)
    if number is not None and (type(number) is not int or not 0 < number <= _LONGEST):
        raise _WrongError(f"{field} takes a number of milliseconds, more than 0")
    return number


_KINDS: Final[dict[str, Callable[[dict[str, Any]], Line]]] = {
    "format": _parse_begin,
    "end": _parse_end,
    "keep": _parse_setting,
    "deleted": _parse_deletion,
    "value": _parse_value,
    "text": _parse_text,
    "base64": _parse_base64,
}
