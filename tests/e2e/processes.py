"""Running the examples as processes, killing them, and looking at what they have on disk; no tests here."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT = 20.0


def environment(**more):
    """The environment of a child: no token of the outside, and this checkout importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BOT_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **more}


class Process:
    """An example that runs on the server, until it is killed, stopped or closed."""

    def __init__(self, server, folder, database, example, tokens, *arguments):
        self.log = folder / f"{Path(example).stem}-{'-'.join(arguments)}.log"
        self._command = [sys.executable, str(EXAMPLES / example), "--database", str(database), *arguments]
        self._environment = environment(BOT_API_URL=server.url, **tokens)
        self._folder = folder
        self._process = None

    def start(self):
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def kill(self):
        """SIGKILL, or what comes nearest: nothing of the process runs after it."""
        process, self._process = self._process, None
        assert process.poll() is None, self.log_text()
        process.kill()
        process.wait(TIMEOUT)

    def stop(self):
        """Ask it to stop, and return its exit status."""
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()

    def restart(self):
        self.kill()
        return self.start()

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_text(self):
        return self.log.read_text(errors="replace")


class Rows:
    """What is on disk, as another program sees it by plain SQL."""

    def __init__(self, database):
        self._uri = f"{database.as_uri()}?mode=ro"

    def read(self, domain):
        """Key to parsed value of one domain; empty while there is no database yet."""
        query = "SELECT key, value FROM entries WHERE domain = ? AND value IS NOT NULL"
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=5)) as connection:
                return {key: json.loads(value) for key, value in connection.execute(query, (domain,))}
        except sqlite3.OperationalError:
            return {}

    def wait(self, domain, look):
        """Wait until `look` finds in the rows of a domain what it wants; that is then committed."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            rows = self.read(domain)
            if look(rows):
                return rows
            assert time.monotonic() < deadline, f"not saved within {TIMEOUT} s; {domain} has {rows}"
            time.sleep(0.03)


class ServerRows(Rows):
    """What is on a server, as a plain client sees it."""

    def __init__(self, witness):
        self._witness = witness

    def read(self, domain):
        try:
            return self._witness.values(domain)
        except psycopg.errors.UndefinedTable:
            return {}
