"""The README does what it says: its code runs, its commands and links name what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ptb_kvpersistence.cli.app import app
from tests.unit.test_package import PROJECT

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    (README[: match.start()].count("\n") + 2, match[1]) for match in re.finditer(r"(?ms)^```python\n(.*?)^```$", README)
]


def run_block(source: str, folder: Path) -> str:
    """Run a block in a folder of its own, and give what it printed; it must neither fail nor complain."""
    script = folder / "block.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.unit.readme_block", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout


def command(marker: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "readme_command.py", marker],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_code_and_all_of_it_is_run():
    assert len(BLOCKS) >= 4
    assert README.count("```python") == len(BLOCKS)
    assert "no-run" not in README


@pytest.mark.parametrize("source", [pytest.param(source, id=f"line-{line}") for line, source in BLOCKS])
def test_every_block_runs(tmp_path, source):
    first = run_block(source, tmp_path)
    if "run_polling" in source:
        second = run_block(source, tmp_path)
        assert (first.count("1"), second.count("2")) == (1, 1), "the bot answers, and remembers across the restart"


def test_a_broken_block_would_fail(tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_block("import asyncio\nawait asyncio.sleep(0)\n1 / 0\n", tmp_path)
    with pytest.raises(AssertionError, match="never awaited"):
        run_block("import asyncio\nasyncio.sleep(0)\n", tmp_path)


@pytest.mark.parametrize("marker", ["demo-command", "test-command"])
def test_the_two_commands_name_what_there_is(marker):
    line = command(marker)
    extras = re.findall(r"'\.\[([\w,]+)\]'", line)
    assert len(extras) == 1
    assert set(extras[0].split(",")) <= set(PROJECT["optional-dependencies"])
    if marker == "demo-command":
        assert ".venv/bin/ptb-kv demo" in line
    else:
        assert ".venv/bin/python -m pytest" in line


def test_every_command_of_ptb_kv_that_is_mentioned_exists():
    group = typer.main.get_command(app)
    known = set(group.list_commands(None))
    assert PROJECT["scripts"] == {"ptb-kv": "ptb_kvpersistence.cli:main"}
    assert {"demo", "import-pickle"} <= set(re.findall(r"ptb-kv ([a-z][\w-]*)", README)) <= known


def test_every_link_leads_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []


def test_what_the_tests_need_is_declared():
    """README's test command runs on a fresh machine: what the tests import stands in the extra ``test``."""

    def needs(extra):
        for each in PROJECT["optional-dependencies"][extra]:
            inner = re.match(r"ptb_kvpersistence\[(.*)\]", each)
            yield from (name for part in inner[1].split(",") for name in needs(part)) if inner else [each]

    declared = " ".join([*PROJECT["dependencies"], *needs("test")])
    for module, name in {"attr": "attrs", "telegram": "python-telegram-bot", "tomli": "coverage"}.items():
        declared = declared.replace(name, f"{name} {module}")
    imported = {
        match
        for path in (ROOT / "tests").rglob("*.py")
        if "benchmarks" not in path.parts
        for match in re.findall(r"(?m)^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"))
    }
    ours = {"ptb_kvpersistence", "tests", "examples", "shopmodels", "tomllib", "__future__"}
    missing = {name for name in imported - ours - sys.stdlib_module_names if name.replace("_", "-") not in declared}
    assert not missing
