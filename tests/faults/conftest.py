"""Fixtures for the tests of faults."""

from __future__ import annotations

from tests.ptb.remote import remote, remote_server, start_there  # noqa: F401 - fixtures
