"""``python -m tests.benchmarks``: our figures beside those of the peers, in one run.

The persistence beside PicklePersistence and bare sqlite3: interval, load, refresh, memory. The store beside bare
sqlite3, bare aiosqlite, diskcache and sqlitedict: sync, scan, async, increments, watch. Both on servers beside their
bare drivers and beside one row that holds everything: postgres, valkey.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks.contention import measure_increments, measure_watch
from tests.benchmarks.data import Files
from tests.benchmarks.measures import measure_interval, measure_load, measure_memory, measure_refresh
from tests.benchmarks.report import plot, print_table
from tests.benchmarks.stores import measure_async, measure_scan, measure_sync

PARTS = ("interval", "load", "refresh", "memory", "sync", "scan", "async", "increments", "watch", "postgres", "valkey")
COUNTS = (1000, 10_000, 100_000)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="what to measure; everything by default")
    parser.add_argument("--million", action="store_true", help="1,000,000 users or entries too (several GB on disk)")
    parser.add_argument("--users", type=int, default=100_000, help="users for load and memory, entries for scan")
    parser.add_argument("--plot", type=Path, help="where to write the picture")
    parser.add_argument("--folder", type=Path, help="where to make, and keep, the files")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if not set(parts) <= set(PARTS):
        parser.error(f"there are {', '.join(PARTS)}")
    if options.folder is not None:
        rows = measure(Files(options.folder), parts, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(Files(folder), parts, options)
    print_table(rows)
    if options.plot is not None:
        plot(rows, options.plot)


def measure(files, parts, options):
    rows = []
    if "interval" in parts:
        rows += [measure_interval(files, count) for count in COUNTS]
        if options.million:
            rows.append(measure_interval(files, 1_000_000, with_pickle=False))
    if "load" in parts:
        rows.append(measure_load(files, options.users))
    if "refresh" in parts:
        rows += measure_refresh(files)
    if "memory" in parts:
        rows.append(measure_memory(files, options.users))
    return rows + measure_stores(files, parts, options)


def measure_stores(files, parts, options):
    rows = []
    if "sync" in parts:
        rows += measure_sync(files, (*COUNTS, 1_000_000) if options.million else COUNTS)
    if "scan" in parts:
        rows.append(measure_scan(files, options.users))
    if "async" in parts:
        rows += measure_async(files)
    if "increments" in parts:
        for work in ("locked_increment", "increment"):
            rows += [*measure_increments(files, work, 1), *measure_increments(files, work, 8)]
    if "watch" in parts:
        rows += measure_watch(files)
    for kind in ("postgres", "valkey"):
        if kind in parts:
            from tests.benchmarks.servers import measure_server  # the others do without drivers and servers

            rows += measure_server(files, kind)
    return rows


if __name__ == "__main__":
    main()
