"""Texts of entities that lie compressed."""

from __future__ import annotations

import random

import pytest

from ptb_kvpersistence.persistence import state as module
from ptb_kvpersistence.persistence.state import State, packing


def text(number):
    return b'{"name":"somebody","visits":%d,"cart":[%s]}' % (number, b",".join([b'{"sku":"A-17","count":2}'] * 8))


def packed(states):
    return [type(state._ours) is not bytes for state in states]


@pytest.fixture(autouse=True)
def _own_dictionaries(monkeypatch):
    monkeypatch.setattr(module, "_dictionaries", [])


@pytest.fixture
def states():
    found = [State(text(number), number) for number in range(130)]
    for _ in packing(found):
        pass
    return found


def test_a_packed_text_is_small_and_comes_back(states):
    assert all(packed(states))
    assert len(states[5]._ours) < len(text(5)) / 4
    assert [state.ours for state in states] == [text(number) for number in range(130)]
    assert not any(packed(states))


@pytest.mark.parametrize("name", ["ours", "theirs", "known"])
def test_both_sides_stay_one_object(states, name):
    assert getattr(states[7], name) == text(7)
    assert states[7].ours is states[7].theirs


def test_one_side_can_be_replaced(states):
    states[3].ours = b"{}"
    assert (states[3].ours, states[3].theirs) == (b"{}", text(3))
    states[4].theirs = None
    assert (states[4].ours, states[4].theirs) == (text(4), None)


def test_what_is_short_absent_or_of_two_minds_is_left():
    two_minds = State(text(1))
    two_minds.theirs = text(2)
    left = [State(b"{}"), State(None), two_minds]
    for _ in packing(left):
        pass
    assert [state._ours for state in left] == [b"{}", None, text(1)]


def test_what_does_not_shrink_is_left():
    noise = State(random.Random(1).randbytes(300))
    # The second of forty is not among those that the dictionary is made of.
    for _ in packing([State(text(0)), noise, *(State(text(number)) for number in range(38))]):
        pass
    assert packed([noise]) == [False]


def test_dictionaries_are_shared_and_limited(monkeypatch):
    monkeypatch.setattr(module, "_dictionaries", [bytes((number,)) for number in range(256)])
    full = State(text(1))
    for _ in packing([full]):
        pass
    assert packed([full]) == [False]
    monkeypatch.setattr(module, "_dictionaries", [])
    for _ in range(3):
        again = [State(text(1))]
        list(packing(again))
        assert packed(again) == [True]
    assert len(module._dictionaries) == 1
