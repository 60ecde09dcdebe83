"""``ptb-kv import-pickle``: progress and report around :func:`read_pickle` and :func:`import_sections`."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ptb_kvpersistence.persistence.pickle_file import read_pickle
from ptb_kvpersistence.persistence.sections import SECTION_NAMES, Sections
from ptb_kvpersistence.persistence.sections_io import import_sections

_STEPS = 100


def run(
    source: Path,
    target: str,
    *,
    bot: str | None,
    store: str,
    overwrite: bool,
    allow: tuple[str, ...],
    main: Path | None,
    single_file: bool | None,
) -> None:
    """Import, with a progress bar on stderr and the result on stdout.

    Raises:
        KVPersistenceError: The source cannot be read, a value cannot be stored, the database cannot be used, or it
            holds data of this bot already; nothing was written.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with progress:
        reading = progress.add_task(f"reading {escape(source.name)}", total=None)
        sections = read_pickle(source, single_file=single_file, allow=allow, main=main)
        progress.update(reading, total=1, completed=1)
        counts = import_sections(
            target,
            sections,
            bot=bot,
            store=store,
            overwrite=overwrite,
            types=sections.types,
            progress=_Bars(progress),
        )
    _report(sections, counts, source, target, bot)


class _Bars:
    """One bar a section, moved a hundred times at most."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, section: str, done: int, total: int) -> None:
        if section not in self._tasks:
            self._tasks[section] = self._progress.add_task(section, total=total)
        if done == total or done % max(1, total // _STEPS) == 0:
            self._progress.update(self._tasks[section], completed=done)


def _report(sections: Sections, counts: dict[str, int], source: Path, target: str, bot: str | None) -> None:
    console = Console(soft_wrap=True)
    table = Table("section", "imported")
    table.columns[1].justify = "right"
    for section in SECTION_NAMES:
        stored = getattr(sections, section) is not None
        table.add_row(section, _amount(section, sections, counts) if stored else "not in the pickle")
    console.print(table)
    whose = f"for bot {bot}" if bot else "for the first bot without data that opens it"
    console.print(f"{source} is now in {target}, {whose}. The pickle was not changed.", markup=False, highlight=False)
    if names := ", ".join(sorted(_to_register(sections.types))):
        console.print(
            f"Pass these classes to KVPersistence, so that it can load their objects: types=[{names}]",
            markup=False,
            highlight=False,
        )


def _amount(section: str, sections: Sections, counts: dict[str, int]) -> str:
    if section == "callback_data":
        keyboards, queries = sections.callback_data or ((), ())
        return f"{len(keyboards)} keyboards, {len(queries)} callback queries"
    if section == "bot_data":
        amount = sections.counts()[section]
        return f"{amount} keys" if isinstance(sections.bot_data, dict) else "1 object"
    noun = "conversations" if section == "conversations" else "users" if section == "user_data" else "chats"
    return f"{counts.get(section, 0)} {noun}"


def _to_register(types: Iterable[type]) -> list[str]:
    """Name the classes that KVPersistence does not find by itself among the imported modules."""
    return [
        cls.__qualname__
        for cls in types
        if not (
            issubclass(cls, enum.Enum)
            or dataclasses.is_dataclass(cls)
            or hasattr(cls, "__attrs_attrs__")
            or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        )
    ]
