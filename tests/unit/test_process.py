"""The end of the process: order, once each, and what keeps the others from being called; and what forks wait for."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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
    monkeypatch.setattr(process, "pid", ending.pid + 1)
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


# --- what a fork waits for ---

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def forked(child):
    """Run ``child`` in a fork; give its exit status."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = child()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_free(gate):
    """Whether a thread that had nothing to do with it can take it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(gate.acquire, timeout=5).result()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_inner", [False, True])
def test_a_fork_waits_until_a_gate_is_open(is_inner):
    gate, inside, state = process.gate(is_inner=is_inner), threading.Event(), []

    def work():
        with gate:
            state.append("begun")
            inside.set()
            time.sleep(0.1)
            state.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert forked(lambda: 0 if state == ["begun", "done"] and is_free(gate) else 1) == 0
    thread.join()
    assert is_free(gate)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forks_and_those_who_take_an_inner_gate_inside_of_another_keep_clear_of_each_other():
    outer, inner, is_over = process.gate(), process.gate(is_inner=True), threading.Event()
    turns = [0, 0, 0]

    def work(number):
        while not is_over.is_set():
            with outer if number else inner:
                time.sleep(0.001)
                if number:
                    with inner:
                        time.sleep(0.0005)
                    made = process.gate()
                    with made:
                        turns[number] += 1
                turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()

    def timed(_):
        begun = time.monotonic()
        assert forked(lambda: 0 if is_free(outer) and is_free(inner) else 1) == 0
        return time.monotonic() - begun

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(timed, range(20))) < process.FORK_PATIENCE
    is_over.set()
    for thread in threads:
        thread.join()
    assert all(turns)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_who_takes_a_gate_again_and_again_lets_a_fork_go_first(monkeypatch):
    monkeypatch.setattr(process, "COURTESY", 0.3)
    gate, is_over, turns = process.gate(), threading.Event(), []

    def work():
        while not is_over.is_set():
            with gate:
                turns.append(1)
                time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    passed = 0
    for _ in range(5):
        seen = len(turns)
        while len(turns) == seen:
            time.sleep(0.001)
        before = len(turns)
        assert forked(lambda: 0) == 0
        passed += len(turns) - before
    is_over.set()
    thread.join()
    assert passed <= 10


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(process, "FORK_PATIENCE", 0.1)
    gates = [process.gate(), process.gate(is_inner=True)]
    inside, is_over = threading.Event(), threading.Event()

    def work():
        with gates[0], gates[1]:
            inside.set()
            is_over.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert forked(lambda: 0) == 0
    is_over.set()
    thread.join()
    assert all(map(is_free, gates))
