"""Methods that change or remove messages the bot has sent."""

from __future__ import annotations

import copy
import time
from typing import Any

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.markup import inline_part, read_markup
from ptb_kvpersistence.server.methods.messages import formatted
from ptb_kvpersistence.server.methods.registry import Request, method
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.world import Room


def _own_message(request: Request) -> tuple[Room, JSON]:
    if request.parameters.text("inline_message_id"):
        raise bad_request("MESSAGE_ID_INVALID")
    room = request.room(write=True)
    if "message_id" not in request.parameters:
        raise bad_request("message identifier is not specified")
    message = room.find(request.parameters.integer("message_id"))
    if message is None:
        raise bad_request("message to edit not found")
    if message["from"]["id"] != request.account.id or "forward_origin" in message:
        raise bad_request("message can't be edited")
    return room, message


def _replace(request: Request, removed: tuple[str, ...], content: JSON) -> JSON:
    """Change a message; an inline keyboard that is not given again goes away, as on Telegram."""
    room, message = _own_message(request)
    markup = inline_part(read_markup(request.parameters))
    changed = {name: value for name, value in message.items() if name not in (*removed, "reply_markup")}
    changed.update(content)
    if markup is not None:
        changed["reply_markup"] = markup
    if changed == message:
        raise bad_request(
            "message is not modified: specified new message content and reply markup are exactly the same as a current "
            "content and reply markup of the message"
        )
    changed["edit_date"] = int(time.time())
    room.messages[message["message_id"]] = changed
    request.world.tell_people(room, "edited", changed, markup, request.account.id)
    return copy.deepcopy(changed)


@method("editMessageText")
async def edit_message_text(request: Request) -> JSON:
    """Replace the text of a text message."""
    _, message = _own_message(request)
    content = formatted(request.parameters, "text")
    if not content:
        raise bad_request("message text is empty")
    if "text" not in message:
        raise bad_request("there is no text in the message to edit")
    return _replace(request, ("text", "entities"), content)


@method("editMessageCaption")
async def edit_message_caption(request: Request) -> JSON:
    """Replace the caption of a message with a file; an empty one removes it."""
    _, message = _own_message(request)
    if "text" in message:
        raise bad_request("there is no caption in the message to edit")
    return _replace(request, ("caption", "caption_entities"), formatted(request.parameters, "caption"))


@method("editMessageReplyMarkup")
async def edit_message_reply_markup(request: Request) -> JSON:
    """Replace the inline keyboard alone; none removes it."""
    return _replace(request, (), {})


def _delete(request: Request, room: Room, message_id: int) -> bool:
    message = room.messages.get(message_id)
    if message is None:
        return False
    is_own = message["from"]["id"] == request.account.id
    if not is_own and not room.is_private and room.members.get(request.account.id) != "administrator":
        raise bad_request("message can't be deleted")
    del room.messages[message_id]
    request.world.tell_people(room, "deleted", message, None, request.account.id)
    return True


@method("deleteMessage")
async def delete_message(request: Request) -> bool:
    """Remove a message of the bot, or anybody's in a private chat."""
    room = request.room()
    if "message_id" not in request.parameters:
        raise bad_request("message identifier is not specified")
    if not _delete(request, room, request.parameters.integer("message_id")):
        raise bad_request("message to delete not found")
    return True


@method("deleteMessages")
async def delete_messages(request: Request) -> bool:
    """Remove several messages; those that do not exist are skipped."""
    room = request.room()
    ids: Any = request.parameters.json("message_ids", "message identifiers")
    if not isinstance(ids, list) or not all(isinstance(number, int) for number in ids):
        raise bad_request("message identifiers are not specified")
    for number in ids:
        _delete(request, room, number)
    return True
