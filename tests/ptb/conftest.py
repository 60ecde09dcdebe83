"""Fixtures for the tests that run KVPersistence under real Applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.persistence import sight
from tests.ptb.offline import TOKEN, OfflineBot, Witness
from tests.ptb.places import MEMORY, PLACES, open_place
from tests.ptb.remote import remote, remote_server, start_there  # noqa: F401 - fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked so on every database, and all else on a file."""
    if "database" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("everywhere")
        kinds: tuple[str, ...] = PLACES if marker and "path" not in metafunc.fixturenames else PLACES[:1]
        if marker and marker.kwargs.get("memory"):
            kinds += (MEMORY,)
        metafunc.parametrize("database", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bots wait for their looks as long as the machine needs; that they do not is tested among the faults."""
    monkeypatch.setattr(sight, "LOOK_TIMEOUT", 20.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the bots of a test that is about files keep their data."""
    return tmp_path / "bot.db"


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A database of the test's own."""
    place = open_place(request.param, request)
    yield place
    place.close()


@pytest.fixture
def location(database: Any) -> Any:
    """Where the bots of a test keep their data: a path or a URL."""
    return database.location


@pytest.fixture
def witness(database: Any) -> Witness:
    """A client that sees that database without the package."""
    return database.witness()


class StartBot(Protocol):
    """Starts a bot on the test's database, or with a persistence of its own."""

    async def __call__(
        self, token: str = TOKEN, *, persistence: KVPersistence | None = None, options: Any = None, **settings: Any
    ) -> OfflineBot: ...


@pytest_asyncio.fixture
async def start_bot(location: Any) -> AsyncIterator[Callable[..., Any]]:
    """Start bots; those that still live when the test ends are stopped."""
    bots: list[OfflineBot] = []

    async def start(
        token: str = TOKEN, *, persistence: KVPersistence | None = None, options: Any = None, **settings: Any
    ) -> OfflineBot:
        if persistence is None:
            persistence = KVPersistence(location, max_staleness=0, **(options or {}))
        bot = OfflineBot(persistence, token, **settings)
        bots.append(bot)
        return await bot.start()

    yield start
    for bot in reversed(bots):
        if bot.app.persistence is not None:
            await bot.stop()
