"""Check an installed wheel in an environment without extras; run with ``python -I`` outside the checkout."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

OPTIONAL = ("aiohttp", "attr", "msgspec", "psycopg", "psycopg_pool", "pydantic", "redis", "rich", "typer")


def check(condition: object, message: str) -> None:
    """Stop with a message when the condition does not hold; ``assert`` would vanish under -O."""
    if not condition:
        raise SystemExit(f"smoke: {message}")


def main() -> None:
    """Import, look at what came with it, and start the script without its extra."""
    import ptb_kvpersistence  # noqa: PLC0415 - the import is what is looked at

    place = Path(ptb_kvpersistence.__file__).parent
    check(place.is_relative_to(sysconfig.get_path("purelib")), f"the package was imported from {place}")
    check(place.joinpath("py.typed").is_file(), "py.typed is not in the wheel")
    dragged = [name for name in (*OPTIONAL, "telegram") if name in sys.modules]
    check(not dragged, f"import ptb_kvpersistence also imports {dragged}")

    check(isinstance(ptb_kvpersistence.KVPersistence, type), "KVPersistence is no class")
    check("telegram" in sys.modules, "KVPersistence came without telegram")
    dragged = [name for name in OPTIONAL if name in sys.modules]
    check(not dragged, f"KVPersistence also imports {dragged}")

    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run([scripts / "ptb-kv", "--help"], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    check(done.returncode != 0, "ptb-kv works without its extra, although typer is not installed")
    check("ptb_kvpersistence[cli]" in done.stderr, f"ptb-kv does not name its extra: {done.stderr!r}")
    check("Traceback" not in done.stderr, "ptb-kv shows a traceback when typer is missing")
    print("smoke: ptb_kvpersistence", importlib.metadata.version("ptb_kvpersistence"), "works as installed")


if __name__ == "__main__":
    main()
