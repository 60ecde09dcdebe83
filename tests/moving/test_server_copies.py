"""Copies to each kind of server that are refused, replaced, and broken off at any request."""

from __future__ import annotations

import itertools
import uuid
from contextlib import closing

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.store import paging
from tests.moving.content import JSON, fill, held
from tests.moving.test_copy import Between, Killed, copy, place
from tests.servers import postgres, valkey


@pytest.fixture
def make_url(request):
    """Make places of one's own on a kind of server."""
    with_prefix, schemas = [], []

    def make(kind):
        if kind == "postgres":
            schemas.append(postgres.Schema(postgres.shared_url()))
            return schemas[-1].url
        server = request.getfixturevalue(f"valkey_{kind}")
        prefix = f"t{uuid.uuid4().hex[:12]}"
        with_prefix.append((server, prefix))
        return f"{server.url}?prefix={prefix}"

    yield make
    for schema in schemas:
        schema.drop()
    for server, prefix in with_prefix:
        with closing(server.client()) as client:
            valkey.remove(client, prefix)


SERVERS = ["postgres", "server", "cluster"]


def test_refused_and_replaced(tmp_path, make_url, run):
    first, last = fill(tmp_path / "first.db", values=JSON), tmp_path / "last.db"
    places = [first, *map(make_url, SERVERS), last]
    for source, target in itertools.pairwise(places):
        result = run("copy", source, target)
        assert "s3cret" not in result.stdout + result.stderr
        assert "with entries already" in run("copy", source, target, code=1).stderr
        assert "the same database" in run("copy", target, target, "--overwrite", code=1).stderr
    assert held(last) == held(first)
    for source, target in itertools.pairwise(places):
        run("copy", source, target, "--overwrite")
    assert held(last) == held(first)


@pytest.mark.parametrize("kind", SERVERS)
def test_killed_before_or_after_requests(tmp_path, make_url, monkeypatch, kind):
    monkeypatch.setattr(paging, "BATCH", 40)
    source, back = fill(place("memory", tmp_path), values=JSON), place("memory", tmp_path)
    url = make_url(kind)
    with connect(url) as database:
        database.create("shop")["old"] = 1
    for number in itertools.count(0, 5):
        left, when = itertools.count(-(number // 2)), number % 2

        def act(*arguments, when=when, left=left):
            if len(arguments) - 1 == when and next(left) == 0:
                raise Killed
            return arguments[-1]

        try:
            copy(source, Between(url, before=act, after=act), overwrite=True)
        except Killed:
            copy(source, url, overwrite=True)
        else:
            break
        copy(url, back, overwrite=True)
        assert held(back) == held(source)
    assert number > 60
