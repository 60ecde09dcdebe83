"""The contract suite itself: that it sees broken backends, skips only what is declared, and leaves nothing out."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import pytest

from ptb_kvpersistence import model, testing
from ptb_kvpersistence.backends.memory import AsyncMemoryBackend, MemoryBackend, MemoryEngine
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.sync import Store
from ptb_kvpersistence.testing import GUARANTEES, Contract
from ptb_kvpersistence.testing.suite import Suite, guarantee_of
from tests.contract.broken import BROKEN
from tests.contract.places import MemoryPlace, PooledPlace, PostgresPlace, SQLitePlace, ValkeyPlace
from tests.contract.running import run

pytest_plugins = ["pytester"]

TESTS = sorted(name for name in dir(Contract) if name.startswith("test_"))
TOPICS = Contract.__bases__

HEAD = """
    from ptb_kvpersistence.testing import Contract
    from tests.contract import broken
    from tests.contract.places import MemoryPlace

    def topics(guarantee):
        return [each for each in Contract.__bases__ if each.guarantee == guarantee] or [Contract]

"""
MODULE = (
    HEAD
    + """
    class TestIt(Contract):
        def make_place(self, folder):
            return {place}
"""
)

# --- broken backends ---


def test_every_broken_backend_is_noticed(pytester):
    classes = [
        f"""
    class Test{engine.__name__}(*topics({guarantee!r})):
        def make_place(self, folder):
            return MemoryPlace(broken.{engine.__name__}("memory:broken"))
"""
        for engine, (guarantee, _) in BROKEN.items()
    ]
    words = " or ".join(f"(Test{engine.__name__} and ({words}))" for engine, (_, words) in BROKEN.items())
    report = run(pytester, HEAD + "".join(classes), "-k", words, face="sync", by_class=True)
    failed = {name.partition("::")[0] for name in report.named("failed")}
    assert {engine for engine in BROKEN if f"Test{engine.__name__}" not in failed} == set(), "nobody noticed"


# --- as the docstring says ---


def test_the_docstring_is_how_it_is_done(pytester):
    backend = """
        from ptb_kvpersistence.backends.sqlite.aio import AsyncSQLiteBackend as AsyncMyBackend
        from ptb_kvpersistence.backends.sqlite.sync import SQLiteBackend as MyBackend
    """
    pytester.makepyfile(my_backend=textwrap.dedent(backend))
    pytester.syspathinsert()
    _, _, example = testing.__doc__.partition("::\n\n")
    example, _, _ = example.partition("\nEach test gets")
    words = "large or twice or who_came or tombstones or killed or expired_entry"
    report = run(pytester, example, "-k", words)
    assert not report.named("failed")
    assert len(report.named("passed")) > 10
    assert {report.guarantees[name] for name in report.named("skipped")} == {"survives kill -9"}


@pytest.mark.parametrize("module", ["pytest", "pytest_asyncio"])
def test_without_pytest_the_error_names_the_extra(module):
    code = f"import sys; sys.modules[{module!r}] = None; import ptb_kvpersistence.testing"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "ptb_kvpersistence[testing]" in found.stderr


# --- limits ---


@pytest.mark.parametrize("limits", [{}, {"expiry": "it keeps all", "commit once": "it is naive"}], ids=["none", "two"])
def test_what_is_declared_is_skipped_and_nothing_else(pytester, limits):
    source = MODULE.format(place=f"type('Limited', (MemoryPlace,), {{'limits': {limits!r}}})()")
    report = run(pytester, source, "-k", "swept or sent_twice or get_many or ttl")
    assert report.named("skipped") == {name for name in report.outcomes if report.guarantees[name] in limits}
    assert bool(limits) == bool(report.named("skipped"))
    assert report.named("passed")
    assert not report.named("failed")
    for name, reason in report.reasons.items():
        assert limits[report.guarantees[name]] in reason


def test_a_limit_that_is_no_guarantee_is_refused(pytester):
    source = MODULE.format(place="type('Limited', (MemoryPlace,), {'limits': {'expirey': 'a slip'}})()")
    report = run(pytester, source, "-k", "get_many_of_nothing")
    assert report.outcomes
    assert report.named("failed") == set(report.outcomes)


def test_a_limited_backend_would_fail_without_the_limit(pytester):
    """A row of the table has to be true."""
    source = MODULE.format(place="type('Unlimited', (MemoryPlace,), {'limits': {}})()")
    report = run(pytester, source, "--maxfail=1", guarantees={"survives kill -9"}, face="sync")
    assert report.named("failed")


def test_nothing_in_the_suite_skips_but_the_table():
    folder = Path(testing.__file__).parent
    words = ("skip", "skipif", "importorskip", "xfail")
    found = [
        f"{path.name}: {node.attr}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in words
    ]
    assert found == ["suite.py: skip"]


def test_what_our_own_backends_do_not_guarantee_stands_in_the_readme():
    for place in (SQLitePlace, PostgresPlace, ValkeyPlace):
        assert place.limits == {}
    assert set(MemoryPlace.limits) == {"survives kill -9"}
    assert set(PooledPlace.limits) == {"cheap look"}
    rows = (Path(__file__).parents[2] / "README.md").read_text("utf-8").splitlines()
    (survives,) = (row for row in rows if row.startswith("| committed data survives `kill -9`"))
    assert [cell.strip() for cell in survives.split("|")[2:-1]] == ["yes", "yes", "yes", "no"], "memory is the last one"
    (look,) = (row for row in rows if row.startswith("| a look at an unchanged store"))
    assert "none with notifications; through PgBouncer one" in look


# --- nothing is left out ---


def test_every_guarantee_is_proved():
    assert {guarantee_of(Contract, name) for name in TESTS} == set(GUARANTEES)


def test_every_topic_is_in_the_contract_and_no_test_hides_another():
    folder = Path(testing.__file__).parent
    modules = [
        sys.modules[f"ptb_kvpersistence.testing.{path.stem}"]
        for path in folder.glob("[!_]*.py")
        if path.stem != "client"
    ]
    topics = {
        each
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Suite)
    }
    assert topics - {Suite, Contract} == set(TOPICS)
    written = [name for topic in TOPICS for name in vars(topic) if name.startswith("test_")]
    assert sorted(written) == TESTS
    fixtures = [name for topic in TOPICS for name in vars(topic) if name in vars(Suite) and not name.startswith("__")]
    assert fixtures == [] or set(fixtures) <= {"guarantee"}, "a topic would change the fixtures of all others"


class Recorder:
    """Notes what the suite asks of the port and of the stores."""

    def __init__(self):
        self.requests, self.methods = set(), set()

    def is_suite(self, depth=2):
        return sys._getframe(depth).f_globals.get("__name__", "").startswith("ptb_kvpersistence.testing")

    def noting_request(self, perform):
        def noted(engine, request, *arguments):
            self.requests.add(type(request))
            return perform(engine, request, *arguments)

        return noted

    def noting(self, cls, name, function):
        def noted(*arguments, **options):
            if self.is_suite():
                self.methods.add((cls.__name__, name))
            return function(*arguments, **options)

        return noted


def public(cls):
    names = {name for name in dir(cls) if not name.startswith("_")}
    special = {"__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "__iter__", "__reversed__"}
    return names | (special & set(dir(cls)))


# What the package's own floors use, and users do not: objects for operations, and a store bound to a transaction.
INTERNAL = {"bound_to", "key", "handle", "scope", "backend", "name"}


def requests_of_the_port():
    return {
        each
        for each in vars(model).values()
        if inspect.isclass(each) and issubclass(each, model.Requested) and each is not model.Requested
    }


# Where requests and methods are used; what the other guarantees add is how, and takes longer.
BROAD = {"requests", "stores", "store methods", "change feed", "named locks", "watching", "read-your-writes"}


def test_every_request_and_every_method_is_used(pytester):
    recorded = Recorder()
    patches = [mock.patch.object(MemoryEngine, "perform", recorded.noting_request(MemoryEngine.perform))]
    for cls in (Store, AsyncStore, MemoryBackend, AsyncMemoryBackend):
        for name in public(cls):
            function = inspect.getattr_static(cls, name)
            if inspect.isfunction(function):
                patches.append(mock.patch.object(cls, name, recorded.noting(cls, name, function)))
    for patch in patches:
        patch.start()
    try:
        report = run(pytester, MODULE.format(place="MemoryPlace()"), "-k", "not renewed", guarantees=BROAD)
    finally:
        for patch in patches:
            patch.stop()
    assert not report.named("failed")
    assert not report.named("skipped")
    assert requests_of_the_port() - recorded.requests == set()
    for cls in (Store, AsyncStore):
        missing = {name for name in public(cls) - INTERNAL if (cls.__name__, name) not in recorded.methods}
        assert missing == set(), f"no test of the suite calls these methods of {cls.__name__}"
