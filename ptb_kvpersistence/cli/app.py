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
