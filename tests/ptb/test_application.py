"""How a persistence finds the Application that it belongs to, which PTB never names."""

from __future__ import annotations

import gc

import pytest
from telegram.ext import Application, ApplicationBuilder, ExtBot

from ptb_kvpersistence import KVPersistence
from ptb_kvpersistence.persistence import ptb

TOKEN = "1001:a"


@pytest.fixture
def persistence(tmp_path):
    return KVPersistence(tmp_path / "bot.db")


@pytest.fixture
def searches(monkeypatch):
    """The long searches that were made."""
    made, search = [], ptb.find_application
    monkeypatch.setattr(ptb, "find_application", lambda searcher: made.append(searcher) or search(searcher))
    return made


class OwnApplication(Application):
    pass


class OwnPersistence(KVPersistence):
    def set_bot(self, bot):
        super().set_bot(bot)


def test_the_builder_s_is_known_without_a_search(tmp_path, searches):
    for kind in (KVPersistence, OwnPersistence):
        for application_class in (Application, OwnApplication):
            persistence = kind(tmp_path / "bot.db")
            builder = ApplicationBuilder().token(TOKEN).application_class(application_class)
            application = builder.persistence(persistence).build()
            assert persistence._host.application() is application
    assert not searches


def test_one_that_got_its_persistence_in_another_way_is_searched_for_once(persistence, searches, tmp_path):
    other = ApplicationBuilder().token("1002:b").persistence(KVPersistence(tmp_path / "other.db")).build()
    hidden = [ApplicationBuilder().token(TOKEN).build()]
    hidden[0].persistence = persistence
    persistence.set_bot(hidden[0].bot)
    assert not searches
    assert [persistence._host.application() for _ in range(3)] == hidden * 3
    assert searches == [persistence]
    assert other.persistence._host.application() is other


def test_of_two_the_one_that_was_initialized_counts(persistence, searches):
    hidden = [ApplicationBuilder().token(TOKEN).build() for _ in range(2)]
    for number in range(2):
        hidden[number].persistence = persistence
    for number in range(2):
        hidden[number]._initialized, hidden[1 - number]._initialized = True, False
        persistence.set_bot(hidden[0].bot)
        assert persistence._host.application() is hidden[number]
    assert len(searches) == 2


def test_a_script_has_none_and_nothing_is_searched(persistence, searches):
    assert persistence._host.application() is None
    assert not searches


def test_a_script_with_a_bot_has_none_and_one_search_says_so(persistence, searches):
    persistence.set_bot(ExtBot(TOKEN))
    assert [persistence._host.application() for _ in range(3)] == [None] * 3
    assert searches == [persistence]


def test_it_is_not_kept_alive(persistence, searches):
    application = ApplicationBuilder().token(TOKEN).persistence(persistence).build()
    assert persistence._host.application() is application
    del application
    gc.collect()
    assert persistence._host.application() is None


def test_one_that_was_given_another_persistence_is_left(persistence, tmp_path):
    application = ApplicationBuilder().token(TOKEN).persistence(persistence).build()
    application.persistence = OwnPersistence(tmp_path / "other.db")
    assert persistence._host.application() is None
