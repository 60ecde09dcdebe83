"""Print the command that stands in README.md behind a marker: ``readme_command.py test-command``."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def readme_command(readme: str, marker: str) -> str:
    """Find the fenced block right behind ``<!-- marker -->``; fail when there is not exactly one."""
    pattern = rf"(?ms)^<!-- {re.escape(marker)} -->\n```(?:bash|console|sh)\n(.*?)^```$"
    found = re.findall(pattern, readme)
    if len(found) != 1:
        raise SystemExit(f"README.md has {len(found)} fenced blocks right behind <!-- {marker} -->, not one")
    return str(found[0]).strip()


if __name__ == "__main__":
    print(readme_command(Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8"), sys.argv[1]))
