"""The package as a thing to install: what it exports, drags in and ships."""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import importlib.util
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ptb_kvpersistence
from ptb_kvpersistence import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ptb_kvpersistence"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = (
    "aiohttp",
    "attr",
    "click",
    "hypothesis",
    "matplotlib",
    "msgspec",
    "psycopg",
    "pydantic",
    "pytest",
    "redis",
    "rich",
    "typer",
)
ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.KVPersistenceError)]


def loaded_after(statements: str) -> set[str]:
    """Which top-level modules a fresh interpreter has loaded after these statements."""
    code = f"import sys\n{statements}\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# --- importing ---


def test_importing_the_package_drags_in_nothing():
    assert all(importlib.util.find_spec(name) for name in ("aiohttp", "attr", "msgspec", "pydantic", "rich", "typer"))
    loaded = loaded_after("import ptb_kvpersistence")
    assert "ptb_kvpersistence" in loaded
    assert loaded.isdisjoint((*OPTIONAL, "telegram", "aiosqlite", "sqlite3", "orjson", "asyncio"))


def test_a_store_does_without_telegram():
    loaded = loaded_after("import ptb_kvpersistence as p, tempfile; p.connect('memory:').create('s')['k'] = 1")
    assert "orjson" in loaded
    assert loaded.isdisjoint((*OPTIONAL, "telegram", "aiosqlite"))


def test_the_persistence_drags_in_no_extra():
    loaded = loaded_after("from ptb_kvpersistence import KVPersistence; KVPersistence('memory:')")
    assert "telegram" in loaded
    assert (loaded - loaded_after("import telegram.ext")).isdisjoint(OPTIONAL), "httpx loads rich where it is installed"


def test_every_exported_name_exists():
    assert sorted(ptb_kvpersistence.__all__) == ptb_kvpersistence.__all__
    assert set(ptb_kvpersistence.__all__) <= set(dir(ptb_kvpersistence))
    for name in ptb_kvpersistence.__all__:
        assert getattr(ptb_kvpersistence, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ptb_kvpersistence.no_such_name


def test_every_module_says_what_lives_there():
    for path in [*PACKAGE.rglob("*.py"), *ROOT.joinpath("examples").rglob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


# --- the wheel ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.suffix in {".py", ".typed"}}
    assert inside == sources
    assert "ptb_kvpersistence/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_wheels_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, name.removesuffix("METADATA"))).metadata
    assert metadata["Version"] == ptb_kvpersistence.__version__ == PROJECT["version"]
    assert metadata["Requires-Python"] == ">=3.10"
    required = [entry for entry in metadata.get_all("Requires-Dist") or () if "extra ==" not in entry]
    assert sorted(re.split(r"\W", entry)[0] for entry in required) == ["aiosqlite", "orjson", "python"]
    assert set(metadata.get_all("Provides-Extra") or ()) >= {"all", "cli", "server", "test"}
    assert metadata["License-Expression"] == "MIT"


def test_the_extra_all_has_every_extra_for_users():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    for_developers = {"bench", "lint", "test", "testing"}
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(extras) - {"all"} - for_developers


# --- the errors ---


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle_with_their_fields(cls, protocol):
    error = cls("what happened", place="user_data[42]", reason="because", key="k")
    for copied in (pickle.loads(pickle.dumps(error, protocol)), copy.deepcopy(error)):
        assert type(copied) is cls
        assert str(copied) == str(error) == "what happened"
        assert vars(copied) == vars(error)
        assert (copied.place, copied.reason, copied.key) == ("user_data[42]", "because", "k")


@pytest.mark.parametrize("cls", ERRORS)
def test_errors_are_what_users_expect_and_say_when(cls):
    assert cls.__doc__
    assert issubclass(cls, errors.KVPersistenceError)
    documented = re.search(rf"{cls.__name__}(?: \((\w+)\))?", errors.__doc__ or "")
    assert documented, "the module's docstring draws the tree"
    if documented[1]:
        assert documented[1] in {base.__name__ for base in cls.__mro__}


def made_in(path: Path) -> Iterator[Any]:
    """Names that a module calls, or hands on to be called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for part in (node.func, *node.args):
                yield getattr(part, "id", getattr(part, "attr", None))
        elif isinstance(node, ast.Dict):
            yield from (getattr(value, "id", None) for value in node.values)


def test_every_error_is_raised_somewhere():
    made = {name for path in PACKAGE.rglob("*.py") if path.name != "errors.py" for name in made_in(path)}
    missing = {cls.__name__ for cls in ERRORS} - made - {"KVPersistenceError"}
    assert not missing
