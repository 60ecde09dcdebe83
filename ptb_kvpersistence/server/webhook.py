"""Sending a bot's updates to its webhook, one after another, each until it is accepted."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp

from ptb_kvpersistence.server.failures import APIError, bad_request
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.updates import UpdateQueue

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
REQUEST_TIMEOUT = 30.0
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105 - a header's name

Reply = Callable[[JSON], Awaitable[None]]

_SECRET = re.compile(r"[A-Za-z0-9_-]{0,256}")


def check_url(url: str) -> None:
    """Refuse a webhook that does not lie on this machine: this server posts to nobody else.

    Raises:
        APIError: 400.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise bad_request("invalid webhook URL specified") from None
    if parts.scheme not in ("http", "https") or not host:
        raise bad_request("invalid webhook URL specified")
    if host == "localhost":
        return
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise bad_request("bad webhook: this local server posts to addresses of this machine only")


def check_secret(secret: str) -> None:
    """Refuse a secret token that the Bot API would refuse.

    Raises:
        APIError: 400.
    """
    if len(secret) > 256:
        raise bad_request("secret token is too long")
    if _SECRET.fullmatch(secret) is None:
        raise bad_request("secret token contains unallowed characters")


class Webhook:
    """One webhook while it is set.

    Args:
        url: Where to post.
        secret: Sent along in a header; empty for none.
        max_connections: Only reported back; updates are sent one at a time.
        updates: The bot's queue.
        reply: Called with the method call that a webhook may answer with.

    Attributes:
        last_error_date: When a delivery failed last, None if never.
        last_error_message: Why.
    """

    def __init__(self, url: str, secret: str, max_connections: int, updates: UpdateQueue, reply: Reply) -> None:
        self.url = url
        self.secret = secret
        self.max_connections = max_connections
        self.last_error_date: int | None = None
        self.last_error_message: str | None = None
        self._updates = updates
        self._reply = reply
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop sending; what was not accepted stays pending."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        pause = FIRST_PAUSE
        # A webhook on this machine may have a self-signed certificate; there is nothing to verify it against.
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=False)) as session:
            while True:
                update = await self._updates.first()
                error = await self._deliver(session, update)
                if error is None:
                    self._updates.confirm(update["update_id"] + 1)
                    pause = FIRST_PAUSE
                    continue
                self.last_error_date = int(time.time())
                self.last_error_message = error
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _deliver(self, session: aiohttp.ClientSession, update: JSON) -> str | None:
        headers = {SECRET_HEADER: self.secret} if self.secret else {}
        try:
            async with session.post(self.url, json=update, headers=headers) as response:
                body = await response.read()
        except asyncio.TimeoutError:
            return "Read timeout expired"
        except aiohttp.ClientConnectorError:
            return "Connection refused"
        except aiohttp.ClientError as error:
            return f"Wrong response from the webhook: {type(error).__name__}"
        if not 200 <= response.status < 300:
            return f"Wrong response from the webhook: {response.status} {response.reason}"
        await self._answer(body)
        return None

    async def _answer(self, body: bytes) -> None:
        """Make the call that the webhook answered with, if it did; its result is not reported, as on Telegram."""
        try:
            call = json.loads(body)
        except ValueError:
            return
        if isinstance(call, dict) and "method" in call:
            try:
                await self._reply(call)
            except APIError as error:
                logger.warning("the call in the webhook's answer was refused: %s", error.description)
