"""What must be in the store when a history ends, told by the edits alone, in whatever order they met.

Each edit is of a kind whose outcome does not depend on the order: an append, a sum, a key that only one writer sets,
a token that is added once and deleted by whoever sees it, a drop of all that its writer saw. Where the order decides
(``contested`` keys), any value that was written will do.
"""

from __future__ import annotations

from collections import defaultdict


class Ledger:
    """Collects the edits; an entity is (section, id, owner), the owner None where all bots share it."""

    def __init__(self):
        self.appended = defaultdict(list)
        self.counted = defaultdict(int)
        self.own = {}
        self.dropped = set()
        self.added = defaultdict(set)
        self.gone = defaultdict(set)
        self.contested = defaultdict(set)
        self.edits = 0

    def record(self, kind, entity, *details):
        self.edits += 1
        getattr(self, kind)(entity, *details)

    def append(self, entity, writer, token):
        self.appended[entity].append((writer, token))

    def count(self, entity, amount):
        self.counted[entity] += amount

    def put(self, entity, writer, key, value):
        self.own[entity, writer, key] = value

    def remove(self, entity, writer, key):
        self.own.pop((entity, writer, key), None)

    def add(self, entity, token):
        self.added[entity].add(token)

    def take(self, entity, token):
        self.gone[entity].add(token)

    def contest(self, entity, key, value):
        self.contested[entity, key].add(value)

    def drop(self, entity, writer, seen):
        """All that the writer saw is deleted, and all that it had written itself."""
        self.gone[entity].update(flat_tokens(seen))
        for place in [place for place in self.own if place[:2] == (entity, writer)]:
            del self.own[place]
        self.dropped.update((entity, other, key, value) for (other, key), value in flat_own(seen).items())

    def check(self, entity, value):
        """Compare with what is stored; ``None`` if there is no entry."""
        value = value or {}
        own = {
            place[1:]: kept
            for place, kept in self.own.items()
            if place[0] == entity and (*place, kept) not in self.dropped
        }
        tokens = self.added[entity] - self.gone[entity]
        if is_droppable(entity):
            assert flat_own(value) == own, f"own keys of {entity}"
            assert flat_tokens(value) == tokens, f"tokens of {entity}"
            return
        found = {(writer, key): kept for writer, keys in value.get("own", {}).items() for key, kept in keys.items()}
        assert found == own, f"own keys of {entity}"
        assert set(value.get("shelf", ())) == tokens, f"tokens of {entity}"
        assert value.get("visits", 0) == self.counted[entity], f"counter of {entity}"
        self.check_log(entity, value.get("log", []))
        for (where, key), written in self.contested.items():
            if where == entity:
                assert value.get(key) in written, f"contested of {entity}"

    def check_log(self, entity, log):
        expected = self.appended[entity]
        assert sorted(log) == sorted(token for _, token in expected), f"appends of {entity}"
        for name in {writer for writer, _ in expected}:
            tokens = [token for writer, token in expected if writer == name]
            assert [token for token in log if token in set(tokens)] == tokens, f"order of appends of {entity}"


def is_droppable(entity):
    return entity[0] == "chat_data" or entity[1] == 2


def flat_tokens(value):
    return {key for key in value if isinstance(key, int)}


def flat_own(value):
    return {tuple(key.split(":")): kept for key, kept in value.items() if isinstance(key, str)}
