"""The end of the process: order, once each, and what keeps the others from being called."""

from __future__ import annotations

import logging
import threading

import pytest

from ptb_kvpersistence import process
from tests.faults import processes


@pytest.fixture
def ending(monkeypatch):
    """Callbacks of our own, so that those of the test run stay where they are."""
    ending = process._Ending()
    ending._has_watcher = True
    monkeypatch.setattr(process, "_ending", ending)
    return ending


def test_who_saves_comes_before_who_closes(ending):
    seen = []
    process.at_end("a", process.THEN_CLOSE, lambda: seen.append("close"))
    process.at_end("b", process.SAVE_FIRST, lambda: seen.append("save"))
    process.at_end("c", process.THEN_CLOSE, lambda: seen.append("close too"))
    process.at_end("d", process.SAVE_FIRST, lambda: seen.append("save too"))
    ending._run()
    assert seen == ["save", "save too", "close", "close too"]


def test_each_is_called_once(ending):
    seen = []
    process.at_end("a", process.SAVE_FIRST, lambda: seen.append("a"))
    ending._run()
    ending._run()
    assert seen == ["a"]


def test_a_token_stands_for_one_callback(ending):
    seen = []
    process.at_end("a", process.SAVE_FIRST, lambda: seen.append("old"))
    process.at_end("a", process.SAVE_FIRST, lambda: seen.append("new"))
    ending._run()
    assert seen == ["new"]


def test_what_is_taken_back_is_not_called(ending):
    process.at_end("a", process.SAVE_FIRST, lambda: pytest.fail("called"))
    process.forget("a")
    process.forget("never registered")
    ending._run()


def test_one_that_fails_keeps_none_from_being_called(ending, caplog):
    seen = []

    def fail():
        raise RuntimeError("on purpose")

    process.at_end("a", process.SAVE_FIRST, fail)
    process.at_end("b", process.SAVE_FIRST, lambda: seen.append("b"))
    with caplog.at_level(logging.ERROR):
        ending._run()
    assert seen == ["b"]
    assert "on purpose" in caplog.text


def test_a_callback_may_register_another(ending):
    seen = []
    process.at_end("a", process.THEN_CLOSE, lambda: process.at_end("b", process.SAVE_FIRST, lambda: seen.append("b")))
    ending._run()
    assert seen == ["b"]


def test_two_threads_that_end_at_once_call_each_once(ending):
    seen, go = [], threading.Event()

    def wait():
        go.wait()
        seen.append("a")

    process.at_end("a", process.SAVE_FIRST, wait)
    process.at_end("b", process.SAVE_FIRST, lambda: seen.append("b"))
    threads = [threading.Thread(target=ending._run) for _ in range(2)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["a", "b"]


def test_a_fork_starts_with_none(ending, monkeypatch):
    process.at_end("a", process.SAVE_FIRST, lambda: pytest.fail("called in the child"))
    monkeypatch.setattr(process.os, "getpid", lambda: ending.pid + 1)
    ending._run()
    process.forget("a")
    assert process._ending is not ending
    assert list(ending._callbacks) == ["a"]


def test_all_of_it_in_a_process_of_its_own(tmp_path):
    ended = processes.run("endings", "all", folder=tmp_path)
    assert ended.code == 0, ended.output
    assert ended.output.split() == ["main", "thread", "save", "close"]
    assert ended.seconds < 10


def test_a_thread_that_is_no_daemon_and_never_asked_is_not_waited_for_in_vain(tmp_path):
    """A worker as aiosqlite's, which only a callback can end."""
    ended = processes.run("endings", "worker", folder=tmp_path)
    assert ended.code == 0, ended.output
    assert ended.output.split() == ["main", "worker"]
    assert ended.seconds < 10
