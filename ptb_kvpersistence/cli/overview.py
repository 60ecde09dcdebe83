"""``ptb-kv info``: what a database holds, counted in the database, without loading any value."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ptb_kvpersistence.backends.base import Backend
from ptb_kvpersistence.cli.transfers import open_existing
from ptb_kvpersistence.model import Count, KeyRange, ListStores, StoreInfo
from ptb_kvpersistence.persistence.layout import SECTIONS, SHAREABLE, UNCLAIMED, Layout
from ptb_kvpersistence.persistence.namespaces import list_namespaces
from ptb_kvpersistence.store.operations import drive
from ptb_kvpersistence.store.staging import complete, explain


def run(target: str) -> None:
    """Print a table a store.

    Raises:
        ConfigurationError: There is no such database; none is made.
        KVPersistenceError: It cannot be read.
    """
    console = Console(soft_wrap=True)
    backend = open_existing(target)
    try:
        stores = backend.perform(ListStores())
        for store in stores:
            if left := explain(store):
                console.print(left, markup=False, highlight=False)
        for store in (found := complete(stores)):
            console.print(_table(backend, store))
        if not found:
            console.print(f"{target} holds no store yet", markup=False, highlight=False)
    finally:
        backend.close()


def _table(backend: Backend, store: StoreInfo) -> Table:
    known = drive(list_namespaces(store.id), backend.perform)
    table = Table("bot", *SECTIONS, title=f"store {store.name}", title_justify="left", title_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (namespace, _version) in sorted(known.items()):
        table.add_row(name or f"({UNCLAIMED})", *_counts(backend, store, Layout(namespace)))
    shared = _counts(backend, store, Layout("", SHAREABLE))[: len(SHAREABLE)]
    if any(count != "0" for count in shared):
        table.add_row("(shared by all)", *shared)
    plain = backend.perform(Count(store.id, KeyRange("")))
    table.caption = f"and {plain} entries of its own in the root domain" if plain else None
    return table


def _counts(backend: Backend, store: StoreInfo, layout: Layout) -> list[str]:
    return [str(backend.perform(Count(store.id, KeyRange(layout.domain(section))))) for section in SECTIONS]
