"""Nothing but SQLite touches the database file, and what happens to those who do is known."""

from __future__ import annotations

import subprocess
import sys

from tests.faults import processes
from tests.faults.raw import check_file, users


def test_nothing_but_sqlite_opens_the_file(tmp_path):
    path = tmp_path / "bot.db"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.opens", str(path)],
        env=processes.environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["opened by other means: []", "done"]
    check_file(path)
    assert users(path)[1]["text"] == "hello"
