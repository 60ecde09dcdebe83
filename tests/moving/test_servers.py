"""Copies from a file over every kind of server and back: nothing is lost or changed on the way."""

from __future__ import annotations

import itertools
import re
import uuid
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.errors import ConfigurationError
from ptb_kvpersistence.model import Commit, OpenStore, Put
from tests.moving.content import JSON, KEYS, held
from tests.servers import valkey


@pytest.fixture
def servers(schema, valkey_server, valkey_cluster):
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield [schema.url, *(f"{server.url}?prefix={prefix}" for server in (valkey_server, valkey_cluster))]
    for server in (valkey_server, valkey_cluster):
        with server.client() as client:
            valkey.remove(client, prefix)


@pytest.fixture
def source(tmp_path):
    location = str(tmp_path / "source.db")
    with connect(location) as database:
        shop = database.create("shop")
        shop.set_many({key: number for number, key in enumerate(KEYS)})
        shop.set("ttl", [1], ttl=86_400)
        shop.set("until", (1, 2), expires_at=datetime.now(timezone.utc) + timedelta(days=9))
        shop.domain("orders", keep=timedelta(days=30))["PO-1"] = {"when": datetime(2026, 1, 2, tzinfo=timezone.utc)}
        shop.domain("many").set_many({f"{number:05}": number for number in range(3000)})
        shop.discard(KEYS[0])
        database.create("empty")
    with closing(open_backend(location)) as backend:
        store = backend.perform(OpenStore("texts", "create")).id
        backend.perform(Commit(store, tuple(Put("d", name, text) for name, text in JSON.items())))
    return location


def test_there_and_back(source, servers, tmp_path, run):
    end = str(tmp_path / "end.db")
    places = [source, *servers, end]
    for here, there in itertools.pairwise(places):
        shown = " ".join(run("copy", here, there).stderr.split())
        assert re.search("copying shop [^0-9]*100% 3,0.. entries", shown), "the progress bar"
        assert re.search("comparing shop [^0-9]*100% 3,0.. entries", shown)
    assert held(end) == held(source)


def test_lines_from_one_server_to_another(source, servers, tmp_path, run):
    postgres, single, _ = servers
    lines, end = tmp_path / "all.jsonl", str(tmp_path / "end.db")
    run("copy", source, postgres)
    run("export", postgres, lines)
    run("import", lines, single)
    run("copy", single, end)
    assert held(end) == held(source)


def test_a_server_that_holds_something_is_not_overwritten(source, servers, run):
    single = servers[1]
    with connect(single) as database:
        database.create("shop")["mine"] = 1
    assert "shop" in run("copy", source, single, code=1).stderr
    with connect(single) as database:
        assert dict(database.store("shop")) == {"mine": 1}


@pytest.mark.parametrize("place", [0, 1, 499, 998, 999, 1500])
@pytest.mark.parametrize("by", ["copy", "lines"])
def test_what_json_is_not_stays_out_of_postgres_and_is_named(tmp_path, schema, run, by, place):
    location, lines = str(tmp_path / "odd.db"), tmp_path / "odd.jsonl"
    puts = [Put("ключи", f"{number:04}", b"1") for number in range(1501)]
    puts[place] = puts[place]._replace(value=b"[topsecret")
    with closing(open_backend(location)) as backend:
        store = backend.perform(OpenStore("shop", "create")).id
        backend.perform(Commit(store, tuple(puts)))
    if by == "lines":
        run("export", location, lines)
        result = run("import", lines, schema.url, code=1)
    else:
        result = run("copy", location, schema.url, code=1)
    assert "json" in result.stderr
    assert f"entry '{place:04}' of domain 'ключи' in store 'shop'" in result.stderr
    assert "topsecret" not in result.stderr
    assert "s3cret" not in result.stderr
    with connect(schema.url) as database, pytest.raises((KeyError, ConfigurationError)):
        database.store("shop")
    with connect(location) as database:
        database.store("shop").domain("ключи")[f"{place:04}"] = 5
    run("copy", location, schema.url)
    with connect(schema.url) as database:
        assert len(database.store("shop").domain("ключи")) == 1501


def test_a_server_that_goes_away_names_no_entry(source, schema, run):
    with connect(schema.url) as database:
        database.create("other")
    schema.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'a hot standby' USING ERRCODE = 'read_only_sql_transaction'; END $$"
    )
    schema.rows("CREATE TRIGGER refuse BEFORE INSERT ON kv_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
    result = run("copy", source, schema.url, code=1)
    assert "is read-only" in result.stderr
    assert "entry" not in result.stderr
