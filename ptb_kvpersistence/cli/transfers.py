"""What the commands that move whole stores have in common: sources that have to exist, progress bars, the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ptb_kvpersistence.backends.urls import open_backend, parse
from ptb_kvpersistence.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.store.transfer import Moved, Step


_SHOWN = 16
"""Digits of a digest that are printed; enough to compare by eye."""


def open_existing(location: str) -> Backend:
    """Open a database that has to be there; an SQLite file is not made.

    Raises:
        ConfigurationError: There is none.
    """
    place = parse(location)
    if place.kind == "sqlite":
        path = Path(place.path)
        if not path.exists() or (path.is_file() and not path.stat().st_size):
            raise ConfigurationError(f"{place.path}: no such database")
    return open_backend(location)


class Bars(Progress):
    """A bar for each store and what is done with it, on standard error."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[entries]:,} entries"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            redirect_stdout=False,  # the lines of an export may go there
        )
        self._bars: dict[tuple[str, str], TaskID] = {}

    def show(self, step: Step) -> None:
        """Show a step."""
        bar = (step.activity, step.store)
        if bar not in self._bars:
            self._bars[bar] = self.add_task(f"{step.activity} {escape(step.store)}", total=1.0, entries=0)
        self.update(self._bars[bar], completed=step.fraction, entries=step.entries)


def show_moved(moved: Iterable[Moved], *, stderr: bool = False) -> None:
    """Print the stores that have arrived, and how many entries they have."""
    table = Table("store", "entries", "digest")
    table.columns[1].justify = "right"
    for store, entries, digest in moved:
        table.add_row(escape(store), str(entries), digest[:_SHOWN] or "in its place before; tidied up")
    Console(soft_wrap=True, stderr=stderr).print(table)


def say(text: str, *, stderr: bool = False) -> None:
    """Print a line that may hold names of any kind."""
    Console(soft_wrap=True, stderr=stderr).print(text, markup=False, highlight=False)
