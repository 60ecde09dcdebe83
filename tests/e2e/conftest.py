"""What every end-to-end test needs: a server, a user, and processes that end with the test."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.server import running_server
from tests.e2e.processes import Process, Rows


@pytest.fixture
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def alice(server):
    return server.add_user("Alice")


@pytest.fixture
def run(server, tmp_path):
    """Start an example; at the end it is killed, and must not have complained."""
    processes = []

    def start(example, tokens, *arguments):
        process = Process(server, tmp_path, example, tokens, *arguments)
        processes.append(process)
        return process.start()

    yield start
    for process in processes:
        process.close()
    for process in processes:
        text = process.log_text()
        assert "Traceback" not in text, text
        assert "ERROR" not in text, text


@pytest.fixture
def rows(tmp_path):
    return Rows(tmp_path / "bot.db")
