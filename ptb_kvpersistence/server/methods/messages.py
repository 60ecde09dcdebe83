"""Methods that send text, and those that pass messages on. Files live in ``media.py``, changes in ``editing.py``."""

from __future__ import annotations

import copy
from typing import Any

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.markdown import parse_markdown
from ptb_kvpersistence.server.markup import inline_part, read_markup
from ptb_kvpersistence.server.methods.registry import Request, method
from ptb_kvpersistence.server.parameters import JSON, Parameters
from ptb_kvpersistence.server.text import MAX_CAPTION, MAX_TEXT, find_entities, parse_html, utf16_length
from ptb_kvpersistence.server.world import Room

# What makes up a message apart from its place and its sender.
CONTENT_FIELDS = ("text", "entities", "caption", "caption_entities", "photo", "document")


def formatted(parameters: Parameters, field: str) -> JSON:
    """Read a text or caption with its entities.

    Args:
        parameters: Those of the request.
        field: ``text`` or ``caption``.

    Returns:
        The fields of a message; empty where there is no text.

    Raises:
        APIError: 400, for a parse mode that does not exist or cannot be followed, and for too long a text.
    """
    entities_field = "entities" if field == "text" else "caption_entities"
    text = parameters.text(field)
    entities: list[JSON] = []
    mode = parameters.text("parse_mode").lower()
    if mode == "html":
        text, entities = parse_html(text)
    elif mode in ("markdown", "markdownv2"):
        text, entities = parse_markdown(text, version=2 if mode == "markdownv2" else 1)
    elif mode not in ("", "none"):
        raise bad_request("unsupported parse_mode")
    else:
        given: Any = parameters.json(entities_field, "entities")
        entities = [entity for entity in given or () if isinstance(entity, dict)]
    if utf16_length(text) > (MAX_TEXT if field == "text" else MAX_CAPTION):
        raise bad_request("message is too long" if field == "text" else "message caption is too long")
    text, entities = _trimmed(text, entities)
    if not text:
        return {}
    found = [entity for entity in find_entities(text) if not _overlaps(entity, entities)]
    content: JSON = {field: text}
    if entities or found:
        content[entities_field] = sorted(entities + found, key=lambda entity: int(entity["offset"]))
    return content


def _trimmed(text: str, entities: list[JSON]) -> tuple[str, list[JSON]]:
    cut = utf16_length(text[: len(text) - len(text.lstrip())])
    text = text.strip()
    end = utf16_length(text)
    kept = []
    for entity in entities:
        start = max(int(entity["offset"]) - cut, 0)
        length = min(int(entity["offset"]) - cut + int(entity["length"]), end) - start
        if length > 0:
            kept.append({**entity, "offset": start, "length": length})
    return text, kept


def _overlaps(entity: JSON, others: list[JSON]) -> bool:
    start, end = entity["offset"], entity["offset"] + entity["length"]
    return any(start < other["offset"] + other["length"] and other["offset"] < end for other in others)


def reply_target(request: Request, room: Room) -> JSON | None:
    """Return the message that a new one answers, None when it answers none.

    Raises:
        APIError: 400, when it does not exist and the request insists on it.
    """
    parameters = request.parameters
    wanted: Any = parameters.json("reply_parameters", "reply parameters") or {}
    if not isinstance(wanted, dict):
        raise bad_request("can't parse reply parameters: object expected as reply parameters")
    message_id = wanted.get("message_id") or parameters.integer("reply_to_message_id")
    if not message_id:
        return None
    place = request.world.room(request.account, str(wanted["chat_id"])) if wanted.get("chat_id") else room
    message = place.find(int(message_id))
    may_be_missing = wanted.get("allow_sending_without_reply") or parameters.boolean("allow_sending_without_reply")
    if message is None and not may_be_missing:
        raise bad_request("message to be replied not found")
    return message


def send(request: Request, content: JSON) -> JSON:
    """Put a message of the bot into the chat of the request and show it to the people there.

    Args:
        request: Names the chat, the reply and the markup.
        content: Text or media fields.

    Returns:
        The message.
    """
    room = request.room(write=True)
    markup = read_markup(request.parameters)
    reply_to = reply_target(request, room)
    if inline_part(markup) is not None:
        content = {**content, "reply_markup": markup}
    message = request.world.new_message(room, request.account.user, content, reply_to)
    request.world.tell_people(room, "sent", message, markup, request.account.id)
    return copy.deepcopy(message)


@method("sendMessage")
async def send_message(request: Request) -> JSON:
    """Send text."""
    request.room(write=True)
    content = formatted(request.parameters, "text")
    if not content:
        raise bad_request("message text is empty")
    return send(request, content)


def _source(request: Request, action: str) -> JSON:
    room = request.room("from_chat_id")
    message = room.find(request.parameters.integer("message_id"))
    if message is None:
        raise bad_request(f"message to {action} not found")
    return message


@method("forwardMessage")
async def forward_message(request: Request) -> JSON:
    """Pass a message on with its origin."""
    request.room(write=True)
    message = _source(request, "forward")
    origin = message.get("forward_origin") or {
        "type": "user",
        "date": message["date"],
        "sender_user": message["from"],
    }
    content = {name: copy.deepcopy(message[name]) for name in CONTENT_FIELDS if name in message}
    return send(request, {"forward_origin": origin, **content})


@method("copyMessage")
async def copy_message(request: Request) -> JSON:
    """Send the content of a message again as the bot's own, with another caption if given."""
    request.room(write=True)
    message = _source(request, "copy")
    content = {name: copy.deepcopy(message[name]) for name in CONTENT_FIELDS if name in message}
    if "caption" in request.parameters and "text" not in content:
        content.pop("caption", None)
        content.pop("caption_entities", None)
        content.update(formatted(request.parameters, "caption"))
    return {"message_id": send(request, content)["message_id"]}
