"""The only module that touches private attributes of PTB, for what it has no public way to ask.

Needed in an emergency alone: PTB's updater has died of a value that cannot be copied, or the process ends without a
last ``flush()``. Data and callback data can be had from public attributes; the states of conversations cannot.
"""

from __future__ import annotations

import gc
import inspect
from typing import TYPE_CHECKING, Any, Final, cast

from telegram.ext import Application, BasePersistence, ConversationHandler

if TYPE_CHECKING:
    from collections.abc import Iterator


_NEAR: Final = 8


def calling_application(
    persistence: BasePersistence[Any, Any, Any],
) -> Application[Any, Any, Any, Any, Any, Any] | None:
    """Find the Application that the calling code is just putting together with a persistence; it is never told."""
    frame = inspect.currentframe()
    for _ in range(_NEAR):
        frame = None if frame is None else frame.f_back
        if frame is None:
            break
        for value in frame.f_locals.values():
            if isinstance(value, Application) and value.persistence is persistence:
                return value
    return None


def find_application(persistence: BasePersistence[Any, Any, Any]) -> Application[Any, Any, Any, Any, Any, Any] | None:
    """Find the Application that uses a persistence, where :func:`calling_application` saw none.

    Cost: one pass over all objects that the garbage collector knows, some 10 ms per 100,000 objects.
    """
    found = None
    for application in _owners(persistence):
        if application.persistence is persistence:
            if application._initialized:  # noqa: SLF001 - no public way; an earlier Application may still be around
                return application
            found = application
    return found


def _owners(persistence: object) -> Iterator[Application[Any, Any, Any, Any, Any, Any]]:
    # Depending on Python and on PTB, an Application refers to its attributes itself or by its __dict__.
    attributes = []
    for referrer in gc.get_referrers(persistence):
        if isinstance(referrer, Application):
            yield referrer
        elif type(referrer) is dict and referrer.get("persistence") is persistence:
            attributes.append(referrer)
    for referrer in gc.get_referrers(*attributes):
        if isinstance(referrer, Application):
            yield referrer


def conversation_names(application: Application[Any, Any, Any, Any, Any, Any]) -> set[str]:
    """Name the persistent conversation handlers, nested ones included."""
    return set(application._conversation_handler_conversations)  # noqa: SLF001 - no public way


def conversation_states(
    application: Application[Any, Any, Any, Any, Any, Any],
) -> Iterator[tuple[str, tuple[int | str, ...], object | None]]:
    """List the states of all persistent conversations as memory holds them: handler name, key, state.

    A handler that is still running counts with the state before it.
    """
    for name, states in application._conversation_handler_conversations.items():  # noqa: SLF001 - no public way
        for key, state in dict(states).items():
            if hasattr(state, "old_state") and hasattr(state, "task"):
                current = _resolve(state)
                if current is not None and current != ConversationHandler.END:
                    yield name, key, current
            else:
                yield name, key, state


def _resolve(pending: Any) -> object | None:
    if not pending.done():
        return cast("object", pending.old_state)
    try:
        return cast("object", pending.resolve())
    except BaseException:  # noqa: BLE001 - a cancelled task raises CancelledError here
        return cast("object", pending.old_state)
