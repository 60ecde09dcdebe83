"""Stores as JSON lines: byte for byte, all or nothing, and what is wrong with a file said by line."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.cli import exporting
from ptb_kvpersistence.errors import DecodeError
from ptb_kvpersistence.model import Changes, Commit, Delete, DomainInfo, OpenStore, Put, RenameStore
from ptb_kvpersistence.store import dumping, jsonlines, paging
from ptb_kvpersistence.store.operations import drive
from ptb_kvpersistence.store.tally import SKEW, Tally
from tests.moving.content import DAY, VALUES, file_of, fill, held
from tests.moving.test_copy import Between, failing_at, place

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "memory"])
def source(request, tmp_path):
    return fill(place(request.param, tmp_path))


@pytest.fixture(params=["sqlite", "memory"])
def target(request, tmp_path):
    return place(request.param, tmp_path)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "all.jsonl"


def lines_of(file):
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


# --- there and back ---


def test_everything_comes_back(source, target, file, run):
    exported = run("export", source, file)
    imported = run("import", file, target)
    found = held(target)
    assert found == held(source)
    assert found["shop"][0]["kept", "before"] == (b"1", None, None), "no setting gives it a lifetime"
    for result in (exported, imported):
        assert "shop │ 80" in " ".join(result.stdout.replace("│", " │ ").split())
    digests = [line.rpartition("│ ")[2] for line in exported.stdout.splitlines() if "shop" in line]
    assert digests[0] in imported.stdout, "the two can be compared by eye"


def test_the_file_is_as_documented(source, file, run):
    run("export", source, file, "--store", "shop")
    begin, *lines, end = lines_of(file)
    assert begin == {"format": 1, "store": "shop"}
    assert {"domain": "kept", "keep": 30 * DAY} in lines
    assert {"domain": "", "key": "a b", "value": "1"} in lines
    assert {"domain": "values", "key": "nested", "value": json.loads(VALUES["nested"])} in lines
    assert {"domain": "values", "key": "big", "text": VALUES["big"].decode()} in lines
    assert {"domain": "values", "key": "no text", "base64": "//4A"} in lines
    (both,) = (line for line in lines if line.get("key") == "both")
    assert both == {"domain": "lives", "key": "both", "value": 3, "ttl": 5 * DAY, "expires_at": both["expires_at"]}
    assert (end["end"], end["lines"]) == ("shop", len(lines))
    hashes = 0
    for line in lines:
        domain = line["domain"].encode()
        if "keep" in line:
            hashed = f"keep:{len(domain)}:{line['keep']}:".encode() + domain
        else:
            key, value = line["key"].encode(), held(source)["shop"][0][line["domain"], line["key"]][0]
            sizes = f"{len(domain)}:{len(key)}:{len(value)}:{line.get('ttl', '-')}:{line.get('expires_at', '-')}:"
            hashed = sizes.encode() + domain + key + value
        hashes += int.from_bytes(hashlib.sha256(hashed).digest(), "big")
    assert end["digest"] == f"{hashes % 2**256:064x}"


def test_a_line_that_another_program_wrote_anew_is_the_same_line(source, target, file, run):
    run("export", source, file, "--store", "бот")
    lines = [json.dumps(line, indent=None, sort_keys=True) + "\r\n" for line in lines_of(file)]
    lines[1:-1] = reversed(lines[1:-1])
    file.write_text("".join(lines), encoding="utf-8", newline="")
    run("import", file, target)
    assert held(target) == {"бот": held(source)["бот"]}


def test_some_stores_of_a_file(source, target, file, run):
    run("export", source, file, "--store", "бот", "--store", "shop", "--store", "бот")
    run("import", file, target, "--store", "shop")
    assert held(target) == {"shop": held(source)["shop"]}
    assert "no store 'empty', only 'бот', 'shop'" in run("import", file, target, "--store", "empty", code=1).stderr
    assert "'nowhere'" in run("export", source, "-", "--store", "nowhere", code=1).stderr


def command(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "ptb_kvpersistence.cli", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def test_through_a_pipe(tmp_path):
    source, target = fill(tmp_path / "a.db"), tmp_path / "b.db"
    exported = command("export", source, "-")
    assert exported.returncode == 0, exported.stderr
    assert b"was exported to standard output" in exported.stderr
    cut = command("import", "-", target, input=exported.stdout[:-30])
    assert cut.returncode == 1
    assert b"standard input, line " in cut.stderr
    assert not target.exists()
    imported = command("import", "-", target, input=exported.stdout)
    assert imported.returncode == 0, imported.stderr
    assert held(target) == held(source)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "ptb_kvpersistence.cli", "export", str(source), "-"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_what_is_written_during_the_export_is_in_it(source, target, file, run, monkeypatch):
    monkeypatch.setattr(paging, "BATCH", 10)
    numbers, writer = itertools.count(), open_backend(source)
    shop = writer.perform(OpenStore("shop")).id

    def after(request, reply):
        if isinstance(request, Changes) and (number := next(numbers)) < 12:
            mutations = (
                Put("many", f"{number:05}", b'"changed"'),
                Put("many", f"{number + 10:05}", b"1", None, 1000),
                Delete("many", f"{49 - number:05}"),
                Put("many", f"new {number}", b"1"),
                Delete("many", f"new {number - 3}"),
                Delete("values", "nested"),
            )
            writer.perform(Commit(shop, mutations))
        return reply

    monkeypatch.setattr(exporting, "open_existing", lambda location: Between(location, after=after))
    run("export", source, file, "--store", "shop")
    writer.close()
    assert sum("deleted" in line for line in lines_of(file)) > 10
    run("import", file, target)
    assert held(target) == {"shop": held(source)["shop"]}
    assert len(held(target)["shop"][0]) < 80


def test_entries_that_have_expired_since_are_left_out(target, file, run):
    source = place("memory", file.parent)
    with connect(source) as database:
        database.create("s").set("long", 1, ttl=1000)
        database.store("s").set("short", 2, ttl=500)
    run("export", source, file)
    text = file.read_text("utf-8")
    lines = [orjson.loads(line) for line in text.splitlines()]
    for line in lines:
        line.update({"expires_at": line["expires_at"] - 600_000} if "expires_at" in line else {})
    write(file, lines)
    run("import", file, target)
    assert held(target)["s"][0].keys() == {("", "long")} & held(target)["s"][0].keys()
    assert ("", "short") not in held(target)["s"][0]


def write(file, lines):
    """Write lines with the ends they should have."""
    tally, texts = Tally(), []
    for given_line in lines:
        line = given_line
        if "end" in line:
            line = {"end": line["end"], "lines": tally.total.entries, "digest": tally.total.digest}
            tally = Tally()
        elif "keep" in line:
            tally.add_setting(line["domain"], line["keep"])
        elif "deleted" in line:
            tally.add_deletion(line["domain"], line["key"])
        elif "value" in line:
            value = orjson.dumps(line["value"])
            tally.add(Put(line["domain"], line["key"], value, line.get("ttl"), line.get("expires_at")))
        texts.append(orjson.dumps(line) + b"\n")
    file.write_bytes(b"".join(texts))


def test_the_last_of_several_lines_counts(target, file, run):
    entry = {"domain": "", "key": "k"}
    lines = [
        {"format": 1, "store": "s"},
        {**entry, "value": 1},
        {**entry, "value": 2},
        {"domain": "", "key": "gone", "value": 3},
        *({"domain": "fill", "key": str(number), "value": number} for number in range(3000)),
        {**entry, "value": 4},
        {"domain": "", "key": "gone", "deleted": True},
        {"end": "s"},
    ]
    write(file, lines)
    run("import", file, target)
    found = held(target)["s"][0]
    assert found["", "k"] == (b"4", None, None)
    assert ("", "gone") not in found
    assert len(found) == 3001


# --- what is there already ---


def test_a_store_with_entries_is_refused_or_replaced(source, target, file, run):
    run("export", source, file)
    with connect(target) as database:
        database.create("shop")["mine"] = 1
    before = held(target)
    assert "'shop' with entries already" in run("import", file, target, code=1).stderr
    assert held(target) == before
    run("import", file, target, "--overwrite")
    assert held(target) == held(source)


def test_an_import_that_fails_leaves_nothing(source, target, file, run, monkeypatch):
    run("export", source, file)
    with connect(target) as database:
        database.create("shop")["mine"] = 1
    before = held(target)
    for fails in (failing_at(Commit, 1), failing_at(Commit, 3), failing_at(RenameStore, 1)):
        with monkeypatch.context() as patched:
            patched.setattr(exporting, "open_backend", lambda location, fails=fails: Between(location, before=fails))
            assert "it is full" in run("import", file, target, "--overwrite", code=1).stderr
        assert held(target) == before
    run("import", file, target, "--overwrite")
    assert held(target) == held(source)


def test_an_import_that_was_killed_is_repeated(source, target, file, run):
    class Killed(BaseException):
        pass

    run("export", source, file)
    with connect(target) as database:
        assert database.names() == []
    for number in range(1, 200):
        lines = jsonlines.read_lines(file.read_bytes().splitlines(keepends=True), "f")
        sections = dumping.check(jsonlines.read_lines(file.read_bytes().splitlines(keepends=True), "f"))
        with closing(Between(target, before=failing_at(object, number, lambda _: Killed()))) as backend:
            load = dumping.Load("f", "t", sections, overwrite=True, report=lambda step: None)
            try:
                drive(load.run(lines), backend.perform)
            except Killed:
                assert "shop" not in held(target) or held(target)["shop"][0].items() >= held(source)["shop"][0].items()
            else:
                break
    assert held(target) == held(source)
    assert number > 20


def test_what_was_written_is_compared_with_the_file(source, target, file, run, monkeypatch):
    def before(request):
        if isinstance(request, Commit):
            kept = tuple(put for put in request.mutations if put[:2] != ("many", "00007"))
            return Commit(request.store, kept, request.checks)
        return request

    run("export", source, file)
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "open_backend", lambda location: Between(location, before=before))
        assert "79 entries instead of 80" in run("import", file, target, code=1).stderr
    assert "shop" not in held(target)


# --- files ---


def test_a_file_that_is_there_is_kept_or_replaced_at_the_end(source, file, run, monkeypatch):
    file.write_text("mine")
    assert "is there already" in run("export", source, file, code=1).stderr
    with monkeypatch.context() as patched:
        fails = failing_at(Changes, 4)
        patched.setattr(exporting, "open_existing", lambda location: Between(location, before=fails))
        assert "it is full" in run("export", source, file, "--overwrite", code=1).stderr
    assert file.read_text() == "mine"
    assert [path.name for path in file.parent.glob("all*")] == ["all.jsonl"], "nothing is left lying about"
    run("export", source, file, "--overwrite")
    assert lines_of(file)[-1]["end"] == "бот"
    if os.name == "posix":
        assert file.stat().st_mode & 0o077 == 0, "it holds what people said"


def test_a_database_is_not_exported_over_itself(tmp_path, run):
    path = fill(tmp_path / "a.db")
    before = file_of(path)
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        assert "is the database itself" in run("export", path, name, "--overwrite", code=1).stderr
    assert file_of(path) == before


@pytest.mark.skipif(os.name != "posix", reason="there is no such device")
def test_a_device_stays_a_device(source, run):
    before = Path("/dev/null").stat()
    run("export", source, "/dev/null")
    run("export", source, "/dev/null", "--overwrite")
    assert Path("/dev/null").stat().st_mode == before.st_mode
    assert "nothing in the file" in run("import", "/dev/null", "memory:none", code=1).stderr


def test_files_that_cannot_be_used(tmp_path, source, run):
    assert "No such file" in run("import", tmp_path / "none", tmp_path / "b.db", code=1).stderr
    assert "directory" in run("import", tmp_path, tmp_path / "b.db", code=1).stderr.lower()
    assert "No such file" in run("export", source, tmp_path / "none" / "f", code=1).stderr
    assert not (tmp_path / "b.db").exists()


def test_a_database_without_stores(tmp_path, run):
    """As with copy this is no error; what is written must not be taken for a whole file that was lost."""
    database, file = tmp_path / "no stores.db", tmp_path / "lines"
    with connect(database) as opened:
        assert opened.names() == []
    file.write_text("of yesterday")
    assert "already" in run("export", database, file, code=1).stderr
    assert file.read_text() == "of yesterday"
    result = run("export", database, file, "--overwrite")
    assert result.stdout == ""
    assert f"no stores.db holds no store yet; {file} is empty" in result.stderr
    assert file.read_bytes() == b""
    result = run("export", database, "-")
    assert result.stdout == ""
    assert "no stores.db holds no store yet; nothing was exported" in result.stderr
    assert "nothing in the file" in run("import", file, tmp_path / "b.db", code=1).stderr
    assert not (tmp_path / "b.db").exists()


# --- lines that are wrong ---

BEGIN, ENTRY, END = {"format": 1, "store": "s"}, {"domain": "", "key": "k", "value": 1}, {"end": "s"}


def without(line, field):
    return {name: value for name, value in line.items() if name != field}


WRONG = {
    "no JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"domain":"","key":"\xff","value":1}', "not valid JSON"),
    "UTF-16": ('{"domain":""}'.encode("utf-16"), "not valid JSON"),
    "blank": (b"", "not valid JSON"),
    "no object": (b"[1]", "a JSON object"),
    "nothing known": (b"{}", "what kind of line"),
    "another kind": (b'{"hello":1}', "what kind of line"),
    "deep": (b'{"domain":"","key":"k","value":' + b"[" * 2000 + b"]" * 2000 + b"}", "line 3"),
    "too deep": (b'{"domain":"","key":"k","value":' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
    "no domain": (without(ENTRY, "domain"), "no field 'domain'"),
    "no key": (without(ENTRY, "key"), "no field 'key'"),
    "empty key": ({**ENTRY, "key": ""}, "must not be empty"),
    "NUL": ({**ENTRY, "key": "a\0"}, "NUL"),
    "long key": ({**ENTRY, "key": "x" * 1025}, "at most 1024"),
    "long address": ({**ENTRY, "key": "x" * 600, "domain": "y" * 600}, "together"),
    "key a number": ({**ENTRY, "key": 1}, "must be a str"),
    "domain null": ({**ENTRY, "domain": None}, "must be a str"),
    "reserved": ({**ENTRY, "domain": "ptb:copy"}, "not for entries"),
    "unknown": ({**ENTRY, "colour": 1}, "'colour'"),
    "unknown and long": ({**ENTRY, "c" * 10**6: 1}, "'" + "c" * 40 + "'"),
    "two values": ({**ENTRY, "text": "1"}, "'text'"),
    "text a number": (without({**ENTRY, "text": 1}, "value"), "text takes a string"),
    "base64 a number": (without({**ENTRY, "base64": 1}, "value"), "base64 takes"),
    "no base64": (without({**ENTRY, "base64": "!"}, "value"), "base64 takes"),
    "ttl 0": ({**ENTRY, "ttl": 0}, "ttl takes"),
    "ttl true": ({**ENTRY, "ttl": True}, "ttl takes"),
    "ttl a float": ({**ENTRY, "ttl": 1.5}, "ttl takes"),
    "expires never": ({**ENTRY, "expires_at": 2**63}, "expires_at takes"),
    "keep a string": ({"domain": "", "keep": "1"}, "keep takes"),
    "keep nothing": ({"domain": "", "keep": None}, "keep takes"),
    "not deleted": ({"domain": "", "key": "k", "deleted": False}, "deleted takes"),
    "begun twice": (BEGIN, "have no end"),
    "ends another": ({"end": "t", "lines": 1, "digest": ""}, "store 't' ends"),
    "lines a string": ({"end": "s", "lines": "1", "digest": ""}, "lines takes"),
    "too few lines": ({"end": "s", "lines": 7, "digest": ""}, "should have 7 lines here and has 1"),
    "another digest": ({"end": "s", "lines": 1, "digest": "0" * 64}, "digest is another"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_line_is_named_and_nothing_is_changed(what, target, file, run):
    line, reason = WRONG[what]
    write(file, [BEGIN, ENTRY, END])
    begin, entry, end = file.read_bytes().splitlines(keepends=True)
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    file.write_bytes(begin + entry + text + b"\n" + end)
    error = run("import", file, target, code=1).stderr
    assert "all.jsonl, line 3: " in error
    assert reason in error
    assert "nothing was imported" in error
    assert len(error) < 1000
    assert not Path(target).exists() or held(target) == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (ENTRY, "a store begins with"),
        ({"format": 2, "store": "s"}, "newer version"),
        ({"format": "1", "store": "s"}, "newer version"),
        ({"format": 1, "store": ""}, "must not be empty"),
        ({"format": 1}, "no field 'store'"),
    ],
)
def test_a_wrong_first_line(line, reason, file, run):
    write(file, [line, ENTRY, END])
    error = run("import", file, "memory:wrong", code=1).stderr
    assert "line 1: " in error
    assert reason in error


def test_a_store_that_is_there_twice(file, run):
    write(file, [BEGIN, ENTRY, END, BEGIN, ENTRY, END])
    assert "line 4: store 's' is there twice" in run("import", file, "memory:wrong", code=1).stderr


def test_a_file_that_was_cut_anywhere(file, run):
    """Or of which a line was lost, doubled or changed."""
    source = place("memory", file.parent)
    with connect(source) as database:
        database.create("s").set_many({f"k{number}": number for number in range(5)})
        database.store("s").domain("d", keep=5).count()
        database.create("t")["k"] = 1
    run("export", source, file)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    spoiled = [whole[:size] for size in range(len(whole) - 1)]
    spoiled += [b"".join(lines[:number] + lines[number + 1 :]) for number in range(len(lines))]
    spoiled += [b"".join([*lines[:number], lines[number], *lines[number:]]) for number in range(len(lines))]
    spoiled += [whole.replace(b'"value":3', b'"value":4'), whole.replace(b'"keep":5000', b'"keep":5001')]
    complete = {b"".join(lines[:8])[:-1], b"".join(lines[:8])}, lines
    for text in spoiled:
        if text in complete[0]:
            continue  # cut behind the end of the first store
        with pytest.raises(DecodeError, match=r"line \d+: .*nothing was imported"):
            dumping.check(jsonlines.read_lines(text.splitlines(keepends=True), "file"))
    assert [section[:2] for section in dumping.check(jsonlines.read_lines(lines, "file"))] == [("s", 6), ("t", 1)]


def test_a_file_that_changes_while_it_is_read(file, target, run, monkeypatch):
    write(file, [BEGIN, ENTRY, END])

    def before(request):
        if isinstance(request, OpenStore):
            file.write_bytes(file.read_bytes().replace(b'"value":1', b'"value":2'))
        return request

    monkeypatch.setattr(exporting, "open_backend", lambda location: Between(location, before=before))
    assert "digest is another" in run("import", file, target, code=1).stderr
    assert held(target) == {}


# --- properties ---

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
MOMENT = st.none() | st.integers(1, 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).map(lambda tree: json.dumps(tree, ensure_ascii=len(str(tree)) % 2 == 0).encode("utf-8", "replace"))


@given(TEXT, TEXT.filter(bool), st.binary(max_size=30) | JSON, MOMENT, MOMENT)
def test_every_entry_comes_back_byte_for_byte(domain, key, value, ttl, expires_at):
    put, tally = Put(domain, key, value, ttl, expires_at), Tally()
    tally.add(put)
    line = jsonlines.entry_line(*put)
    assert line.count(b"\n") == 1
    lines = [jsonlines.begin_line("s"), line, jsonlines.end_line("s", tally.total)]
    assert list(jsonlines.read_lines(lines, "f"))[1] == put


@given(st.lists(st.binary(max_size=60) | st.sampled_from([orjson.dumps(BEGIN), orjson.dumps(ENTRY)]), max_size=5))
def test_any_bytes_are_read_or_refused(lines):
    with pytest.raises(DecodeError, match="line"):
        list(jsonlines.read_lines(lines, "f"))


FIELDS = Put("domain", "key", b"value", 1, 2)


@pytest.mark.parametrize(
    "other",
    [
        FIELDS._replace(ttl=None),
        FIELDS._replace(expires_at=None),
        FIELDS._replace(domain="x"),
        FIELDS._replace(key="x"),
        FIELDS._replace(value=b"x"),
        FIELDS._replace(ttl=2, expires_at=1),
        FIELDS._replace(ttl=12, expires_at=None),
        FIELDS._replace(domain="domaink", key="ey"),
        FIELDS._replace(key="keyv", value=b"alue"),
    ],
)
def test_each_field_counts_in_the_digest(other):
    one, two, both, back = Tally(), Tally(), Tally(), Tally()
    one.add(FIELDS)
    two.add(other)
    both.add(FIELDS)
    both.add(other)
    back.add(other)
    back.add(FIELDS)
    assert one.total != two.total
    assert both.total == back.total
    both.add(other, -1)
    assert both.total == one.total


def test_what_might_have_expired_is_not_compared():
    tally, at = Tally(1_000_000), 1_000_000
    for expires_at in (None, at - 5, at, at + 1, at + SKEW, at + 3 * SKEW, at + 100 * SKEW):
        tally.add(FIELDS._replace(expires_at=expires_at))
    assert tally.total.entries == 7
    assert tally.lasting(at).entries == 3
    assert tally.lasting(at + 10 * SKEW).entries == 2
    tally.add_setting(*DomainInfo("d", 5))
    assert tally.lasting(at).entries == tally.stored.entries - 4
