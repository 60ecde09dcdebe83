"""The fast path: is a value plain JSON as it stands, so that nothing needs a tag?

Strings (lone surrogates), integers (64 bits) and dict keys (str) are left to orjson, which refuses what it cannot
write.
"""

from __future__ import annotations

from typing import Any, Final

_ATOMS: Final = frozenset((str, int, bool, type(None)))
_MAX_DEPTH: Final = 250


def is_plain(value: Any, room: int = _MAX_DEPTH) -> bool:
    """Whether ``orjson.dumps`` writes the value exactly, or raises.

    Args:
        value: Any object; nothing of it is called.
        room: Levels that may still follow; what is deeper (or circular) is not plain.

    Returns:
        False also for a dict that looks like a tag.
    """
    kind = type(value)
    if kind is dict:
        if len(value) == 1:
            (key,) = value
            if type(key) is str and key[:1] == "$":
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return kind in _ATOMS or (kind is float and value - value == 0.0)
    for item in items:
        kind = type(item)
        if kind in _ATOMS:
            continue
        if kind is dict or kind is list:
            if not room or not is_plain(item, room - 1):
                return False
        elif kind is not float or item - item != 0.0:
            return False
    return True
