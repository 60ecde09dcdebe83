"""The commands of ``ptb-kv`` and their options; what they do stands in modules of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ptb_kvpersistence import __version__
from ptb_kvpersistence.errors import KVPersistenceError

app = typer.Typer(
    name="ptb-kv",
    help="Databases of ptb_kvpersistence, the persistence for python-telegram-bot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show the values of local variables
)

Target = Annotated[str, typer.Argument(help="Path of the database file, or its URL (sqlite:///bot.db).")]
Stores = Annotated[
    list[str] | None, typer.Option("--store", help="Name of a store; may be repeated. Default: all of them.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace stores that have entries; only once the new ones are complete.")
]
Store = Annotated[str, typer.Option(help="Name of the store in the database; KVPersistence uses 'default'.")]


@contextmanager
def reported() -> Iterator[None]:
    """Print an error of the package in one line and end with exit code 1."""
    try:
        yield
    except KVPersistenceError as error:
        typer.echo(f"ptb-kv: {error}", err=True)
        raise typer.Exit(1) from error


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"ptb-kv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


@app.command("import-pickle")
def import_pickle(
    source: Annotated[Path, typer.Argument(help="What PicklePersistence was given as filepath.")],
    target: Target,
    bot: Annotated[
        str | None,
        typer.Option(help="Bot to import for: the number in its token. Default: the first bot without data takes it."),
    ] = None,
    store: Store = "default",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what the database holds of this bot.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Module of yours whose classes the pickle holds; may be repeated."),
    ] = None,
    main: Annotated[
        Path | None, typer.Option(help="The bot's script, when classes are defined in it. It is loaded, not started.")
    ] = None,
    single_file: Annotated[
        bool | None, typer.Option("--single-file/--five-files", help="The layout, where files of both lie there.")
    ] = None,
) -> None:
    """Copy what PicklePersistence wrote into a database, all or nothing. The pickle stays as it is."""
    from ptb_kvpersistence.cli.importing import run  # noqa: PLC0415 - imports telegram, which --help can do without

    with reported():
        run(
            source,
            target,
            bot=bot,
            store=store,
            overwrite=overwrite,
            allow=tuple(allow or ()),
            main=main,
            single_file=single_file,
        )


@app.command("copy")
def copy_(
    source: Annotated[str, typer.Argument(help="The database to copy: path or URL. It is only read.")],
    target: Annotated[str, typer.Argument(help="The database to copy to: path or URL. An SQLite file is made.")],
    stores: Stores = None,
    overwrite: Overwrite = False,
) -> None:
    """Copy stores from one database to another, and compare them by count and digest.

    They appear in the target when all of them are complete. A copy that was broken off goes on where it was.
    """
    from ptb_kvpersistence.cli.copying import run  # noqa: PLC0415 - drivers are loaded when used

    with reported():
        run(source, target, stores=tuple(stores or ()), overwrite=overwrite)


@app.command("export")
def export(
    source: Annotated[str, typer.Argument(help="The database: path or URL. It is only read.")],
    file: Annotated[str, typer.Argument(help="The file to write; - for standard output.")],
    stores: Stores = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, once the new one is complete.")
    ] = False,
) -> None:
    """Write stores to a file as JSON lines, one entry a line."""
    from ptb_kvpersistence.cli.exporting import run  # noqa: PLC0415 - drivers are loaded when used

    with reported():
        run(source, file, stores=tuple(stores or ()), overwrite=overwrite)


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="What `ptb-kv export` wrote; - for standard input.")],
    target: Target,
    stores: Stores = None,
    overwrite: Overwrite = False,
) -> None:
    """Read stores from a file that `ptb-kv export` wrote, all or nothing. For pickles there is `import-pickle`."""
    from ptb_kvpersistence.cli.exporting import run_import  # noqa: PLC0415 - drivers are loaded when used

    with reported():
        run_import(file, target, stores=tuple(stores or ()), overwrite=overwrite)


@app.command()
def info(target: Target) -> None:
    """Show the stores of a database, and how much each bot keeps in them."""
    from ptb_kvpersistence.cli.overview import run  # noqa: PLC0415 - drivers are loaded when used

    with reported():
        run(target)


@app.command()
def demo() -> None:
    """Watch a bot being killed in mid-conversation and coming back with everything. Needs no token."""
    try:
        from ptb_kvpersistence.server.demo import main as play  # noqa: PLC0415 - the server is an extra
    except ImportError as error:
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if (missing.name or "").partition(".")[0] != "aiohttp":
            raise
        typer.echo("ptb-kv: the demo needs aiohttp: pip install 'ptb_kvpersistence[server]'", err=True)
        raise typer.Exit(1) from error
    raise typer.Exit(play())
