"""Python values to JSON text and back, without loss and without running code; no I/O, no telegram."""

from __future__ import annotations

from ptb_kvpersistence.codec.core import Codec
from ptb_kvpersistence.codec.extension import Extension
from ptb_kvpersistence.codec.text import dumps, loads

__all__ = ["Codec", "Extension", "dumps", "loads"]
