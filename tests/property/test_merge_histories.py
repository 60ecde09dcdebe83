"""Random histories of bots on one store: memory, a shadow of two values, flushes and refreshes in any order."""

from __future__ import annotations

import copy
import random

import pytest

from ptb_kvpersistence.merge import merge
from ptb_kvpersistence.model import ABSENT
from ptb_kvpersistence.policies import Policies

STEPS = 14


class World:
    """The store, holding one entity."""

    def __init__(self, stored, policies):
        self.stored = stored
        self.policies = policies
        self.conflicts = []

    def merge(self, base_ours, ours, base_theirs):
        sides = (base_ours, ours, base_theirs, self.stored)
        tree, conflicts = merge(*sides, place=("user_data", "1"), policies=self.policies)
        self.conflicts += conflicts
        return tree


class Bot:
    """A memory with its shadow; what is captured at one time may be committed later."""

    def __init__(self, world):
        self.world = world
        self.memory = copy.deepcopy(world.stored)
        self.base_ours = self.base_theirs = world.stored
        self.captured = None

    def capture(self):
        if self.captured is None:
            self.captured = (copy.deepcopy(self.memory),)

    def commit(self):
        if self.captured is not None:
            (ours,) = self.captured
            self.captured = None
            self.world.stored = self.world.merge(self.base_ours, ours, self.base_theirs)
            self.remember(ours, self.world.stored)

    def remember(self, memory, stored):
        self.base_ours, self.base_theirs = memory, stored

    def refresh(self):
        if self.captured is None:
            self.memory = copy.deepcopy(self.world.merge(self.base_ours, self.memory, self.base_theirs))
            self.base_ours = self.base_theirs = self.world.stored

    def data(self):
        if self.memory is ABSENT:
            self.memory = {}
        return self.memory


class ForgetfulBot(Bot):
    """Remembers after a flush what it wrote, as if memory held that too."""

    def remember(self, memory, stored):
        self.base_ours = self.base_theirs = stored


class BlindBot(Bot):
    """Remembers after a flush what memory held, as if the store held that too."""

    def remember(self, memory, stored):
        self.base_ours = self.base_theirs = memory


def play(seed, stored, edit, *, kind=Bot, policies=None):
    """Play one history, at whose end everybody flushes and refreshes.

    Returns:
        The world; all memories hold what it stores.
    """
    chance = random.Random(seed)
    world = World(stored, policies or Policies())
    bots = [kind(world) for _ in range(chance.choice((2, 2, 3)))]
    for step in range(STEPS):
        bot = chance.choice(bots)
        action = chance.random()
        if action < 0.5:
            edit(bot, chance, step)
        elif action < 0.6:
            bot.capture()
        elif action < 0.8:
            bot.capture()
            bot.commit()
        else:
            bot.refresh()
    for bot in bots:
        bot.commit()
        bot.capture()
        bot.commit()
    for bot in bots:
        bot.refresh()
        assert kind is not Bot or bot.memory == world.stored
    return world


def lost_appends(kind, histories):
    """Count the histories in which an appended item is missing at the end, or is there twice."""
    lost = 0
    for seed in range(histories):
        written = []

        def append(bot, chance, step, written=written):
            written.append(step)
            bot.data()["log"].append(step)

        world = play(seed, {"log": []}, append, kind=kind)
        if sorted(world.stored["log"]) != sorted(written):
            lost += 1
        else:
            assert kind is not Bot or world.conflicts == []
    return lost


def test_no_append_is_lost():
    assert lost_appends(Bot, 20_000) == 0


@pytest.mark.parametrize("kind", [ForgetfulBot, BlindBot])
def test_a_one_sided_shadow_loses_appends(kind):
    assert lost_appends(kind, 500) > 50


def test_counters_are_exact():
    for seed in range(3000):
        total = []

        def increment(bot, chance, step, total=total):
            amount = chance.choice((1, 1, 1, 5, -2))
            total.append(amount)
            data = bot.data()
            data["visits"] = data.get("visits", 0) + amount

        world = play(seed, ABSENT, increment, policies=Policies({"user_data.*.visits": "sum"}))
        assert (world.stored or {}).get("visits", 0) == sum(total)
        assert world.conflicts == []


def test_counters_without_a_policy_are_not():
    def increment(bot, chance, step):
        bot.data()["visits"] = bot.data().get("visits", 0) + 1
        counts.append(1)

    wrong = 0
    for seed in range(300):
        counts = []
        world = play(seed, ABSENT, increment)
        wrong += (world.stored or {}).get("visits", 0) != len(counts)
    assert wrong > 50


@pytest.mark.parametrize("can_drop", [False, True])
def test_deletions_stay_and_so_does_all_else(can_drop):
    """Keys are added once and deleted by anybody who sees them; a drop deletes all that its bot sees."""
    for seed in range(4000):
        alive = {0, 1}
        gone = set()

        def edit(bot, chance, step, alive=alive, gone=gone):
            seen = [] if bot.memory is ABSENT else list(bot.memory["$dict"])
            action = chance.random()
            if action < 0.5 or not seen:
                alive.add(step + 2)
                seen.append([step + 2, {"since": step}])
            elif action < 0.85 or not can_drop:
                gone.add(seen.pop(chance.randrange(len(seen)))[0])
            else:
                gone.update(key for key, _ in seen)
                bot.memory = ABSENT
                return
            bot.memory = {"$dict": seen}

        stored = {"$dict": [[0, {}], [1, {}]]}
        world = play(seed, stored, as_pairs(edit))
        assert {key for key, _ in pairs_of(world.stored)} == alive - gone
        assert world.conflicts == []


def pairs_of(tree):
    return [] if tree is ABSENT or tree == {} else tree["$dict"]


def as_pairs(edit):
    """An empty dict is a plain one; the edit wants the pairs."""

    def changed(bot, chance, step):
        if bot.memory == {}:
            bot.memory = {"$dict": []}
        edit(bot, chance, step)
        if bot.memory == {"$dict": []}:
            bot.memory = {}

    return changed


def test_each_bots_own_fields_hold_its_last_value():
    """Nested edits, deletions and additions of bots that never touch the same place are all there at the end."""
    for seed in range(4000):
        expected = {}

        def edit(bot, chance, step, expected=expected):
            owner = id(bot)
            group, name = chance.choice("ab"), f"{owner}.{chance.randrange(3)}"
            fields = bot.data().setdefault(group, {})
            if chance.random() < 0.3:
                fields.pop(name, None)
                expected.pop((group, name), None)
            else:
                fields[name] = expected[group, name] = step

        world = play(seed, ABSENT, edit)
        found = {
            (group, name): value for group, fields in (world.stored or {}).items() for name, value in fields.items()
        }
        assert found == expected
        assert world.conflicts == []


def test_all_agree_in_the_end():
    """Whatever is edited where, all end with the same value, and nobody raises."""
    for seed in range(3000):

        def edit(bot, chance, step):
            data = bot.data()
            name = chance.choice("abc")
            action = chance.random()
            if action < 0.3:
                data[name] = step
            elif action < 0.6:
                data[name] = [*(data.get(name) if isinstance(data.get(name), list) else []), step]
            elif action < 0.8:
                data.pop(name, None)
            elif action < 0.9:
                data[name] = {"deep": step}
            else:
                bot.memory = ABSENT

        play(seed, ABSENT, edit)
