"""Runs the contract suite inside a test, and keeps what became of it; no tests here."""

from __future__ import annotations

import textwrap

import pytest

from ptb_kvpersistence.testing.suite import guarantee_of


class Report:
    """A pytest plugin that picks tests by guarantee and face, and remembers the outcome of each.

    Attributes:
        outcomes: Name of the test to "passed", "failed" or "skipped".
        reasons: Name of a skipped test to why.
        guarantees: Name of the test to its guarantee.
    """

    def __init__(self, guarantees=None, face=None, *, by_class=False):
        self._parts = 2 if by_class else 1
        self._guarantees, self._face = guarantees, face
        self.outcomes, self.reasons, self.guarantees = {}, {}, {}

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if item.cls is not None:
                self.guarantees[item.name] = guarantee_of(item.cls, item.originalname)
        items[:] = [
            item
            for item in items
            if (self._guarantees is None or self.guarantees.get(item.name) in self._guarantees)
            and (self._face or "") in item.name
        ]

    def pytest_runtest_logreport(self, report):
        name = "::".join(report.nodeid.split("::")[-self._parts :])
        if report.skipped:
            self.outcomes[name] = "skipped"
            self.reasons[name] = report.longrepr[2]
        elif report.failed or (report.when == "call" and name not in self.outcomes):
            self.outcomes[name] = report.outcome

    def named(self, outcome):
        return {name for name, found in self.outcomes.items() if found == outcome}


def run(pytester: pytest.Pytester, source: str, *options: str, **choice) -> Report:
    """Run a test module of the given text in this process."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(test_it=textwrap.dedent(source))
    report = Report(**choice)
    pytester.inline_run("-p", "no:cacheprovider", "-q", *options, plugins=[report])
    return report
