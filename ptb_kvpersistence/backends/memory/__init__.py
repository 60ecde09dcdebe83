"""Memory: a database of this process, gone with it."""

from __future__ import annotations

from ptb_kvpersistence.backends.memory.engine import MemoryEngine
from ptb_kvpersistence.backends.memory.faces import AsyncMemoryBackend, MemoryBackend

__all__ = ["AsyncMemoryBackend", "MemoryBackend", "MemoryEngine"]
