"""However a program ends, it ends by itself, and everything is saved."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import processes
from tests.faults.exits import SCENARIOS
from tests.faults.raw import check_file, rescue_files, rows, users

GREETED = {"texts": ["hello"]}
EVERYBODY = {1: GREETED, 2: GREETED, 3: GREETED}
SECONDS = 12.0
"""Far more than it takes, far less than for ever."""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """All scenarios, a few at a time: most of their time is start-up."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SCENARIOS if hasattr(os, "fork") or "fork" not in name}
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: (folder / "bot.db", pool.submit(processes.run, "exits", name, folder / "bot.db", folder=folder))
            for name, folder in folders.items()
        }


@pytest.fixture
def run(endings):
    def run_scenario(name, code=0):
        path, ended = endings[name][0], endings[name][1].result()
        assert ended.code == code, ended.output
        assert ended.seconds < SECONDS, ended.output
        check_file(path)
        assert rescue_files(path.parent) == []
        return path, ended.output

    return run_scenario


@pytest.mark.parametrize("name", ["ends_normally", "handler_raises", "handler_exits_at_once"])
def test_bots_that_end_well(run, name):
    path, _ = run(name)
    assert users(path) == EVERYBODY


def test_a_handler_that_calls_exit(run):
    path, output = run("handler_exits")
    assert users(path) == EVERYBODY, output


@pytest.mark.parametrize("name", ["post_stop_raises", "stop_raises", "bot_shutdown_raises"])
def test_bots_whose_end_goes_wrong(run, name):
    path, output = run(name, code=1)
    assert "RuntimeError: on purpose" in output
    assert users(path) == EVERYBODY


def test_a_bot_whose_updater_died_of_a_value_that_cannot_be_copied(run):
    path, output = run("updater_died", code=1)
    assert "the updater has died" in output
    assert "user_data[1]" in output
    assert "lock" in output
    assert users(path) == {2: GREETED, 3: GREETED}


def test_the_conversations_of_such_a_bot(run):
    path, _ = run("conversation_of_a_dead_updater", code=1)
    assert users(path) == {2: {"asked": True}, 3: {"asked": True}}
    states = rows(path, "conversations")
    assert {tuple(key) for key in map(str, states)} == {tuple(f'["form",[{user},{user}]]') for user in (1, 2, 3)}
    assert set(states.values()) == {"NAME"}


def test_a_bot_that_breaks_down_and_is_started_again_in_the_same_process(run):
    path, output = run("runs_twice")
    assert output.count("on purpose") == 2
    assert users(path) == {**EVERYBODY, 4: GREETED}


@pytest.mark.parametrize(
    "name",
    [
        "script_that_awaits",
        "script_without_a_loop",
        "script_on_flush",
        "script_that_drops_everything",
        "live_objects_only",
        "two_loops",
        "flush_then_go_on",
        "loop_in_a_thread",
        "loop_after_the_main_thread",
        "loop_in_a_daemon_thread",
    ],
)
def test_scripts(run, name):
    path, output = run(name)
    assert users(path) == EVERYBODY
    assert "Traceback" not in output


def test_a_script_that_raises(run):
    path, output = run("script_that_raises", code=1)
    assert "ValueError: on purpose" in output
    assert users(path) == EVERYBODY


def test_a_script_that_exits(run):
    path, _ = run("script_that_exits", code=5)
    assert users(path) == EVERYBODY


def test_loops_that_are_closed_in_the_middle_of_a_call(run):
    path, _ = run("loop_closed_in_mid_call")
    for steps in range(8):
        assert users(path, bot=f"{steps}") == EVERYBODY


def test_a_daemon_thread_that_is_cut_off(run):
    path, _ = run("daemon_thread_that_never_stops_writing")
    found = users(path)
    assert found.pop(9)["number"] >= 0
    assert found == EVERYBODY


@forks
@pytest.mark.parametrize(
    "name",
    [
        "fork_whose_child_does_nothing",
        "fork_whose_child_works",
        "fork_whose_child_leaves_last",
        "fork_with_pending_in_both",
    ],
)
def test_forks(run, name):
    path, output = run(name)
    assert users(path) == EVERYBODY
    assert "Traceback" not in output


@forks
def test_children_of_multiprocessing(run):
    path, _ = run("multiprocessing_child")
    assert users(path) == EVERYBODY
