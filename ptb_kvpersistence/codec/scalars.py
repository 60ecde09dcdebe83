"""Payloads of scalars, both ways: numbers, strings, bytes, identifiers and paths.

Each ``encode_*`` takes exactly its type; each ``decode_*`` takes any payload and raises Fault for a wrong one. Dates
and times are in :mod:`ptb_kvpersistence.codec.times`; what has children is in the encode and decode modules.
"""

from __future__ import annotations

import base64
import re
from decimal import Decimal, InvalidOperation
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Final
from uuid import UUID

from ptb_kvpersistence.codec.place import Fault
from ptb_kvpersistence.codec.text import Tree

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_DECIMAL: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:E[+-]?[0-9]+)?|Infinity|s?NaN[0-9]*)", re.ASCII
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INT: Final = re.compile(r"-?[1-9][0-9]{0,4299}|0")
_HEX: Final = re.compile(r"-?0x[1-9a-f][0-9a-f]*")
_DECIMAL_BITS: Final = 13000  # Python limits the digits of decimal conversion, by default to 4300
_FLOATS: Final = {text: float(text) for text in ("nan", "inf", "-inf")}
PATHS: Final[dict[str, type[PurePath]]] = {
    cls.__name__: cls for cls in (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)
}


def is_valid_text(text: str) -> bool:
    """Whether it can be written as UTF-8, that is, has no lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def encode_surrogates(text: str) -> Tree:
    """A str with lone surrogates as parts and numbers."""
    parts: list[str | int] = []
    end = 0
    for match in _SURROGATE.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        parts.append(ord(match.group()))
        end = match.end()
    if end < len(text):
        parts.append(text[end:])
    return parts


def decode_surrogates(payload: Tree) -> str:
    """The reverse of :func:`encode_surrogates`."""
    parts = []
    for part in payload if type(payload) is list else (None,):
        if type(part) is str:
            parts.append(part)
        elif type(part) is int and 0xD800 <= part <= 0xDFFF:
            parts.append(chr(part))
        else:
            raise Fault("$str takes a list of str and of surrogates as numbers")
    return "".join(parts)


def encode_int(value: int) -> str:
    """An int beyond 64 bits."""
    if value.bit_length() <= _DECIMAL_BITS:
        try:
            return str(value)
        except ValueError:  # the process has a lower limit
            pass
    return hex(value)


def decode_int(payload: Tree) -> int:
    """The reverse of :func:`encode_int`; smaller numbers are read too."""
    if type(payload) is str:
        try:
            if _INT.fullmatch(payload):
                return int(payload)
            if _HEX.fullmatch(payload):
                return int(payload, 16)
        except ValueError:  # the process has a lower limit
            pass
    raise Fault("$int takes a str of up to 4300 decimal digits, or of hexadecimal ones behind 0x")


def encode_float(value: float) -> str:
    """A float that is not finite."""
    return "nan" if value != value else "inf" if value > 0 else "-inf"  # noqa: PLR0124 - only a nan differs from itself


def decode_float(payload: Tree) -> float:
    """The reverse of :func:`encode_float`."""
    if type(payload) is str and payload in _FLOATS:
        return _FLOATS[payload]
    raise Fault("$float takes 'nan', 'inf' or '-inf'")


def encode_bytes(value: bytes | bytearray) -> str:
    """Bytes as base64."""
    return base64.b64encode(value).decode("ascii")


def decode_bytes(payload: Tree) -> bytes:
    """The reverse of :func:`encode_bytes`."""
    if type(payload) is str:
        try:
            return base64.b64decode(payload, validate=True)
        except ValueError:
            pass
    raise Fault("$bytes and $bytearray take a str of base64")


def encode_decimal(value: Decimal) -> str:
    """A Decimal exactly, whatever the context says about capitals."""
    return Decimal.__str__(value).replace("e", "E")


def decode_decimal(payload: Tree) -> Decimal:
    """The reverse of :func:`encode_decimal`."""
    if type(payload) is str and _DECIMAL.fullmatch(payload):
        try:
            value = Decimal(payload)
        except InvalidOperation:
            value = Decimal("nan")
        if not value.is_nan() or "NaN" in payload:  # where the context does not raise, a bad exponent gives a nan
            return value
    raise Fault("$decimal takes a str such as '1.10'")


def encode_uuid(value: UUID) -> str:
    """A UUID in its usual form."""
    return str(value)


def decode_uuid(payload: Tree) -> UUID:
    """The reverse of :func:`encode_uuid`."""
    if type(payload) is str and _UUID.fullmatch(payload):
        return UUID(payload)
    raise Fault("$uuid takes a str such as '12345678-1234-5678-1234-567812345678'")


def create_path(name: object, text: object) -> PurePath:
    """A path of the named class, or the pure one where this system has no such paths."""
    cls = PATHS.get(name) if type(name) is str else None
    if cls is None or type(text) is not str:
        raise Fault(f"$path takes one of {', '.join(PATHS)}, and a str")
    try:
        return cls(text)
    except NotImplementedError:
        return PureWindowsPath(text) if cls is WindowsPath else PurePosixPath(text)
