"""The samples of the documents that the stores must match, run as they stand there.

Only obvious misprints are mended (a colon after ``for key in store``, an indentation), and loops get a body.
"""

from __future__ import annotations

import textwrap
from datetime import datetime, timedelta

import pytest

from ptb_kvpersistence import connect
from ptb_kvpersistence.errors import KeyExistsError


@pytest.fixture(params=["file", "memory"])
def database(request, tmp_path):
    with connect("memory:" if request.param == "memory" else tmp_path / "shop.db") as database:
        yield database


@pytest.fixture
def store(database):
    return database.create("store")


def run(sample, **names):
    """Run a sample; a ``def main(request, store)`` in it is called as a bot is."""
    exec(textwrap.dedent(sample), names)
    if "main" in names:
        names["main"](None, names["store"])


# --- a dict-like store, transactions, locking ---


def test_using_a_store(store, capsys):
    store["color"] = "blue"
    run(
        """
        def main(request, store):
            # get the value of "color"
            color = store["color"]

            # set the value of "color" to "red"
            store["color"] = "red"

            # delete "color"
            del store["color"]

            # iterate over all keys
            for key in store:
                print(key)

            # get the number of keys in store
            length = len(store)

            # check if "color" is in store
            if "color" in store:
                print("color is in store")

            # get the value of "color", or the default value "red" if "color" is not in store
            color = store.get("color", "red")
            store["shape"] = [color, length]

            # get all key-value pairs in store
            for key, value in store.items():
                print(f"{key}: {value}")

            # get all keys in store
            for key in store.keys():
                print(key)

            # get all values in store
            for value in store.values():
                print(value)

            # delete all keys in store
            store.clear()
        """,
        store=store,
    )
    assert capsys.readouterr().out == "shape: ['red', 0]\nshape\n['red', 0]\n"
    assert dict(store) == {}


def test_supported_types(store):
    for sample in (
        'store["key"] = "value"',
        'store["key"] = 1',
        'store["key"] = 1.1',
        'store["key"] = False',
        'store["key"] = {"key": 1}',
        'store["key"] = [1, 2, 3]',
        'store["key"] = None',
    ):
        run(sample, store=store)
        expected = eval(sample.partition(" = ")[2])
        assert (store["key"], type(store["key"])) == (expected, type(expected))
    for sample in ('store[1] = "value"', 'store["key"] = object()'):
        with pytest.raises((TypeError, ValueError)):
            run(sample, store=store)
    assert dict(store) == {"key": None}


def test_a_transaction_is_rolled_back(store):
    with pytest.raises(ValueError):
        run(
            """
            def main(request, store):
                store["color"] = "red"
                store["shape"] = "circle"
                with store.transaction():
                    store["color"] = "green"
                    store["shape"] = "rectangle"
                    some_helper_function()

            def some_helper_function():
                raise ValueError()
            """,
            store=store,
        )
    assert dict(store) == {"color": "red", "shape": "circle"}


def test_locking(store, capsys):
    sample = """
        def main(request, store):
            with store.transaction(lock=True):
                # keep track of the number of times the bot has been run
                store["run"] = store.get("run", 0) + 1
                print(f"run: {store['run']}")
        """
    run(sample, store=store)
    run(sample, store=store)
    assert capsys.readouterr().out == "run: 1\nrun: 2\n"


def test_a_store_outlives_whoever_used_it_and_may_be_used_by_any_number(tmp_path):
    with connect(tmp_path / "shop.db") as first, connect(tmp_path / "shop.db") as second:
        first.create("shared")["color"] = "red"
        assert second.store("shared")["color"] == "red"
        second.store("shared")["color"] = "green"
        assert first.store("shared")["color"] == "green"
    with connect(tmp_path / "shop.db") as third:
        assert third.names() == ["shared"]
        assert dict(third.store("shared")) == {"color": "green"}


# --- data stores ---


def test_saving_and_retrieving(store, capsys):
    run(
        """
        data_store["key"] = "Hello World"
        print(data_store["key"])
        data_store["last_ran_at"] = datetime.now().isoformat()
        keys = data_store.keys()
        print(*keys, sep=",")
        if "last_ran_at" in data_store:
            last_ran_at = data_store["last_ran_at"]
        assert last_ran_at == data_store.get("last_ran_at")
        assert data_store.get("other") is None
        assert data_store.get("other", "default_value") == "default_value"
        records = {}
        for key in keys:
            records[key] = data_store[key]
        assert records == dict(data_store.items())
        del data_store["last_ran_at"]
        data_store.clear()
        """,
        data_store=store,
        datetime=datetime,
    )
    assert capsys.readouterr().out == "Hello World\nkey,last_ran_at\n"
    assert len(store) == 0


def test_a_nested_record_is_the_callers_copy_until_it_is_stored(store):
    store["pokemon"] = {"name": "Charmander", "type": "fire"}
    store["pokemon"]["name"] = "Bulbasaur"
    assert store["pokemon"]["name"] == "Charmander"

    pokemon = store["pokemon"]
    pokemon["name"] = "Bulbasaur"
    store["pokemon"] = pokemon
    assert store["pokemon"] == {"name": "Bulbasaur", "type": "fire"}

    with store.edit("pokemon") as pokemon:
        pokemon["name"] = "Squirtle"
    assert store["pokemon"] == {"name": "Squirtle", "type": "fire"}


def test_a_counter(store):
    sample = """
        if data_store.get("counter") == None:
            data_store["counter"] = 1
        else:
            count = data_store["counter"]
            data_store["counter"] = count + 1
        """
    for _ in range(3):
        run(sample, data_store=store)
    assert store["counter"] == 3
    assert store.increment("counter") == 4


def test_deduplication(store):
    sample = """
        emails = data_store.get('emails', [])
        if new_email in emails:
            seen.append(new_email)
        else:
            emails.append(new_email)
            data_store["emails"] = emails
        """
    seen = []
    for new_email in ("a@example.org", "b@example.org", "a@example.org"):
        run(sample, data_store=store, new_email=new_email, seen=seen)
    assert (store["emails"], seen) == (["a@example.org", "b@example.org"], ["a@example.org"])


# --- persist by domain and key: the old names' behaviour under the new names ---


def test_persist_add_is_add(store):
    buyer = store.domain("buyer-1")
    buyer.add("PO-1", {"reference": 5})
    with pytest.raises(KeyExistsError):
        buyer.add("PO-1", {"reference": 6})
    assert buyer["PO-1"] == {"reference": 5}
    store.domain("buyer-2").add("PO-1", "another domain")


def test_persist_update_is_replace_and_adds_nothing(store):
    buyer = store.domain("buyer-1")
    assert buyer.replace("PO-1", 1) is False
    assert "PO-1" not in buyer
    buyer.add("PO-1", 1)
    assert buyer.replace("PO-1", 2) is True
    assert buyer["PO-1"] == 2


def test_persist_add_update_is_set(store):
    buyer = store.domain("buyer-1")
    buyer.set("PO-1", 1)
    buyer.set("PO-1", 2)
    assert buyer["PO-1"] == 2


def test_persist_lookup_is_get(store):
    assert store.domain("buyer-1").get("PO-1") is None


def test_persist_delete_is_discard(store):
    buyer = store.domain("buyer-1")
    buyer.set("PO-1", 1)
    assert buyer.discard("PO-1") is True
    assert buyer.discard("PO-1") is False


def test_maxdayspersist_is_keep_and_an_update_renews_it(store, monkeypatch):
    clock = [1_700_000_000_000]
    for module in ("memory.engine", "sqlite.engine"):
        monkeypatch.setattr(f"ptb_kvpersistence.backends.{module}.now_ms", lambda: clock[0])
    day = 86_400_000
    orders = store.domain("orders", keep=timedelta(days=30))
    orders.add("PO-1", 1)
    clock[0] += 29 * day
    assert orders.replace("PO-1", 2) is True
    clock[0] += 29 * day
    assert orders["PO-1"] == 2
    clock[0] += 2 * day
    assert orders.get("PO-1") is None
    orders.add("PO-1", "again")
    # The setting is stored with the domain.
    store.domain("orders")["PO-2"] = 1
    clock[0] += 31 * day
    assert dict(store.domain("orders")) == {}


def test_values_are_unlimited_in_size(store):
    store["large"] = "x" * 5_000_000
    assert len(store["large"]) == 5_000_000
