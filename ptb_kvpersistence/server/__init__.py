"""A local Telegram Bot API server for examples, demonstrations and tests of bots.

Bots talk to it over HTTP as they talk to Telegram; simulated users talk to the bots. Needs the extra ``server``.
"""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401 - only to say what to install
except ImportError as error:
    raise ImportError('the local Bot API server needs aiohttp: pip install "ptb-kvpersistence[server]"') from error

from ptb_kvpersistence.server.api import BotAPIServer
from ptb_kvpersistence.server.blocking import BlockingBot, BlockingUser, RunningServer, running_server
from ptb_kvpersistence.server.failures import APIError
from ptb_kvpersistence.server.people import BotAccount, Button, Group, Message, Press, User
from ptb_kvpersistence.server.world import Call

__all__ = [
    "APIError",
    "BlockingBot",
    "BlockingUser",
    "BotAPIServer",
    "BotAccount",
    "Button",
    "Call",
    "Group",
    "Message",
    "Press",
    "RunningServer",
    "User",
    "running_server",
]
