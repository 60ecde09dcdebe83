"""Print the lowest declared version of everything the suite runs on, one ``name==version`` a line, for pip."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?(?:>=(?P<lowest>[\w.]+)(?:,<[\w.]+)?)?")
EXTRAS = ("cli", "postgres", "redis", "server", "testing", "test")


def lowest_pins(project: dict[str, Any]) -> list[str]:
    """Turn the bounds of the dependencies and of the extras that the suite needs into pins.

    Raises:
        SystemExit: A requirement has no lower bound, or a form that this script does not read.
    """
    extras = project["optional-dependencies"]
    pins = {}
    unbounded = {project["name"]}
    for requirement in [*project["dependencies"], *(entry for extra in EXTRAS for entry in extras[extra])]:
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"cannot read the requirement {requirement!r}; declare it as name>=version")
        if match["lowest"]:
            pins[match["name"]] = match["lowest"]
        else:
            unbounded.add(match["name"])
    if missing := unbounded - pins.keys() - {project["name"]}:
        raise SystemExit(f"no lower bound is declared for {', '.join(sorted(missing))}")
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


if __name__ == "__main__":
    text = Path(__file__).parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(lowest_pins(tomllib.loads(text)["project"])))
