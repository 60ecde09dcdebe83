"""Reply markups: what is checked before a message takes one."""

from __future__ import annotations

from typing import Any

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.parameters import JSON, Parameters

MAX_CALLBACK_DATA = 64

_KINDS = ("inline_keyboard", "keyboard", "remove_keyboard", "force_reply")
_ACTIONS = (
    "url",
    "callback_data",
    "web_app",
    "login_url",
    "switch_inline_query",
    "switch_inline_query_current_chat",
    "switch_inline_query_chosen_chat",
    "copy_text",
    "callback_game",
    "pay",
)


def read_markup(parameters: Parameters) -> JSON | None:
    """Return the checked ``reply_markup`` of a request.

    Args:
        parameters: Those of the request.

    Returns:
        The markup, or None when there is none or it is empty.

    Raises:
        APIError: 400, for a markup that the Bot API refuses.
    """
    markup = parameters.json("reply_markup", "reply keyboard markup")
    if markup is None:
        return None
    if not isinstance(markup, dict):
        raise bad_request("object expected as reply markup")
    if "inline_keyboard" in markup:
        keyboard = [
            [_inline_button(button) for button in row]
            for row in _rows(markup["inline_keyboard"], "inline_keyboard")
            if row
        ]
        return {"inline_keyboard": keyboard} if keyboard else None
    if "keyboard" in markup:
        _rows(markup["keyboard"], "keyboard")
        return markup
    return markup if any(markup.get(kind) for kind in _KINDS) else None


def _rows(rows: Any, name: str) -> list[list[Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request(f'field "{name}" of the ReplyKeyboardMarkup must be an Array of Arrays')
    return rows


def _inline_button(button: Any) -> JSON:
    if not isinstance(button, dict):
        raise bad_request("can't parse inline keyboard button: an object is expected")
    text = button.get("text")
    if not isinstance(text, str) or not text:
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
    if not any(action in button for action in _ACTIONS):
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
    data = button.get("callback_data")
    if data is not None and not 1 <= len(str(data).encode()) <= MAX_CALLBACK_DATA:
        raise bad_request("BUTTON_DATA_INVALID")
    return button


def inline_part(markup: JSON | None) -> JSON | None:
    """Return the markup if it is an inline keyboard: the only kind that a message shows afterwards."""
    return markup if markup is not None and "inline_keyboard" in markup else None
