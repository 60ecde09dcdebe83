"""What transactions and views need to know of a store, of either face."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ptb_kvpersistence.model import KeyRange
    from ptb_kvpersistence.store.operations import Handle


class Face(Protocol):
    """A store as a transaction sees it."""

    @property
    def name(self) -> str:
        """Name of the store."""

    @property
    def key(self) -> tuple[object, str]:
        """What tells stores apart."""

    @property
    def handle(self) -> Handle:
        """Which store it is, for operations."""

    @property
    def backend(self) -> Any:
        """What performs the requests."""

    def bound_to(self, backend: Any) -> Any:
        """Give the same store on another performer."""


class Pageable(Collection[str], Protocol):
    """A store as a view sees it."""

    def pages(self, keys: KeyRange, *, reverse: bool = False, values: bool = True) -> Iterator[tuple[str, Any]]:
        """Go through a range, a page at a time."""

    def count(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> int:
        """Count keys."""

    def get(self, key: str, default: Any, /) -> Any:
        """Read a value."""
