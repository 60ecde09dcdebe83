"""`BotAPIServer`: starting and stopping the server, and registering who takes part."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Literal, final

from aiohttp import web

from ptb_kvpersistence.server.failures import APIError, too_many_requests
from ptb_kvpersistence.server.people import BotAccount, Group, User
from ptb_kvpersistence.server.web import make_app
from ptb_kvpersistence.server.world import Fault, World

HOST = "127.0.0.1"


@final
class BotAPIServer:
    """A Telegram Bot API server on this machine, with simulated users.

    It answers as the real one does, so that python-telegram-bot works with it by its ``base_url`` alone::

        async with BotAPIServer() as server:
            bot, alice = server.add_bot(), server.add_user("Alice")
            application = ApplicationBuilder().token(bot.token).base_url(server.base_url).build()
            ...
            answer = await alice.ask("/start")

    It listens on 127.0.0.1 only and keeps everything in memory. All methods belong to the event loop it was started in.

    Args:
        port: 0 for any free one.
        accepts_any_token: Register each well-formed token at its first use instead of refusing it.
    """

    def __init__(self, *, port: int = 0, accepts_any_token: bool = False) -> None:
        self.world = World()
        self.world.accepts_any_token = accepts_any_token
        self._port = port
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None

    def bind(self) -> None:
        """Take the port, so that `url` is known before there is an event loop; `start` does it where it was not done.

        Raises:
            OSError: The port is taken.
        """
        if self._socket is None:
            self._socket = socket.create_server((HOST, self._port))
            self._port = self._socket.getsockname()[1]

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            RuntimeError: It was started before.
            OSError: The port is taken.
        """
        if self._runner is not None:
            raise RuntimeError("the server was started before")
        self.bind()
        assert self._socket is not None  # noqa: S101 - for the type checker
        self._runner = web.AppRunner(make_app(self.world), access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """Stop listening, and end the webhooks and the waiting requests. Stopping twice does nothing."""
        runner, self._runner = self._runner, None
        listening, self._socket = self._socket, None
        if runner is not None:
            await self._close(runner)
        if listening is not None:
            listening.close()

    async def _close(self, runner: web.AppRunner) -> None:
        for account in self.world.accounts.values():
            webhook, account.webhook = account.webhook, None
            if webhook is not None:
                await webhook.close()
            account.updates.release_poll()
        await runner.cleanup()

    async def __aenter__(self) -> BotAPIServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens, for example ``http://127.0.0.1:8081``."""
        return f"http://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """For ``ApplicationBuilder.base_url``."""
        return f"{self.url}/bot"

    @property
    def base_file_url(self) -> str:
        """For ``ApplicationBuilder.base_file_url``."""
        return f"{self.url}/file/bot"

    @property
    def bots(self) -> list[BotAccount]:
        """The registered bots."""
        return [BotAccount(self.world, account) for account in self.world.accounts.values()]

    def add_bot(self, token: str | None = None, *, first_name: str = "Bot", username: str | None = None) -> BotAccount:
        """Register a bot.

        Args:
            token: Of the form ``123:ABC``; made up when not given.
            first_name: Its name.
            username: Without ``@``; made from the id when not given.

        Returns:
            The bot.

        Raises:
            ValueError: The token is malformed, or its id is taken.
        """
        return BotAccount(self.world, self.world.add_bot(token, first_name, username))

    def add_user(
        self,
        first_name: str = "Alice",
        *,
        last_name: str | None = None,
        username: str | None = None,
        language_code: str = "en",
    ) -> User:
        """Create a user.

        Returns:
            The user, who can write to every bot at once.
        """
        return User(self.world, self.world.add_user(first_name, last_name, username, language_code))

    def add_group(
        self,
        title: str,
        users: Iterable[User],
        bots: Iterable[BotAccount],
        *,
        kind: Literal["group", "supergroup"] = "group",
    ) -> Group:
        """Create a group; the first user is its owner.

        Args:
            title: The group's name.
            users: Who is in it, at least one.
            bots: The bots in it; they see everything that is said there.
            kind: The chat's type.

        Returns:
            The group.

        Raises:
            ValueError: There is no user.
        """
        people = list(users)
        if not people:
            raise ValueError("a group needs a user, its owner")
        members = [*(user.id for user in people), *(bot.id for bot in bots)]
        return Group(self.world, self.world.add_group(title, kind, people[0].id, members))

    def fail_next(
        self,
        method: str = "*",
        code: int = 429,
        description: str | None = None,
        *,
        retry_after: int | None = None,
        times: int = 1,
        bot: BotAccount | None = None,
    ) -> None:
        """Answer the next requests with an error.

        Args:
            method: Which method, ``*`` for any.
            code: The status; 429 is flood control.
            description: What to say; made from the code when not given.
            retry_after: Seconds to wait, for 429; 1 when not given.
            times: How many requests.
            bot: Whose requests; any bot's when not given.
        """
        if code == 429:
            error = too_many_requests(1 if retry_after is None else retry_after)
        else:
            error = APIError(code, description or f"Error {code}")
        self.world.faults.append(Fault(method.lower(), None if bot is None else bot.id, error, times))
