"""What every end-to-end test needs: a server, a user, and processes that end with the test."""

from __future__ import annotations

import pytest

from ptb_kvpersistence.server import running_server
from tests.e2e.processes import Process, Rows, ServerRows
from tests.ptb.places import PLACES, FilePlace, open_place


@pytest.fixture
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def alice(server):
    return server.add_user("Alice")


@pytest.fixture(params=PLACES)
def database(request):
    """Where the examples keep their data."""
    place = open_place(request.param, request)
    yield place
    place.close()


@pytest.fixture
def run(server, tmp_path, database):
    """Start an example; at the end it is killed, and must not have complained."""
    processes = []

    def start(example, tokens, *arguments):
        process = Process(server, tmp_path, database.location, example, tokens, *arguments)
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
def rows(database):
    return Rows(database.location) if isinstance(database, FilePlace) else ServerRows(database.witness())
