"""kill -9 at any moment: no acknowledged commit is lost, none is there by half, and the file opens."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest

from tests.faults.processes import environment

KILLS = int(os.environ.get("KV_TEST_KILLS", "250"))
"""More of them: KV_TEST_KILLS=5000 python -m pytest tests/faults/test_kills.py"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system; see the other test")


def kill(kind, folder, kills):
    seed = random.SystemRandom().randrange(10**9)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.kills", kind, folder, str(kills), str(seed)],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60 + kills,
        check=False,
    )
    assert ended.returncode == 0, f"seed {seed}: {ended.stdout}{ended.stderr}"
    done, commits = map(int, re.findall(r"(\d+) kills, (\d+) commits", ended.stdout)[0])
    assert done == kills
    return commits


@forks
def test_writers_killed_at_random_points(tmp_path):
    assert kill("fork", tmp_path, KILLS) > KILLS


def test_whole_processes_killed(tmp_path):
    assert kill("spawn", tmp_path, 4) >= 4
