"""``ptb-kv copy``: progress and report around :class:`.Copy`."""

from __future__ import annotations

from contextlib import closing

from ptb_kvpersistence.backends.urls import open_backend
from ptb_kvpersistence.cli.transfers import Bars, open_existing, say, show_moved
from ptb_kvpersistence.store.transfer import Copy, drive_both


def run(source: str, target: str, *, stores: tuple[str, ...], overwrite: bool) -> None:
    """Copy, with progress bars on standard error and the result on standard output.

    Raises:
        KVPersistenceError: See :meth:`.Copy.run`.
    """
    with closing(open_existing(source)) as original, closing(open_backend(target)) as copy:
        with Bars() as bars:
            operation = Copy(original.name, copy.name, stores=stores, overwrite=overwrite, report=bars.show)
            moved = drive_both(operation.run(), original, copy)
        if not moved:
            say(f"{original.name} holds no store yet; nothing was copied", stderr=True)
            return
        show_moved(moved)
        say(f"{original.name} was copied to {copy.name} and compared. What is written to it from now on is not copied.")
