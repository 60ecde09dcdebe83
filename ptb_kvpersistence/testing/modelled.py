"""Random commits against a model of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ptb_kvpersistence.model import (
    Address,
    Changes,
    Commit,
    CommitReply,
    Delete,
    KeyRange,
    Page,
    Put,
    RangeCheck,
    VersionCheck,
)
from ptb_kvpersistence.testing.faces import Subject
from ptb_kvpersistence.testing.place import Witness
from ptb_kvpersistence.testing.suite import Connect, Suite


class Model:
    """What the port's docstrings say, in the fewest words, without versions of its own."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.changed: dict[tuple[str, str], int] = {}
        self.ids: set[str | None] = set()

    def commit(self, commit: Commit, reply: CommitReply) -> None:
        """Apply a commit, and judge what the backend replied."""
        if commit.id in self.ids:
            assert reply == CommitReply(applied_before=True)
            return
        wrong: set[tuple[str, str]] = set()
        is_range = False
        for check in commit.checks:
            if isinstance(check, VersionCheck):
                if self.entries.get((check.domain, check.key), (b"", 0))[1] != check.version:
                    wrong.add((check.domain, check.key))
            else:
                inside = (change for place, change in self.changed.items() if self._is_inside(place, check.range))
                is_range |= any(change > check.since for change in inside)
        if wrong or is_range:
            assert not reply.is_committed
            assert reply.range_conflict is is_range or wrong
            if not reply.range_conflict:
                assert {place: record and record[:2] for place, record in reply.conflicts.items()} == {
                    place: self.entries.get(place) for place in wrong
                }
            return
        assert reply.is_committed
        self.ids |= {commit.id} - {None}
        for mutation, version in zip(commit.mutations, reply.versions, strict=True):
            place = (mutation.domain, mutation.key)
            if isinstance(mutation, Put):
                self.entries[place] = (mutation.value, version)
            else:
                assert (self.entries.pop(place, None) is not None) is bool(version)
            if version:
                assert version > max(self.changed.values(), default=0)
                self.changed[place] = version

    @staticmethod
    def _is_inside(place: tuple[str, str], keys: KeyRange) -> bool:
        return place[0] == keys.domain and keys.start <= place[1] and (keys.stop is None or place[1] < keys.stop)


class Modelled(Suite):
    """Commits of every kind, one after the other, by several backends."""

    guarantee = "atomic commit"

    @pytest.mark.parametrize("seed", range(5))
    async def test_random_commits_agree_with_a_model(
        self, connect: Connect, backend: Subject, store: int, witness: Witness, seed: Any
    ) -> None:
        chance, model = random.Random(seed), Model()  # noqa: S311 - repeatable randomness
        others = [backend, connect()]

        def address() -> Address:
            return Address(chance.choice("de"), chance.choice("abc"))

        def mutation() -> Put | Delete:
            return Put(*address(), b"%d" % chance.randrange(100)) if chance.random() < 0.7 else Delete(*address())

        def check() -> VersionCheck | RangeCheck:
            if chance.random() < 0.2:
                start, stop = chance.choice(["", "a", "b"]), chance.choice([None, "b", "c"])
                return RangeCheck(
                    KeyRange(chance.choice("de"), start, stop),
                    max(model.changed.values(), default=0) - chance.choice([0, 0, 1, 3]),
                )
            where = address()
            return VersionCheck(*where, model.entries.get(where, (b"", 0))[1] + (chance.random() < 0.1))

        for _ in range(150):
            commit = Commit(
                store,
                tuple(mutation() for _ in range(chance.randrange(4))),
                tuple(check() for _ in range(chance.choice([0, 0, 1, 2]))),
                chance.choice([None, f"id-{chance.randrange(60)}"]),
                chance.random() < 0.5,
            )
            model.commit(commit, await chance.choice(others).perform(commit))
        assert {place[1:]: value for place, value in witness.entries().items()} == {
            place: value for place, (value, _) in model.entries.items()
        }
        for domain in "de":
            reply = await backend.perform(Page(store, KeyRange(domain), 100))
            assert [(key, record[:2]) for key, record in reply.items] == sorted(
                (key, entry) for (where, key), entry in model.entries.items() if where == domain
            )
        changes = (await backend.perform(Changes(store, 0))).changes
        assert [(change[:2], change.version) for change in changes] == sorted(
            model.changed.items(), key=lambda item: item[1]
        )
