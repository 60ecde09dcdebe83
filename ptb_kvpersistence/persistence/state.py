"""What is known of one entity, kept small: texts that nobody asks for lie compressed.

Each entity costs its text twice, as PTB's objects and as the base of the next merge. Most entities of a large bot are
not touched for long, and their texts resemble each other, so that one of them serves as a dictionary for the rest.
"""

from __future__ import annotations

import ctypes
import zlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptb_kvpersistence.model import Change

PACK_FROM: Final = 2000
"""Entities of a section from which on packing pays."""
SMALLEST: Final = 128
"""Bytes that a text must have to be packed."""
_SLICE: Final = 50
_DICTIONARY: Final = 4096
_WINDOW: Final = -13
_dictionaries: Final[list[bytes]] = []


class Nothing(Enum):
    """The type of :data:`NOTHING`."""

    NOTHING = "nothing"


NOTHING: Final = Nothing.NOTHING
"""No value is there, not even an absent one."""


FOR_EVER: Final = (None, None)


class _Packed(bytes):
    """A compressed text; the first byte is the number of its dictionary."""

    __slots__ = ()


class State:
    """What is known of one entity. Texts are JSON as the codec writes it; None means that there is no entry.

    Attributes:
        version: Version of ``theirs``, of its deletion, or 0.
        newer: A later change of the store that memory has not seen, if any.
        life: ``ttl`` and ``expires_at`` that the entry has in the store, where somebody gave it a lifetime.
        captured: What memory wants stored and the store does not have yet; NOTHING when they agree.
        live: PTB's own object, where it was handed out or shown to us.
        is_replaced: PTB put a new object in place of ``live`` since the last capture: the old one was dropped.
        is_quarantined: The stored text cannot be decoded; it is neither shown nor overwritten.
    """

    __slots__ = ("_ours", "_theirs", "captured", "is_quarantined", "is_replaced", "life", "live", "newer", "version")

    def __init__(self, ours: bytes | None = None, version: int = 0) -> None:
        self._ours = ours
        self._theirs = ours
        self.version = version
        self.newer: Change | None = None
        self.life: tuple[int | None, int | None] = FOR_EVER
        self.captured: bytes | Nothing | None = NOTHING
        self.live: object = NOTHING
        self.is_replaced = False
        self.is_quarantined = False

    @property
    def ours(self) -> bytes | None:
        """What memory held when memory and store last met."""
        if type(self._ours) is _Packed:
            self._unpack(self._ours)
        return self._ours

    @ours.setter
    def ours(self, text: bytes | None) -> None:
        self._ours = text

    @property
    def theirs(self) -> bytes | None:
        """What the store held then; usually the same object as ``ours``."""
        if type(self._theirs) is _Packed:
            self._unpack(self._theirs)
        return self._theirs

    @theirs.setter
    def theirs(self, text: bytes | None) -> None:
        self._theirs = text

    @property
    def known(self) -> bytes | None:
        """The latest text of the store that is known."""
        return self.theirs if self.newer is None else self.newer.value

    def pack(self, dictionary: int) -> None:
        """Compress the text, where both sides have the same and it becomes much smaller."""
        text = self._ours
        if type(text) is bytes and text is self._theirs and len(text) >= SMALLEST:
            press = zlib.compressobj(1, wbits=_WINDOW, zdict=_dictionaries[dictionary])
            packed = _Packed(bytes((dictionary,)) + press.compress(text) + press.flush())
            if len(packed) * 4 < len(text) * 3:
                self._ours = self._theirs = packed

    def _unpack(self, packed: bytes) -> None:
        text = zlib.decompressobj(wbits=_WINDOW, zdict=_dictionaries[packed[0]]).decompress(packed[1:])
        if self._ours is packed:
            self._ours = text
        if self._theirs is packed:
            self._theirs = text


def packing(states: Sequence[State]) -> Iterator[None]:
    """Pack the texts of one section, a slice of about a millisecond at each step."""
    texts: list[Any] = [state._ours for state in states[:: max(1, len(states) // 16)]]  # noqa: SLF001 - its own module
    sample = b"".join(text for text in texts if type(text) is bytes)[:_DICTIONARY]
    if sample not in _dictionaries:
        if len(_dictionaries) > 255:
            return
        _dictionaries.append(sample)
    dictionary = _dictionaries.index(sample)
    for start in range(0, len(states), _SLICE):
        for state in states[start : start + _SLICE]:
            state.pack(dictionary)
        yield
    _give_back()


def _give_back() -> None:
    """Give what was freed back to the system, where the C library has to be told (glibc)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
