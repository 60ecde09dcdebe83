"""``python -m tests.benchmarks``: our figures beside those of PicklePersistence and of bare SQLite, in one run."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks.data import Files
from tests.benchmarks.measures import measure_interval, measure_load, measure_memory, measure_refresh
from tests.benchmarks.report import plot, print_table

PARTS = ("interval", "load", "refresh", "memory")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="what to measure; everything by default")
    parser.add_argument("--million", action="store_true", help="intervals with 1,000,000 users too (1.5 GB on disk)")
    parser.add_argument("--users", type=int, default=100_000, help="users for load and memory")
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
        rows += [measure_interval(files, count) for count in (1000, 10_000, 100_000)]
        if options.million:
            rows.append(measure_interval(files, 1_000_000, with_pickle=False))
    if "load" in parts:
        rows.append(measure_load(files, options.users))
    if "refresh" in parts:
        rows += measure_refresh(files)
    if "memory" in parts:
        rows.append(measure_memory(files, options.users))
    return rows


if __name__ == "__main__":
    main()
