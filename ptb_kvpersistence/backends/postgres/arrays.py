"""How values travel: arrays in PostgreSQL's binary format, made in one go, and JSON as the bytes it is.

psycopg would convert a list item by item, and parse JSON; a value is opaque text here.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg.adapt import Buffer

_HEADER: Final = Struct(">iiIii")
_LENGTH: Final = Struct(">i")
_INT8: Final = Struct(">iq")
_INT2: Final = Struct(">ih")
_NULL: Final = _LENGTH.pack(-1)
_EMPTY: Final = Struct(">iiI")


class Array:
    """An array parameter.

    Attributes:
        data: In the binary format.

    Source: array_recv in PostgreSQL's arrayfuncs.c.
    """

    __slots__ = ("data",)
    element: int

    def __init__(self, items: Sequence[Any]) -> None:
        if not items:
            self.data = _EMPTY.pack(0, 0, self.element)
            return
        parts = [_HEADER.pack(1, int(None in items), self.element, len(items), 1)]
        parts.extend(self._pack(items))
        self.data = b"".join(parts)

    def _pack(self, items: Sequence[Any]) -> Iterable[bytes]:
        raise NotImplementedError


class Texts(Array):
    """``text[]`` of str."""

    element = 25

    def _pack(self, items: Sequence[str | None]) -> Iterable[bytes]:
        for item in items:
            if item is None:
                yield _NULL
            else:
                data = item.encode()
                yield _LENGTH.pack(len(data))
                yield data


class Jsons(Array):
    """``json[]`` of JSON text in bytes."""

    element = 114

    def _pack(self, items: Sequence[bytes | None]) -> Iterable[bytes]:
        for item in items:
            if item is None:
                yield _NULL
            else:
                yield _LENGTH.pack(len(item))
                yield item


class Bigints(Array):
    """``bigint[]`` of int."""

    element = 20

    def _pack(self, items: Sequence[int | None]) -> Iterable[bytes]:
        return (_NULL if item is None else _INT8.pack(8, item) for item in items)


class Smallints(Array):
    """``smallint[]`` of int."""

    element = 21

    def _pack(self, items: Sequence[int]) -> Iterable[bytes]:
        return (_INT2.pack(2, item) for item in items)


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.data


class _TextsDumper(_ArrayDumper):
    oid = 1009


class _JsonsDumper(_ArrayDumper):
    oid = 199


class _BigintsDumper(_ArrayDumper):
    oid = 1016


class _SmallintsDumper(_ArrayDumper):
    oid = 1005


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def adapters() -> psycopg.adapt.AdaptersMap:
    """Build the conversions that our connections use."""
    found = psycopg.adapt.AdaptersMap(psycopg.adapters)
    found.register_dumper(Texts, _TextsDumper)
    found.register_dumper(Jsons, _JsonsDumper)
    found.register_dumper(Bigints, _BigintsDumper)
    found.register_dumper(Smallints, _SmallintsDumper)
    found.register_loader("json", _JsonLoader)
    return found
