"""Random trees, related to each other as the sides of a merge are."""

from __future__ import annotations

import orjson
from hypothesis import strategies as st

from ptb_kvpersistence.trees import build_mapping, identify, view_mapping

NAMES = st.sampled_from(["a", "b", "c", "$set", "log", "n"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, "", "a", "\u00e9"]),
    st.sampled_from(
        [
            {"$int": str(2**70)},
            {"$float": "nan"},
            {"$decimal": "1.10"},
            {"$bytes": "AAE="},
            {"$date": "2024-02-29"},
            {"$tuple": []},
            {"$tuple": [1, {"$tuple": ["x"]}]},
            {"$frozenset": [1, 2]},
        ]
    ),
)
KEYS = st.one_of(NAMES, st.integers(-1, 2), st.none(), st.just({"$tuple": [1, "a"]}), st.just({"$bytes": "AAE="}))


def by_text(elements):
    return sorted(elements, key=orjson.dumps)


@st.composite
def mappings(draw, values, kinds=("$dict", "$OrderedDict", "$defaultdict list", "$defaultdict")):
    keys = {identify(key): key for key in draw(st.lists(st.one_of(NAMES, KEYS), max_size=4))}
    return build_mapping(draw(st.sampled_from(kinds)), {key: draw(values) for key in keys}, keys)


PLAIN_MAPPINGS = st.dictionaries(NAMES, SCALARS, max_size=4).map(lambda items: build_mapping("$dict", items, None))
COUNTERS = mappings(st.integers(-2, 2), kinds=("$Counter",))
SETS = st.lists(st.integers(-2, 2), unique=True, max_size=4).map(lambda items: {"$set": by_text(items)})
DEQUES = st.lists(SCALARS, max_size=3).map(lambda items: {"$deque": [items, 3]})

TREES = st.recursive(
    st.one_of(SCALARS, SETS, COUNTERS, DEQUES),
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.dictionaries(NAMES, children, max_size=4).map(lambda items: build_mapping("$dict", items, None)),
        mappings(children),
        st.lists(children, max_size=3).map(lambda items: {"$tuple": items}),
    ),
    max_leaves=10,
)
"""Trees as the codec writes them: what is plain JSON has no tag, sets are sorted."""

ENTITIES = st.one_of(
    PLAIN_MAPPINGS,
    mappings(TREES),
    st.dictionaries(NAMES, TREES, max_size=5).map(lambda items: build_mapping("$dict", items, None)),
    TREES,
)


@st.composite
def edited(draw, tree, depth=0):
    """Edit a tree as a bot would: set, add, delete, append, replace; somewhere inside."""
    view = view_mapping(tree)
    if type(tree) is list:
        if draw(st.booleans()):
            return tree + draw(st.lists(TREES, min_size=1, max_size=2))
        if not tree:
            return draw(TREES)
        index = draw(st.integers(0, len(tree) - 1))
        inner = [] if draw(st.booleans()) else [draw(edited(tree[index], depth + 1))]
        return [*tree[:index], *inner, *tree[index + 1 :]]
    if view is None or view.kind == "$Counter" or draw(st.integers(0, 9)) == 0:
        return draw(TREES)
    items = dict(view.items)
    keys = {key: view.key(key) for key in items}
    for _ in range(draw(st.integers(1, 3))):
        action = draw(st.sampled_from(["into", "into", "set", "delete", "move"]))
        if action == "set" or not items:
            key = draw(KEYS)
            keys.setdefault(identify(key), key)
            items[identify(key)] = draw(TREES)
            continue
        key = draw(st.sampled_from(list(items)))
        if action == "into" and depth < 4:
            items[key] = draw(edited(items[key], depth + 1))
        elif action == "move":
            items[key] = items.pop(key)
        else:
            del items[key]
    return build_mapping(view.kind, items, {key: keys[key] for key in items})


@st.composite
def related(draw, count, trees=ENTITIES):
    """A tree and so many others, each the same, edited, or something else."""
    found = [draw(trees)]
    for _ in range(count - 1):
        how = draw(st.sampled_from(["same", "edited", "edited", "edited", "other"]))
        origin = draw(st.sampled_from(found))
        if how == "same":
            found.append(orjson.loads(orjson.dumps(origin)))
        else:
            found.append(draw(edited(origin)) if how == "edited" else draw(trees))
    return found
