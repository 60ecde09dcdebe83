"""How a method of the Bot API is found by its name, and what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ptb_kvpersistence.server.parameters import Parameters
from ptb_kvpersistence.server.world import Account, Room, World


@dataclass(frozen=True)
class Request:
    """One call of a method by a bot."""

    world: World
    account: Account
    parameters: Parameters

    def room(self, name: str = "chat_id", *, write: bool = False) -> Room:
        """Return the chat that a parameter names; see `World.room`."""
        return self.world.room(self.account, self.parameters.text(name), write=write)


@dataclass(frozen=True)
class Described:
    """A result that comes with a description beside it."""

    result: Any
    description: str


Method = Callable[[Request], Awaitable[Any]]

METHODS: dict[str, tuple[str, Method]] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a coroutine function as a method; names are looked up without regard to case, as on Telegram."""

    def register(function: Method) -> Method:
        METHODS[name.lower()] = (name, function)
        return function

    return register
