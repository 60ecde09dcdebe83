"""A copying process that is killed at any moment, and started again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from ptb_kvpersistence import connect
from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.model import Commit, Delete, OpenStore, Put
from tests.moving.content import DAY, fill, held

ROOT = Path(__file__).parents[2]
SIZE = 2000
# Small batches, and a word after each step, so that there are many moments.
CODE = """
import sys
from ptb_kvpersistence.store import paging
from ptb_kvpersistence.cli import copying, exporting
from ptb_kvpersistence.cli.app import app
from ptb_kvpersistence.cli.transfers import Bars
paging.BATCH, show = 50, Bars.show
Bars.show = lambda bars, step: (print("step", flush=True), show(bars, step))
app(sys.argv[1:], prog_name="ptb-kv")
"""


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def kill(process, steps):
    """Kill it a moment after so many steps; tell whether that was before its end."""
    for _ in range(steps):
        if process.stdout.readline() != "step\n":
            break
    else:
        time.sleep(random.uniform(0, 0.01))
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode in {0, -9} or "with entries already" in stderr, stderr
    return process.returncode == -9


def kill_until_done(command, target, old, new):
    """Kill it again and again, each time a little later; give how often it had copied a part by then."""
    parts, steps = set(), 15.0
    while kill(start(*command), random.randint(1, int(steps))):
        steps *= 1.25
        found = held(target)
        parts.add(len(found["ptb:copy:shop"][0]) if "ptb:copy:shop" in found else 0)
        shop = found.get("shop")
        if shop is None:
            assert old is None or found["ptb:replaced:shop"] == old, "there is always the one or the other"
        elif shop != old:
            shop[0].pop(("ptb:copy", "progress"), None)
            assert shop == new
    return len({part for part in parts if 10 < part < len(new[0])})


def test_a_copy_that_is_killed_again_and_again(tmp_path):
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    fill(source, size=SIZE)
    with connect(target) as database:
        assert database.names() == []
    parts = kill_until_done(["copy", source, target], target, None, held(source)["shop"])
    assert parts > 0
    assert held(target) == held(source)


def test_replacing_a_store_that_is_killed_again_and_again(tmp_path):
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    fill(source, size=SIZE)
    with connect(target) as database:
        database.create("shop").set_many({f"old {number}": number for number in range(500)})
    old = held(target)["shop"]
    parts = kill_until_done(["copy", source, target, "--overwrite"], target, old, held(source)["shop"])
    assert parts > 0
    assert held(target) == held(source)


def test_an_import_that_is_killed_again_and_again(tmp_path):
    source, target, file = tmp_path / "a.db", tmp_path / "b.db", tmp_path / "all.jsonl"
    fill(source, size=SIZE // 2)
    with connect(target) as database:
        assert database.names() == []
    exporting = start("export", source, file)
    assert exporting.communicate()[0]
    parts = kill_until_done(["import", file, target, "--overwrite"], target, None, held(source)["shop"])
    assert parts > 0
    assert held(target) == held(source)


def test_killed_while_others_write(tmp_path):
    """The last attempt, when they have stopped, ends with what is in the source then."""
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    fill(source, size=SIZE)
    stop, numbers = threading.Event(), random.Random(7)

    def write():
        with closing(open_backend(source)) as backend:
            shop = backend.perform(OpenStore("shop")).id
            while not stop.is_set():
                keys = [f"{numbers.randrange(SIZE):05}" for _ in range(4)]
                puts = (Put("many", keys[0], b"[]"), Put("many", keys[1], b"1", DAY), Put("new", keys[2], b"2"))
                backend.perform(Commit(shop, (*puts, Delete("many", keys[3])), durable=False))
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(4):
            assert kill(start("copy", source, target), 5 + 5 * number)
    finally:
        stop.set()
        writer.join()
    process = start("copy", source, target, "--overwrite")
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert held(target) == held(source)
    assert len(held(target)["shop"][0]) > 1000
