"""Running scenarios as processes of their own, which must end by themselves; no tests here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0


class Ended(NamedTuple):
    """A process that ended by itself."""

    code: int
    output: str
    seconds: float


def environment(folder):
    """The environment of a child: this checkout is importable, and nothing goes to the user's own folders."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_STATE_HOME": str(folder / "state"), "PYTHONIOENCODING": "utf-8"}


def start(module, name, *arguments, folder, **more):
    """Start a scenario; the caller ends it."""
    command = [sys.executable, "-m", f"tests.faults.{module}", name, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(folder), **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # a group of its own, so that its forks can be ended with it
    )


def end(process):
    """End a process and all its forks, at once."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def run(module, name, *arguments, folder, **more):
    """Run a scenario to its end."""
    began = time.monotonic()
    process = start(module, name, *arguments, folder=folder, **more)
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        end(process)
    return Ended(process.returncode, output, time.monotonic() - began)


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another program that holds a lock of the file until it is told, or dies."""

    def __init__(self, path, statement="BEGIN IMMEDIATE"):
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), statement], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "held\n"

    def release(self):
        """End it, which gives the lock back."""
        if self._process.stdin.closed:
            return
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_details):
        self.release()
