"""The methods of the Bot API that the server answers, one module per subject; importing this registers them all."""

from __future__ import annotations

from ptb_kvpersistence.server.methods import bots, chats, editing, media, messages, updates
from ptb_kvpersistence.server.methods.registry import METHODS, Described, Request

__all__ = ["METHODS", "Described", "Request", "bots", "chats", "editing", "media", "messages", "updates"]
