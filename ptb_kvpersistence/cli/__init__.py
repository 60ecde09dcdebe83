"""The command ``ptb-kv``; what it needs beyond the package's own libraries is the extra ``cli``."""

from __future__ import annotations

import sys

_EXTRA = {"click", "rich", "typer"}


def main() -> None:
    """Run ``ptb-kv``.

    Raises:
        SystemExit: Always; 0 is success, 1 a failure that was reported, 2 a wrong command line.
    """
    try:
        import rich  # noqa: F401, PLC0415 - typer loads it late, and the commands need it

        from ptb_kvpersistence.cli.app import app  # noqa: PLC0415 - typer may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(f"ptb-kv needs {error.name}; install it with: pip install 'ptb_kvpersistence[cli]'")
    app(prog_name="ptb-kv")
