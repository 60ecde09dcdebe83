"""How a whole request gets to a worker of aiosqlite, and its reply back, in one hop.

aiosqlite has its thread run ``connection.execute(sql, parameters).fetchall()``. Given a request instead of a statement,
the connections of this package perform it, so that a commit of any size costs one hop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.model import Requested

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Idle(Requested[None]):
    """Nothing; its reply comes when all that was asked before is done."""


class Replies:
    """Looks like a cursor to aiosqlite.

    Args:
        perform: Performs a request.
        request: The request.
    """

    def __init__(self, perform: Callable[[Any], Any], request: Any) -> None:
        self._reply = None if isinstance(request, Idle) else perform(request)

    def fetchall(self) -> list[Any]:
        """Give the reply."""
        return [self._reply]
