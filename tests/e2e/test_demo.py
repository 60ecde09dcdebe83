"""The demonstration: it plays to the end, and it says so when something does not come back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ptb_kvpersistence.server import demo
from tests.e2e.processes import environment


@pytest.mark.slow
def test_everything_comes_back():
    done = subprocess.run(
        [sys.executable, "-m", "ptb_kvpersistence.server.demo"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill -9") == 2
    assert "Alice ordered: 2 x Margherita for 17.80." in done.stdout
    assert '"$decimal"' in done.stdout
    assert "Everything came back" in done.stdout
    assert done.stderr == ""


def test_a_bot_that_saves_nothing_is_found_out(monkeypatch, capsys):
    monkeypatch.setattr(demo, "UPDATE_INTERVAL", 1000)
    monkeypatch.setattr(demo, "TIMEOUT", 8.0)
    monkeypatch.setattr(demo, "_PAUSE", 0)
    assert demo.main() == 1
    assert "FAILED: conversations was not saved within 8.0 s" in capsys.readouterr().out


def test_a_bot_that_does_not_start_is_found_out(monkeypatch, capsys):
    monkeypatch.setattr(demo, "UPDATE_INTERVAL", "nonsense")
    monkeypatch.setattr(demo, "_PAUSE", 0)
    assert demo.main() == 1
    printed = capsys.readouterr().out
    assert "FAILED: the bot process has ended by itself" in printed
    assert "could not convert string to float" in printed
