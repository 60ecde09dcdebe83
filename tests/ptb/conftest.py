"""Fixtures for the tests that run KVPersistence under real Applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio

from ptb_kvpersistence import KVPersistence
from tests.ptb.offline import TOKEN, OfflineBot, Witness


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the bots of a test keep their data."""
    return tmp_path / "bot.db"


@pytest.fixture
def witness(path: Path) -> Witness:
    """A plain SQL client of that file."""
    return Witness(path)


class StartBot(Protocol):
    """Starts a bot on the test's file, or with a persistence of its own."""

    async def __call__(
        self, token: str = TOKEN, *, persistence: KVPersistence | None = None, options: Any = None, **settings: Any
    ) -> OfflineBot: ...


@pytest_asyncio.fixture
async def start_bot(path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start bots; those that still live when the test ends are stopped."""
    bots: list[OfflineBot] = []

    async def start(
        token: str = TOKEN, *, persistence: KVPersistence | None = None, options: Any = None, **settings: Any
    ) -> OfflineBot:
        if persistence is None:
            persistence = KVPersistence(path, max_staleness=0, **(options or {}))
        bot = OfflineBot(persistence, token, **settings)
        bots.append(bot)
        return await bot.start()

    yield start
    for bot in reversed(bots):
        if bot.app.persistence is not None:
            await bot.stop()
