"""callback_data as entries: one per keyboard and one per callback query, in the order of PTB's list.

PTB hands over everything at each cycle; only what differs from the last time becomes a write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.persistence.layout import EntityId
from ptb_kvpersistence.persistence.state import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptb_kvpersistence.errors import EncodeError
    from ptb_kvpersistence.persistence.keeper import Keeper
    from ptb_kvpersistence.persistence.sections import CallbackData

KEYBOARD: Final = "k:"
QUERY: Final = "q:"


class CallbackLedger:
    """Numbers the entries so that their order can be restored with few writes.

    An entry keeps its number while the order holds; whatever stands behind a larger number gets a new one at the end.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._last = 0

    def capture(self, keeper: Keeper, data: CallbackData) -> EncodeError | None:
        """Capture PTB's callback data, what is gone from it included; gives the first error."""
        entries = self.split(data)
        current = {entity.id for entity, _ in entries}
        errors = [error for entity, value in entries if (error := keeper.capture_value(entity, value)) is not None]
        for key, state in list(keeper.replica.states["callback_data"].items()):
            if key not in current and not (state.known is None and state.captured in (NOTHING, None)):
                keeper.capture(EntityId("callback_data", key), None)
        return errors[0] if errors else None

    def split(self, data: CallbackData) -> list[tuple[EntityId, dict[str, Any]]]:
        """Turn PTB's callback data into the values of its entries, in order."""
        keyboards, queries = data
        wanted: list[tuple[str, dict[str, Any]]] = [
            (KEYBOARD + uuid, {"accessed": accessed, "buttons": buttons}) for uuid, accessed, buttons in keyboards
        ]
        wanted.extend((QUERY + query, {"keyboard": keyboard}) for query, keyboard in queries.items())
        numbers: dict[str, int] = {}
        previous = {KEYBOARD: 0, QUERY: 0}
        entries = []
        for key, value in wanted:
            number = self._numbers.get(key, 0)
            if number <= previous[key[:2]]:
                self._last += 1
                number = self._last
            numbers[key] = previous[key[:2]] = number
            entries.append((EntityId("callback_data", key), {"order": number, **value}))
        self._numbers = numbers
        return entries

    def join(self, entries: Iterable[tuple[str, Any]]) -> CallbackData | None:
        """Put entries together again; None if there are none. Entries of another shape are left out."""
        keyboards: list[tuple[int, str, float, dict[str, Any]]] = []
        queries: list[tuple[int, str, str]] = []
        for key, value in entries:
            match key[:2], value:
                case "k:", {"order": int(order), "accessed": int() | float() as accessed, "buttons": dict(buttons)}:
                    keyboards.append((order, key[2:], accessed, buttons))
                case "q:", {"order": int(order), "keyboard": str(keyboard)}:
                    queries.append((order, key[2:], keyboard))
                case _:
                    pass
        keyboards.sort(key=lambda row: row[:2])
        queries.sort(key=lambda row: row[:2])
        self._numbers = {KEYBOARD + row[1]: row[0] for row in keyboards}
        self._numbers.update({QUERY + row[1]: row[0] for row in queries})
        self._last = max(self._numbers.values(), default=0)
        if not self._numbers:
            return None
        return [row[1:] for row in keyboards], {query: keyboard for _, query, keyboard in queries}
