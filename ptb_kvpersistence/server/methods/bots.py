"""Methods about the bot itself: getMe, its commands, logging out."""

from __future__ import annotations

import json
from typing import Any

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.methods.registry import Request, method
from ptb_kvpersistence.server.parameters import JSON


@method("getMe")
async def get_me(request: Request) -> JSON:
    """Return the bot as a user, with what only getMe tells."""
    return {
        **request.account.user,
        "can_join_groups": True,
        "can_read_all_group_messages": True,
        "supports_inline_queries": False,
        "can_connect_to_business": False,
        "has_main_web_app": False,
    }


@method("logOut")
async def log_out(_request: Request) -> bool:
    """Say yes; there is no other server to move to."""
    return True


@method("close")
async def close(_request: Request) -> bool:
    """Say yes; the bot may go on at once."""
    return True


def _commands_key(request: Request) -> tuple[str, str]:
    scope = request.parameters.json("scope", "BotCommandScope") or {"type": "default"}
    return json.dumps(scope, sort_keys=True), request.parameters.text("language_code")


@method("setMyCommands")
async def set_my_commands(request: Request) -> bool:
    """Store the commands of one scope and language."""
    commands: Any = request.parameters.json("commands", "commands")
    if not isinstance(commands, list):
        raise bad_request("can't parse commands: an array is expected")
    for command in commands:
        if not isinstance(command, dict) or not command.get("command") or not command.get("description"):
            raise bad_request("BOT_COMMAND_INVALID")
    request.account.commands[_commands_key(request)] = [
        {"command": str(command["command"]).lstrip("/"), "description": command["description"]} for command in commands
    ]
    return True


@method("getMyCommands")
async def get_my_commands(request: Request) -> list[JSON]:
    """Return the commands of exactly one scope and language."""
    return request.account.commands.get(_commands_key(request), [])


@method("deleteMyCommands")
async def delete_my_commands(request: Request) -> bool:
    """Forget the commands of one scope and language."""
    request.account.commands.pop(_commands_key(request), None)
    return True
