"""What became of a commit whose reply never came: it was applied, or is kept from ever being applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptb_kvpersistence.backends.base import TOMBSTONE_LIFETIME, now
from ptb_kvpersistence.model import Address, Commit, GetMany, Put
from ptb_kvpersistence.persistence.layout import CLAIMED

if TYPE_CHECKING:
    from collections.abc import Generator

    from ptb_kvpersistence.model import CommitReply, Requested


def claim(store: int, commit: str) -> Generator[Requested[Any], Any, bool]:
    """Take a commit's id, so that the original can no longer be applied, unless it was.

    The claim leaves a mark, for its own reply may be lost too: asked again, an id that is taken says nothing about
    who took it.

    Returns:
        Whether the commit was applied.
    """
    mark = Address(CLAIMED, commit)
    put = Put(*mark, b"true", None, now() + TOMBSTONE_LIFETIME)
    reply: CommitReply = yield Commit(store, (put,), (), commit)
    if not reply.applied_before:
        return False
    (record,) = yield GetMany(store, (mark,))
    return record is None
