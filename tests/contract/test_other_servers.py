"""The environment variables that point the tests at other servers: those are used, and must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.servers import valkey

ROOT = Path(__file__).parents[2]
VARIABLES = {"TestPostgres": "KV_TEST_POSTGRES_URL", "TestValkey": "KV_TEST_REDIS_URL"}


def run(suite, url):
    """Run a test of the contract as a user would; tell how it ended, and what was printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"tests/contract/test_backends.py::{suite}::test_info",
        ],
        cwd=ROOT,
        env={**os.environ, VARIABLES[suite]: url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_another_postgres(own_server):
    def commits():
        with psycopg.connect(own_server.url) as connection:
            return connection.execute("SELECT sum(xact_commit) FROM pg_stat_database").fetchone()[0]

    before = commits()
    code, printed = run("TestPostgres", own_server.url)
    assert code == 0, printed
    assert "1 passed" in printed
    assert commits() > before + 10


def test_another_valkey(tmp_path):
    server = valkey.Server(tmp_path / "other").start()
    try:
        code, printed = run("TestValkey", server.url)
        assert code == 0, printed
        assert "1 passed" in printed
        with server.client() as client:
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] > 0
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("suite", "url"),
    [("TestPostgres", "postgresql://postgres@127.0.0.1:1/postgres"), ("TestValkey", "redis://127.0.0.1:1")],
)
def test_one_that_is_not_there_is_no_reason_to_skip(suite, url):
    code, printed = run(suite, url)
    assert code == 1
    assert "error" in printed or "failed" in printed
    assert "skipped" not in printed
    assert "passed" not in printed
