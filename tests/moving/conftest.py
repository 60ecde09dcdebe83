"""ptb-kv, as a person calls it."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from ptb_kvpersistence.cli.app import app


class Result(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

    def invoke(*args, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            app([str(arg) for arg in args], prog_name="ptb-kv")
        result = Result(*capsys.readouterr())
        assert (caught.value.code or 0) == code, result
        return result

    return invoke
