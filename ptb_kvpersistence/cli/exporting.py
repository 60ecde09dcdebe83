"""``ptb-kv export`` and ``ptb-kv import``: files, progress and report around :func:`.dump` and :class:`.Load`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.cli.transfers import Bars, open_existing, say, show_moved
from ptb_kvpersistence.errors import ConfigurationError, KVPersistenceError
from ptb_kvpersistence.model import OpenStore
from ptb_kvpersistence.store import administration
from ptb_kvpersistence.store.dumping import Load, check, dump
from ptb_kvpersistence.store.jsonlines import read_lines
from ptb_kvpersistence.store.operations import drive
from ptb_kvpersistence.store.transfer import Moved, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptb_kvpersistence.backends.base import Backend
    from ptb_kvpersistence.store.dumping import Section

STANDARD = "-"
_STEP = 1 << 20


def run(source: str, file: str, *, stores: tuple[str, ...], overwrite: bool) -> None:
    """Export, with progress bars and, where the lines go to standard output, the report on standard error.

    Raises:
        ConfigurationError: The file is there already, or cannot be written.
        KVPersistenceError: The database cannot be read.
    """
    is_standard = file == STANDARD
    with closing(open_existing(source)) as backend:
        names = stores or tuple(drive(administration.names(), backend.perform))
        infos = [backend.perform(OpenStore(name)) for name in dict.fromkeys(names)]
        with _reporting(file), _written(file, backend, overwrite=overwrite) as lines, Bars() as bars:
            moved = [drive(dump(info, lines.write, bars.show), backend.perform) for info in infos]
        if not infos:
            # The file is there all the same: an older one must not be taken for this one.
            outcome = "nothing was exported" if is_standard else f"{file} is empty"
            say(f"{backend.name} holds no store yet; {outcome}", stderr=True)
            return
        show_moved(moved, stderr=is_standard)
        say(f"{backend.name} was exported to {'standard output' if is_standard else file}.", stderr=is_standard)


@contextmanager
def _reporting(file: str) -> Iterator[None]:
    try:
        yield
    except (KVPersistenceError, BrokenPipeError):
        raise  # the second: whoever read the lines has seen enough
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error


@contextmanager
def _written(file: str, backend: Backend, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Open a file to write that takes its place when it is complete."""
    if file == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file).expanduser().resolve()
    if path.exists():
        if not path.is_file():
            with path.open("wb") as device:
                yield device
            return
        if Path(backend.name).exists() and path.samefile(backend.name):
            raise ConfigurationError(f"{file} is the database itself; give another file")
        if not overwrite:
            raise ConfigurationError(f"{file} is there already; replace it with --overwrite")
    # Readable by its owner only, as what is in it may be private.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as lines:
        try:
            yield lines
            lines.flush()
            os.fsync(lines.fileno())
        except BaseException:
            lines.close()
            Path(lines.name).unlink()
            raise
    Path(lines.name).replace(path)


def run_import(file: str, target: str, *, stores: tuple[str, ...], overwrite: bool) -> None:
    """Import, with progress bars on standard error and the result on standard output.

    Raises:
        ConfigurationError: The file cannot be read, or does not hold a store that is asked for.
        KVPersistenceError: A line is wrong, or the database cannot be used; nothing was imported.
    """
    name = "standard input" if file == STANDARD else file
    with _reporting(file), _opened(file) as lines:
        with Bars() as bars:
            sections = _chosen(check(read_lines(_noted(lines, bars), name)), stores, name)
        lines.seek(0)
        with closing(open_backend(target)) as backend:
            with Bars() as bars:
                load = Load(name, backend.name, sections, overwrite=overwrite, report=bars.show)
                moved = _load(load, lines, name, backend)
            show_moved(moved)
            say(f"{name} is now in {backend.name}, and was compared with it.")


def _load(load: Load, lines: IO[bytes], name: str, backend: Backend) -> list[Moved]:
    try:
        return drive(load.run(read_lines(lines, name)), backend.perform)
    except BaseException:
        with suppress(Exception):  # what went wrong is told, and the next import throws it away too
            drive(load.discard(), backend.perform)
        raise


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """Open a file that can be read twice."""
    if file != STANDARD and Path(file).is_file():
        with Path(file).open("rb") as lines:
            yield lines
        return
    with tempfile.TemporaryFile() as lines:
        if file == STANDARD:
            shutil.copyfileobj(sys.stdin.buffer, lines)
        else:
            with Path(file).open("rb") as device:
                shutil.copyfileobj(device, lines)
        lines.seek(0)
        yield lines


def _noted(lines: IO[bytes], bars: Bars) -> Iterator[bytes]:
    size, read, shown = max(1, os.fstat(lines.fileno()).st_size), 0, 0
    for number, line in enumerate(lines, 1):
        read += len(line)
        if read >= shown:
            shown = read + _STEP
            bars.show(Step("the file", "checking", read / size, number))
        yield line


def _chosen(found: list[Section], stores: tuple[str, ...], file: str) -> list[Section]:
    there = {section.store: section for section in found}
    missing = next((name for name in stores if name not in there), None)
    if missing is not None:
        names = ", ".join(map(repr, there))
        raise ConfigurationError(f"{file} holds no store {missing!r}, only {names}")
    return [section for section in found if not stores or section.store in stores]
