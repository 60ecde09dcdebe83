"""What an earlier version wrote opens in this one, and this one still writes the same."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from ptb_kvpersistence import KVPersistence, connect
from ptb_kvpersistence.backends.sqlite import schema
from tests.exact import is_exact
from tests.golden import content
from tests.golden.write import write

FOLDER = Path(__file__).parent.parent / "golden"


@pytest.fixture(params=["format_1.sqlite", "format_2.sqlite"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    copy = tmp_path / "bot.db"
    shutil.copy(FOLDER / request.param, copy)
    return copy


async def test_all_sections_of_a_golden_file_are_read(golden: Path) -> None:
    persistence = KVPersistence(golden, bot=content.BOT)

    assert is_exact(await persistence.get_user_data(), content.USER_DATA)
    assert is_exact(await persistence.get_chat_data(), content.CHAT_DATA)
    assert is_exact(await persistence.get_bot_data(), content.BOT_DATA)
    for name, states in content.CONVERSATIONS.items():
        assert is_exact(await persistence.get_conversations(name), states)
    assert is_exact(await persistence.get_callback_data(), content.CALLBACK_DATA)
    await persistence.flush()


def test_the_root_of_a_golden_file_is_read(golden: Path) -> None:
    with connect(golden) as database:
        assert dict(database.store().items()) == content.ROOT


def rows(path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT stores.name, domain, key, value FROM entries JOIN stores ON stores.id = store ORDER BY 1, 2, 3"
        )
        return found.fetchall()
    finally:
        connection.close()


async def test_the_current_version_writes_the_newest_golden_file(tmp_path: Path) -> None:
    await write(str(tmp_path / "new.db"))
    newest = tmp_path / "golden.db"
    shutil.copy(FOLDER / f"format_{schema.FORMAT}.sqlite", newest)

    assert rows(tmp_path / "new.db") == rows(newest)
