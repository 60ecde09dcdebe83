"""Runs one block of the README as a script: ``python -m tests.unit.readme_block FILE``.

``await`` works at the top level. A block that starts a bot with ``run_polling`` gets an Application without a network
that receives /start once; what the bot answers is printed.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
from pathlib import Path
from typing import Any

USER = {"id": 42, "is_bot": False, "first_name": "Ada"}
CHAT = {"id": 42, "type": "private", "first_name": "Ada"}
START = {
    "update_id": 1,
    "message": {
        "message_id": 1,
        "date": 1_700_000_000,
        "chat": CHAT,
        "from": USER,
        "text": "/start",
        "entities": [{"type": "bot_command", "offset": 0, "length": 6}],
    },
}


async def do_request(_self: Any, url: str, method: str, request_data: Any = None, **_: Any) -> tuple[int, bytes]:
    """Answer as the Bot API does."""
    name = url.rpartition("/")[2]
    result: Any = True
    if name == "getMe":
        result = {"id": 123456, "is_bot": True, "first_name": "Bot", "username": "readme_bot"}
    elif name == "sendMessage":
        print(request_data.parameters["text"])
        result = {"message_id": 2, "date": 1_700_000_000, "chat": CHAT, "text": request_data.parameters["text"]}
    return 200, json.dumps({"ok": True, "result": result}).encode()


def run_polling(application: Any, *_args: Any, **_settings: Any) -> None:
    """Go through an Application's life as ``run_polling`` does, with one update instead of a network."""
    from telegram import Update

    async def live() -> None:
        async with application:
            await application.start()
            await application.process_update(Update.de_json(START, application.bot))
            await application.stop()

    asyncio.run(live())


def main() -> None:
    source = Path(sys.argv[1]).read_text(encoding="utf-8")
    if "run_polling" in source:
        from telegram.ext import Application
        from telegram.request import HTTPXRequest

        HTTPXRequest.do_request = do_request  # type: ignore[method-assign,assignment]
        Application.run_polling = run_polling  # type: ignore[method-assign,assignment]
    code = compile(source, sys.argv[1], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, {"__name__": "__main__"})
    if inspect.iscoroutine(result):

        async def wait() -> None:
            await result

        asyncio.run(wait())


if __name__ == "__main__":
    main()
