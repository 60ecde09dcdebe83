"""Real Applications without a network: a request class answers as Telegram would; no tests here."""

from __future__ import annotations

import asyncio
import json

from telegram.ext import ApplicationBuilder
from telegram.request import BaseRequest

TOKEN = "4711:offline"


class Offline(BaseRequest):
    """Answers getMe, hands out the messages it was given, and says yes to everything else."""

    def __init__(self, messages=()):
        self.messages = list(messages)
        self._number = 0

    @property
    def read_timeout(self):
        return 1.0

    async def initialize(self):
        pass

    async def shutdown(self):
        pass

    async def do_request(self, url, method, request_data=None, *_timeouts, **_more):
        return 200, json.dumps({"ok": True, "result": await self._answer(url.rsplit("/", 1)[-1])}).encode()

    async def _answer(self, method):
        if method == "getMe":
            return {"id": 4711, "is_bot": True, "first_name": "Bot", "username": "offline_bot"}
        if method == "getUpdates":
            # PTB forgets a stop_running() that comes before start() has returned.
            await asyncio.sleep(0.02)
            if not self.messages:
                return []
            return [self._update(*self.messages.pop(0))]
        return True

    def _update(self, user, text):
        self._number += 1
        sender = {"id": user, "is_bot": False, "first_name": f"User {user}"}
        message = {
            "message_id": self._number,
            "date": 0,
            "chat": {"id": user, "type": "private"},
            "from": sender,
            "text": text,
        }
        if text.startswith("/"):
            message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text)}]
        return {"update_id": self._number, "message": message}


def builder(persistence, messages=()):
    """An ApplicationBuilder for a bot that is sent ``(user id, text)`` messages."""
    request = Offline(messages)
    return ApplicationBuilder().token(TOKEN).request(request).get_updates_request(request).persistence(persistence)
