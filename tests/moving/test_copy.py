"""Copying between databases: all of it, all or nothing, gone on with, and compared."""

from __future__ import annotations

import itertools
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from ptb_kvpersistence import connect, connect_async
from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME
from ptb_kvpersistence.backends.memory import MemoryBackend
from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.cli import copying
from ptb_kvpersistence.errors import (
    ConfigurationError,
    ConflictError,
    DatabaseError,
    DatabaseFullError,
    DatabaseUnavailableError,
)
from ptb_kvpersistence.model import (
    AttachBot,
    Changes,
    Commit,
    Delete,
    DetachBot,
    ListDomains,
    OpenStore,
    Put,
    RenameStore,
    SetDomain,
    Sweep,
)
from ptb_kvpersistence.store import paging
from ptb_kvpersistence.store.transfer import Copy, drive_both
from tests.moving.content import DAY, VALUES, file_of, fill, held

_names = itertools.count()


@pytest.fixture(params=["sqlite", "memory"])
def source(request, tmp_path):
    return fill(place(request.param, tmp_path))


@pytest.fixture(params=["sqlite", "memory"])
def target(request, tmp_path):
    return place(request.param, tmp_path)


def place(kind, folder):
    name = f"moving{next(_names)}"
    return str(folder / f"{name}.db") if kind == "sqlite" else f"memory:{name}"


class Between:
    """A backend that shows each request to somebody before, and each reply after."""

    def __init__(self, location, *, before=lambda request: request, after=lambda request, reply: reply):
        self._backend, self._before, self._after = open_backend(location), before, after
        self.name = self._backend.name
        self.requests = []

    def perform(self, request, timeout=None):
        self.requests.append(request)
        return self._after(request, self._backend.perform(self._before(request), timeout))

    def close(self):
        self._backend.close()


def copy(source, target, **options):
    backends = [open_backend(each) if isinstance(each, str) else each for each in (source, target)]
    with closing(backends[0]) as original, closing(backends[1]) as backend:
        return drive_both(Copy("the source", "the target", **options).run(), original, backend)


# --- all of it ---


def test_everything_is_copied(source, target, run):
    result = run("copy", source, target)
    found = held(target)
    assert found == held(source)
    assert len(found["shop"][0]) == 50 + len(VALUES) + 8 + 4 + 3
    assert found["shop"][0]["kept", "before"] == (b"1", None, None), "no setting gives it a lifetime"
    assert found["shop"][0]["lives", "both"][1:] == held(source)["shop"][0]["lives", "both"][1:]
    assert found["shop"][1] == {"kept": 30 * DAY, "only a setting": DAY}
    assert found["empty"] == ({}, {})
    for words in ("shop │ 80", "бот │ 7", "empty │ 0", "compared"):
        assert words in " ".join(result.stdout.replace("│", " │ ").split())
    assert "copying shop" in result.stderr


def test_one_store_or_some(source, target, run):
    run("copy", source, target, "--store", "бот", "--store", "empty", "--store", "бот")
    assert held(target) == {name: content for name, content in held(source).items() if name != "shop"}
    assert "'nowhere'" in run("copy", source, target, "--store", "shop", "--store", "nowhere", code=1).stderr
    assert "shop" not in held(target)
    run("copy", source, target, "--store", "shop")
    assert held(target) == held(source)


def test_expired_entries_and_tombstones_stay_behind(source, target):
    copy(source, target)
    assert held(target)["shop"][0].keys() & {("lives", "expired"), ("lives", "deleted")} == set()
    with closing(open_backend(target)) as backend:
        shop = backend.perform(OpenStore("shop")).id
        feed = backend.perform(Changes(shop, 0)).changes
        assert [change[:2] for change in feed if change.value is None] == [("ptb:copy", "progress")]
        backend.perform(Sweep())
    assert held(target) == held(source)


def test_a_file_of_the_source_is_only_read(tmp_path, target, run):
    source = fill(tmp_path / "source.db")
    before = file_of(source)
    run("copy", source, target)
    run("copy", source, target, code=1)
    assert file_of(source) == before


@pytest.mark.parametrize("command", ["copy", "export"])
def test_a_source_that_is_not_there_is_not_made(tmp_path, run, command):
    assert "no such database" in run(command, tmp_path / "none.db", tmp_path / "target", code=1).stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    assert "no such database" in run(command, tmp_path / "empty.db", tmp_path / "target", code=1).stderr
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_a_source_without_stores(tmp_path, run):
    with connect(tmp_path / "source.db") as database:
        assert database.names() == []
    result = run("copy", tmp_path / "source.db", tmp_path / "target.db")
    assert result.stdout == ""
    assert "source.db holds no store yet; nothing was copied" in result.stderr
    assert not (tmp_path / "target.db").exists()


def test_a_bot_goes_on_with_the_copy(tmp_path, run):
    with connect(tmp_path / "a.db") as database:
        store = database.create("default")
        store["tuple"] = (1, {2})
        store.domain("orders", keep=1000)["k"] = 1
    run("copy", tmp_path / "a.db", tmp_path / "b.db")
    with connect(tmp_path / "b.db") as database:
        store = database.store()
        assert dict(store) == {"tuple": (1, {2})}
        store.domain("orders")["new"] = 2
        assert store.domain("orders").entry("new").expires_at is not None
        assert [event.key for event in store.watch(since=0, timeout=0)] == ["tuple"]


def test_large_values_do_not_pile_up(tmp_path):
    with closing(open_backend(tmp_path / "a.db")) as backend:
        store = backend.perform(OpenStore("s", "create")).id
        for number in range(60):
            backend.perform(Commit(store, (Put("", str(number), b'"%s"' % (b"x" * (1 << 20))),), durable=False))
    tracemalloc.start()
    try:
        copy(str(tmp_path / "a.db"), str(tmp_path / "b.db"))
        assert tracemalloc.get_traced_memory()[1] < 45 << 20
    finally:
        tracemalloc.stop()
    assert len(held(tmp_path / "b.db")["s"][0]) == 60


@pytest.mark.parametrize("name", ["x" * 1024, "é" * 512, "a/b\n", "[bold]"])
def test_names_of_stores(tmp_path, name, run):
    source, target = place("memory", tmp_path), str(tmp_path / "target.db")
    with connect(source) as database:
        database.create(name)["k"] = 1
    with closing(Between(target, before=failing_at(RenameStore, 1))) as failing, pytest.raises(DatabaseFullError):
        copy(source, failing)
    run("copy", source, target)
    run("copy", source, target, "--overwrite")
    assert held(target) == held(source)


# --- what is there already ---


def test_a_store_with_entries_is_refused_or_replaced(source, target, run):
    with connect(target) as database:
        database.create("shop").domain("d")["mine"] = 1
        database.create("mine")["k"] = 1
    before = held(target)
    assert "'shop' with entries already" in run("copy", source, target, code=1).stderr
    assert held(target) == before
    run("copy", source, target, "--overwrite")
    assert held(target) == held(source) | {"mine": before["mine"]}
    assert "with entries already" in run("copy", source, target, code=1).stderr


def test_a_store_without_entries_is_no_obstacle(source, target, run):
    with closing(open_backend(target)) as backend:
        shop = backend.perform(OpenStore("shop", "create")).id
        backend.perform(SetDomain(shop, "d", 5))
        backend.perform(Commit(shop, (Put("a", "k", b"1"), Put("b", "k", b"1", None, 1))))
        backend.perform(Commit(shop, (Delete("a", "k"),)))
    run("copy", source, target)
    assert held(target) == held(source)


def test_a_store_in_use_is_kept(source, target, run):
    with closing(open_backend(target)) as backend:
        shop = backend.perform(OpenStore("shop", "create")).id
        backend.perform(AttachBot(shop, "seller"))
        assert "'seller'" in run("copy", source, target, "--overwrite", code=1).stderr
        assert held(target) == {"shop": ({}, {})}
        backend.perform(DetachBot(shop, "seller"))
    run("copy", source, target)
    assert held(target) == held(source)


def test_what_comes_into_the_target_meanwhile_is_kept(source, target):
    def before(request):
        if isinstance(request, RenameStore) and request.name == "shop":
            with connect(target) as database:
                database.store("shop")["late"] = 1
        return request

    with connect(target) as database:
        database.create("shop")
    with pytest.raises(ConfigurationError, match="'shop' with entries already"):
        copy(source, Between(target, before=before))
    assert held(target)["shop"] == ({("", "late"): (b"1", None, None)}, {})


def test_who_makes_the_store_at_the_same_moment_is_told_from_the_copy(source, target, run):
    def before(request):
        if isinstance(request, RenameStore) and request.new_name == "shop":
            with connect(target) as database:
                database.create("shop")["new"] = 1
        return request

    with connect(target) as database:
        database.create("shop")["old"] = 1
    with pytest.raises(ValueError, match=r"ptb:copy:shop.*ptb:replaced:shop"):
        copy(source, Between(target, before=before), overwrite=True)
    found = held(target)
    assert found["shop"][0] == {("", "new"): (b"1", None, None)}
    assert found["ptb:replaced:shop"][0] == {("", "old"): (b"1", None, None)}
    assert "ptb:replaced:shop" in run("copy", source, target, "--overwrite", code=1).stderr
    assert held(target)["ptb:replaced:shop"] == found["ptb:replaced:shop"]
    with connect(target) as database:
        database.delete("shop")
    run("copy", source, target, "--overwrite")
    assert held(target) == held(source)


# --- onto itself ---


def test_a_database_is_not_copied_onto_itself(tmp_path, run, monkeypatch):
    path = Path(fill(tmp_path / "a.db"))
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = held(path)
    for other in ("a.db", "link.db", "sqlite:///a.db", tmp_path / "x" / ".." / "a.db"):
        assert "the same database" in run("copy", path, other, "--overwrite", code=1).stderr
    name = fill(place("memory", tmp_path))
    assert "the same database" in run("copy", name, name, code=1).stderr
    assert held(path) == before == held(name) or held(path).keys() == before.keys()
    assert held(path)["бот"] == before["бот"]


def test_a_copied_file_is_another_database(tmp_path, run):
    """It has the same stores, by their identity."""
    source, target = fill(tmp_path / "a.db"), tmp_path / "b.db"
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(target)) as other:
        connection.backup(other)
    with connect(source) as database:
        database.store("бот")["new"] = 1
    run("copy", source, target, "--overwrite")
    assert held(source) == held(target)


# --- broken off, and gone on with ---


def failing_at(kind, number, error=DatabaseFullError):
    counter = itertools.count(1)

    def before(request):
        if isinstance(request, kind) and next(counter) == number:
            raise error("it is full")
        return request

    return before


def puts(backend):
    commits = [request for request in backend.requests if isinstance(request, Commit)]
    return sum(isinstance(each, Put) and each.domain != "ptb:copy" for commit in commits for each in commit.mutations)


def test_a_copy_that_failed_goes_on_where_it_was(tmp_path, source, target, monkeypatch):
    monkeypatch.setattr(paging, "BATCH", 10)
    with pytest.raises(DatabaseFullError):
        copy(source, Between(target, before=failing_at(Commit, 8)))
    assert "shop" not in held(target), "what is not complete has another name"
    again = Between(target)
    moved = copy(source, again)
    assert puts(again) < sum(len(entries) for entries, _ in held(source).values()) - 40
    assert held(target) == held(source)
    assert [(store, entries) for store, entries, _ in moved] == [("empty", 0), ("shop", 80), ("бот", 7)]


async def test_a_copy_that_was_broken_off_is_no_store_yet(source, tmp_path, run):
    target = place("sqlite", tmp_path)
    with pytest.raises(DatabaseFullError):
        copy(source, Between(target, before=failing_at(RenameStore, 2)))
    async with connect_async(target) as database:
        assert await database.names() == ["empty"]
    with connect(target) as database:
        assert database.names() == ["empty"]
        assert len(database.store("ptb:copy:shop").domain("kept")) > 0
    result = run("info", target).stdout
    assert "ptb:copy:shop is a copy of store 'shop' that is not complete" in result
    assert "run the same `ptb-kv copy`" in result
    assert "store ptb:" not in result
    run("export", target, tmp_path / "lines")
    assert b"ptb:copy:" not in (tmp_path / "lines").read_bytes()
    copy(source, target)
    with connect(target) as database:
        assert database.names() == ["empty", "shop", "бот"]
    assert "ptb:" not in run("info", target).stdout


def test_a_copy_that_nobody_goes_on_with_can_be_deleted(tmp_path, run):
    source, target = fill(place("memory", tmp_path)), place("sqlite", tmp_path)
    with pytest.raises(DatabaseFullError):
        copy(source, Between(target, before=failing_at(Commit, 1)), stores=["shop"])
    assert "no store yet" in run("info", target).stdout
    with connect(target) as database:
        assert database.names() == []
        database.delete("ptb:copy:shop")
    assert held(target) == {}


class Killed(BaseException):
    """The end of the process, for whoever is inside."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_before_or_after_any_request(tmp_path, monkeypatch, overwrite):
    """Whoever looks finds the old stores or the new ones; and the next attempt makes all of it right."""
    monkeypatch.setattr(paging, "BATCH", 40)
    source = fill(place("memory", tmp_path))
    new, old = held(source), {}
    for number in itertools.count():
        target = place("memory", tmp_path)
        if overwrite:
            with connect(target) as database:
                database.create("shop")["old"] = 1
                database.create("mine")["old"] = 1
            old = held(target)
        left, when = number // 2, number % 2

        def act(*arguments, when=when, left=itertools.count(-left)):  # noqa: B008 - one for each attempt
            if len(arguments) - 1 == when and next(left) == 0:
                raise Killed
            return arguments[-1]

        try:
            copy(source, Between(target, before=act, after=act), overwrite=overwrite)
        except Killed:
            found = held(target)
            for name in ("shop", "бот", "empty"):
                states = [old.get(name), new[name], new[name][0] | {}]
                present = found.get(name)
                if present is not None:
                    present[0].pop(("ptb:copy", "progress"), None)
                    assert present in states
                elif name in old:
                    assert found[f"ptb:replaced:{name}"] == old[name]
            if overwrite or held(target) != new:
                copy(source, target, overwrite=overwrite)
        else:
            break
        assert held(target) == {**old, **new}, number
    assert number > 60


def test_the_store_that_was_to_be_replaced_comes_back(tmp_path, run):
    """Killed between the two renamings, and then copied without --overwrite."""
    source, target = fill(place("memory", tmp_path)), place("sqlite", tmp_path)
    with connect(target) as database:
        database.create("shop")["old"] = 1
    before = held(target)["shop"]
    with pytest.raises(Killed):
        copy(source, Between(target, before=failing_at(RenameStore, 3, lambda _: Killed())), overwrite=True)
    assert "shop" not in held(target)
    with connect(target) as database:
        assert database.names() == ["empty", "ptb:replaced:shop"]
    assert "ptb:replaced:shop is store 'shop' as it was before a copy" in run("info", target).stdout
    with pytest.raises(ConfigurationError, match="already"):
        copy(source, target)
    assert held(target)["shop"] == before
    copy(source, target, overwrite=True)
    assert held(target) == held(source)


def test_settings_do_not_reach_entries_that_come_after_them(source, target):
    """A copy that got its settings, and then not its name, is gone on with."""
    with pytest.raises(DatabaseFullError):
        copy(source, Between(target, before=failing_at(RenameStore, 1)))
    assert held(target)["ptb:copy:shop"][1]["kept"] == 30 * DAY
    with closing(open_backend(source)) as backend:
        shop = backend.perform(OpenStore("shop")).id
        backend.perform(SetDomain(shop, "kept", None))
        backend.perform(Commit(shop, (Put("kept", "for ever", b"1"),)))
        backend.perform(SetDomain(shop, "kept", DAY))
    copy(source, target)
    assert held(target) == held(source)
    assert held(target)["shop"][0]["kept", "for ever"] == (b"1", None, None)


@pytest.mark.parametrize("moment", [0, 8])
def test_two_at_once_do_not_mix(tmp_path, source, target, monkeypatch, moment):
    monkeypatch.setattr(paging, "BATCH", 10)

    def before(request):
        if isinstance(request, Commit) and len(first.requests) > moment and not done:
            done.append(True)
            with pytest.raises(DatabaseFullError):
                copy(source, Between(target, before=failing_at(Commit, 3)), stores=["shop"])
        return request

    done: list[bool] = []
    first = Between(target, before=before)
    with pytest.raises(ConflictError, match="somebody else"):
        copy(source, first, stores=["shop"])
    copy(source, target)
    assert held(target) == held(source)


def test_a_copy_of_something_else_is_thrown_away(tmp_path, source, target):
    other = place("memory", tmp_path)
    with connect(other) as database:
        database.create("shop")["other"] = 1
    with pytest.raises(DatabaseFullError):
        copy(other, Between(target, before=failing_at(RenameStore, 1)))
    copy(source, target)
    assert held(target) == held(source)


def test_a_copy_is_begun_anew_when_deletions_were_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(paging, "BATCH", 10)
    source, target = fill(tmp_path / "source.db"), place("memory", tmp_path)
    with pytest.raises(DatabaseFullError):
        copy(str(source), Between(target, before=failing_at(Commit, 9)))
    with connect(source) as database:
        for key in list(database.store("shop").keys())[:4]:
            database.store("shop").discard(key)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(f"UPDATE entries SET updated_at = updated_at - {TOMBSTONE_LIFETIME + 1} WHERE value IS NULL")
    with closing(open_backend(source)) as backend:
        assert backend.perform(Sweep()) > 0
    copy(str(source), target)
    assert held(target) == held(source)


def test_a_copy_is_begun_anew_when_an_older_state_of_the_source_came_back(tmp_path):
    source, backup, target = tmp_path / "a.db", tmp_path / "backup.db", place("memory", tmp_path)
    fill(source)
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(backup)) as other:
        connection.backup(other)
    with connect(source) as database:
        database.store("shop").set_many({f"new{number}": number for number in range(20)})
    with pytest.raises(DatabaseFullError):
        copy(str(source), Between(target, before=failing_at(RenameStore, 1)))
    copy(str(backup), target)
    assert held(target) == held(backup)


# --- while the source is written to ---


def test_what_is_written_meanwhile_comes_along(tmp_path, source, target, monkeypatch):
    monkeypatch.setattr(paging, "BATCH", 10)
    numbers = itertools.count()
    writer = open_backend(source)
    shop = writer.perform(OpenStore("shop")).id

    def after(request, reply):
        if isinstance(request, Changes) and (number := next(numbers)) < 25:
            mutations = [
                Put("many", f"{number:05}", b'"changed"'),
                Put("many", f"new {number}", b"1", DAY),
                Delete("many", f"{49 - number:05}"),
                Put("many", f"{number + 20:05}", b"2", None, 1000),
                Delete("many", f"new {number - 3}"),
            ]
            writer.perform(Commit(shop, tuple(mutations)))
        return reply

    copy(Between(source, after=after), target)
    writer.close()
    assert next(numbers) > 25
    assert held(target) == held(source)
    assert ("many", "00004") in held(target)["shop"][0]
    assert ("many", "new 20") not in held(target)["shop"][0]


def test_a_source_that_is_written_to_all_the_time(tmp_path, source, target, run, monkeypatch):
    writer = open_backend(source)
    shop, numbers = writer.perform(OpenStore("shop")).id, itertools.count()

    def after(request, reply):
        if isinstance(request, Changes):
            writer.perform(Commit(shop, (Put("many", "busy", b"%d" % next(numbers)),)))
        return reply

    monkeypatch.setattr(copying, "open_existing", lambda location: Between(location, after=after))
    error = run("copy", source, target, code=1).stderr
    assert "somebody keeps writing to store 'shop'" in error
    assert "shop" not in held(target)
    writer.close()
    again = Between(target)
    copy(source, again)
    assert puts(again) <= 1, "it goes on where it was"
    assert held(target) == held(source)


def test_other_stores_of_the_source_may_be_written_to(tmp_path, target):
    source = fill(place("sqlite", tmp_path))
    writer = open_backend(source)
    other = writer.perform(OpenStore("бот")).id

    def after(request, reply):
        if isinstance(request, Changes):
            writer.perform(Commit(other, (Put("", "busy", b"1"),)))
        return reply

    copy(Between(source, after=after), target, stores=["shop"])
    writer.close()
    assert held(target)["shop"] == held(source)["shop"]


# --- compared ---


def spoiled(change):
    def before(request):
        if isinstance(request, Commit) and any(each.domain == "many" for each in request.mutations):
            return Commit(request.store, tuple(filter(None, map(change, request.mutations))), request.checks)
        return request

    return before


def is_seventh(mutation):
    return mutation.domain == "many" and mutation.key == "00007"


SPOILED = {
    "lost": (lambda put: None if is_seventh(put) else put, "80 entries, the target 79"),
    "value": (lambda put: put._replace(value=b"8") if is_seventh(put) else put, "80 entries, but not the same"),
    "key": (lambda put: put._replace(key="7") if is_seventh(put) else put, "80 entries, but not the same"),
    "domain": (lambda put: put._replace(domain="d") if is_seventh(put) else put, "80 entries, but not the same"),
    "ttl": (lambda put: put._replace(ttl=10 * DAY, expires_at=None) if is_seventh(put) else put, "80 entries"),
    "until": (lambda put: put._replace(expires_at=2**42) if is_seventh(put) else put, "80 entries, but not the same"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_copy_that_is_not_like_its_source(source, target, what):
    change, words = SPOILED[what]
    with pytest.raises(DatabaseError, match=f"copy of store 'shop'.*{words}") as caught:
        copy(source, Between(target, before=spoiled(change)))
    assert "thrown away" in str(caught.value)
    assert "shop" not in held(target)
    copy(source, target)
    assert held(target) == held(source)


def test_a_mismatch_leaves_the_old_store(source, target, run, monkeypatch):
    with connect(target) as database:
        database.create("shop")["old"] = 1
    before = held(target)
    change, _ = SPOILED["value"]
    monkeypatch.setattr(copying, "open_backend", lambda location: Between(location, before=spoiled(change)))
    assert "not the same ones" in run("copy", source, target, "--overwrite", code=1).stderr
    assert held(target)["shop"] == before["shop"]


def test_settings_are_read_when_all_is_copied(source, target):
    def before(request):
        if isinstance(request, ListDomains):
            with connect(source) as database:
                database.store("shop").domain("late", keep=60).count()
        return request

    copy(Between(source, before=before), target)
    assert held(target)["shop"][1]["late"] == 60_000
    assert held(target) == held(source)


def test_entries_that_expire_meanwhile_are_no_mismatch(tmp_path, monkeypatch):
    source, target = place("memory", tmp_path), place("memory", tmp_path)
    with connect(source) as database:
        store = database.create("s")
        store["stays"] = 1
        for number in range(30):
            store.set(f"short{number}", number, ttl=0.005 * (number + 1))
    for _ in range(5):
        copy(source, target, overwrite=True)
        with connect(target) as database:
            assert database.store("s")["stays"] == 1


@pytest.mark.parametrize("backend", [SQLiteBackend, MemoryBackend])
def test_a_request_that_fails_once_is_told_as_it_is(tmp_path, backend, monkeypatch, run, source):
    def perform(self, request, timeout=None, *, real=backend.perform):
        if isinstance(request, Commit) and any(each.domain == "ptb:copy" for each in request.mutations):
            raise DatabaseFullError("no space left")
        return real(self, request, timeout)

    target = place("sqlite" if backend is SQLiteBackend else "memory", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(backend, "perform", perform)
        assert "no space left" in run("copy", source, target, code=1).stderr
    run("copy", source, target)
    assert held(target) == held(source)


@pytest.mark.parametrize("later", [None, DatabaseUnavailableError("it has gone")], ids=["once", "gone"])
def test_who_refuses_once_and_not_again_has_refused_no_entry(tmp_path, source, later):
    failures = [DatabaseError("some trouble"), later]

    def before(request):
        # The batch, and the first part of it that is tried by itself.
        is_next = isinstance(request, Commit) and (len(request.mutations) > 2 or len(failures) == 1)
        failure = failures.pop(0) if is_next and failures else None
        if failure:
            raise failure
        return request

    with pytest.raises(DatabaseError) as caught:
        copy(source, Between(place("memory", tmp_path), before=before))
    assert str(caught.value) == str(later or "some trouble")
    assert not failures
