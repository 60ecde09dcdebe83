"""What ``keys()``, ``values()`` and ``items()`` of a store give: views that page through it each time anew."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptb_kvpersistence.model import KeyRange
    from ptb_kvpersistence.store.face import Pageable


class _Range:
    """A range of one store."""

    def __init__(self, store: Pageable, keys: KeyRange, *, reverse: bool) -> None:
        super().__init__(store)  # type: ignore[call-arg]
        self._store, self._keys, self._reverse = store, keys, reverse

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        return self._store.pages(self._keys, reverse=self._reverse)

    def __reversed__(self) -> Iterator[Any]:
        return iter(type(self)(self._store, self._keys, reverse=not self._reverse))  # type: ignore[call-overload,no-any-return]

    def __len__(self) -> int:
        return self._store.count(start=self._keys.start, stop=self._keys.stop)

    def _covers(self, key: object) -> bool:
        return isinstance(key, str) and self._keys.start <= key and (self._keys.stop is None or key < self._keys.stop)


class Keys(_Range, KeysView[str]):
    """Keys of a range."""

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._store.pages(self._keys, reverse=self._reverse, values=False))

    def __contains__(self, key: object) -> bool:
        return self._covers(key) and key in self._store


class Values(_Range, ValuesView[Any]):
    """Values of a range."""

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._pairs())

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)


class Items(_Range, ItemsView[str, Any]):
    """Keys and values of a range."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._pairs()

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2 and self._covers(item[0])):
            return False
        missing = object()
        found = self._store.get(item[0], missing)
        return found is not missing and bool(found == item[1])
