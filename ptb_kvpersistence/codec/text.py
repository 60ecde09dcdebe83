"""Strict JSON text to and from trees, by orjson.

A tree is what ``orjson.loads`` gives: dict with str keys, list, str, int of 64 bits, finite float, bool, None.
Tags mean nothing here; see :mod:`ptb_kvpersistence.codec.tags`. How deep a value may be is orjson's limit; versions
before 3.11.6 wrote beyond their buffer near it (CVE-2025-67221), so none of those will do.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import orjson

from ptb_kvpersistence.errors import DecodeError, EncodeError

Tree: TypeAlias = Any
"""A JSON value as Python objects; a recursive type would cost a cast at every step."""

_SAFE_BRACKETS: Final = 250
_BYTES_PER_DICT: Final = 5
"""Each takes ``{"":}`` at the least, so that a short text cannot hold many."""
OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""orjson writes these classes in its own way unless told to leave them alone."""


def dumps(tree: Tree) -> bytes:
    """Write a tree as compact JSON.

    Args:
        tree: A tree; key order is kept.

    Returns:
        UTF-8 bytes without spaces.

    Raises:
        EncodeError: It is no tree, or nested deeper than about 250 levels.
    """
    try:
        return orjson.dumps(tree, option=OPTIONS)
    except TypeError as error:
        if "ecursion" in str(error):
            reason = "nested too deeply; about 250 levels can be stored, lists inside tagged values count twice"
        else:
            reason = f"not a JSON tree ({error})"
        raise EncodeError(reason=reason) from None


def loads(text: bytes | str, place: str = "value") -> Tree:
    """Read JSON text.

    Integers beyond 64 bits become floats, as in most JSON readers; the codec writes its own as ``$int``.

    Args:
        text: UTF-8 bytes or str.
        place: What to call the value in an error.

    Returns:
        The tree, made of new objects.

    Raises:
        DecodeError: It is not exactly one JSON value, or nested too deeply to be written again.
    """
    try:
        tree = orjson.loads(text)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        reason = f"not valid JSON: {getattr(error, 'msg', 'bad text')} at position {position}; was it changed by hand?"
        raise DecodeError(place=place, reason=reason) from None
    if not is_shallow(text):
        try:
            orjson.dumps(tree)
        except TypeError:
            raise DecodeError(place=place, reason="nested too deeply") from None
    return tree


def is_shallow(text: bytes | str) -> bool:
    """Tell whether a text surely holds nothing that is nested too deeply, without parsing it."""
    lists = text.count("[") if isinstance(text, str) else text.count(b"[")
    if lists + len(text) // _BYTES_PER_DICT <= _SAFE_BRACKETS:
        return True
    return lists + (text.count("{") if isinstance(text, str) else text.count(b"{")) <= _SAFE_BRACKETS
