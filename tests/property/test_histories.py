"""Thousands of random histories of bots on one store: nothing is lost, doubled or brought back, and all agree.

``KV_HISTORIES=100000 pytest tests/property/test_histories.py`` plays more of them; a failure names its seed.
"""

from __future__ import annotations

import logging
import os

import pytest

from ptb_kvpersistence.merge import merge
from ptb_kvpersistence.persistence import keeper, replica
from tests.property.histories import World

HISTORIES = int(os.environ.get("KV_HISTORIES", "2000"))
BATCHES = 8


@pytest.fixture(autouse=True)
def _quiet():
    # By this call alone, since loggers remember what they were told of their level.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(seed, **options):
    world = World(seed, **options)
    try:
        return world.play()
    except BaseException as error:
        error.args = (f"history {seed} {options}: {error}",)
        raise


def play_all(seeds):
    return sum(play(seed).ledger.edits for seed in seeds)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_histories_in_memory(batch):
    """Two or three bots, sometimes a script; failures, cancellations and crashes in a share of the histories."""
    edits = play_all(range(batch, HISTORIES, BATCHES))
    assert edits > HISTORIES / BATCHES * 10


def test_histories_on_a_file(tmp_path):
    for seed in range(max(40, HISTORIES // 100)):
        play(1_000_000 + seed, path=str(tmp_path / f"{seed}.db"))


def test_long_histories():
    for seed in range(max(10, HISTORIES // 100)):
        play(2_000_000 + seed, steps=80)


def test_histories_with_many_failures():
    errors = 0
    for seed in range(max(100, HISTORIES // 20)):
        errors += play(3_000_000 + seed, failures=0.6).errors
    assert errors > 0


def test_a_history_is_told_by_its_seed():
    def story(seed):
        world = play(seed, failures=0.1)
        return world.ledger.edits, world.tokens, world.loop.time(), dict(world.ledger.own)

    for seed in range(20):
        assert story(seed) == story(seed)


def forgetful(base_ours, ours, base_theirs, theirs, **options):
    return merge(base_theirs, ours, base_theirs, theirs, **options)


def blind(base_ours, ours, base_theirs, theirs, **options):
    return merge(base_ours, ours, base_ours, theirs, **options)


def overwriting(base_ours, ours, base_theirs, theirs, **options):
    return ours, []


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (replica, "merge", forgetful),
        (replica, "merge", blind),
        (replica, "merge", overwriting),
        (replica.Replica, "land", lambda self: setattr(self, "in_flight", frozenset())),
        (keeper.Keeper, "_take_along", lambda self: None),
        (keeper.Keeper, "capture_touched", lambda self: None),
    ],
    ids=["forgetful", "blind", "overwriting", "no flight", "alone", "crash"],
)
def test_the_histories_tell_a_fault(monkeypatch, where, name, fault):
    """What the code is made for is needed: without it some history ends wrong."""
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError):
        play_all(range(1000))
