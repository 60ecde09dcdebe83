"""The contract suite."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{each.stem}" for each in Path(__file__).parent.glob("[!_]*.py")))

from ptb_kvpersistence.testing.contract import Contract  # noqa: E402 - its asserts are to be explained
from ptb_kvpersistence.testing.place import GUARANTEES, Place, Witness  # noqa: E402

__all__ = ["GUARANTEES", "Contract", "Place", "Witness"]
