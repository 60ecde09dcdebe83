"""How a fault inside a value finds its place: the steps are collected while the error travels outwards.

Nothing is paid for places in the good case. No encoding or decoding happens here.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Step: TypeAlias = str
"""What a place gets behind it on the way to a child, for example ``.text`` or ``['cart']`` or ``[0]``."""

_MAX_STEPS: Final = 24
_MAX_TEXT: Final = 60
_SHOWN_KEYS: Final = frozenset((str, int, float, bool, type(None), bytes))


class Fault(Exception):  # noqa: N818 - a fault becomes an error only at the surface
    """A value cannot be encoded or decoded; becomes an EncodeError or DecodeError at the surface.

    Attributes:
        reason: What is wrong, without any value.
        cause: The exception behind it, if there is one.
        steps: Innermost first.
    """

    def __init__(self, reason: str, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause
        self.steps: list[Step] = []

    def at(self, step: Step) -> Fault:
        """Note a step on the way out; returns the fault itself, to be raised again."""
        if step:
            self.steps.append(step)
        return self

    def place(self, root: str) -> str:
        """The whole place below ``root``; the middle of a very long one is left out."""
        steps = self.steps[::-1]
        if len(steps) > _MAX_STEPS:
            half = _MAX_STEPS // 2
            steps = [*steps[:half], "...", *steps[-half:]]
        return root + "".join(steps)


def item_step(key: object) -> Step:
    """The step to the value under ``key``; ``repr`` is called on built-in scalars only."""
    if type(key) in _SHOWN_KEYS:
        return f"[{_shortened(repr(key))}]"
    if type(key) is tuple and len(key) <= 8 and all(type(part) in _SHOWN_KEYS for part in key):
        return f"[{_shortened(repr(key))}]"
    return f"[<{type_name(type(key))}>]"


def attribute_step(name: object) -> Step:
    """The step to the attribute ``name``."""
    if type(name) is not str:
        return f".<attribute <{type_name(type(name))}>>"
    return f".{_shortened(name)}" if name.isidentifier() else f".<attribute {_shortened(repr(name))}>"


def element_step(index: int) -> Step:
    """The step to an element of something without an order, by its turn in the iteration."""
    return f".<element {index}>"


def key_step(index: int) -> Step:
    """The step to the key itself, by its turn in the iteration."""
    return f".<key {index}>"


def type_name(cls: type) -> str:
    """The name of a class for a message, with its module unless that is builtins."""
    module = type.__dict__["__module__"].__get__(cls)
    name = type.__dict__["__qualname__"].__get__(cls)
    return f"{module}.{name}" if type(module) is str and module != "builtins" else str(name)


def shown(text: object) -> str:
    """A name from stored data for a message: shortened, control characters escaped."""
    return _shortened(repr(text)) if isinstance(text, str) else f"a {type_name(type(text))}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:40]}...{text[-10:]}"
