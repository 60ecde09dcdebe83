"""Where an example bot runs: on Telegram, on another Bot API server, or in a chat on the terminal.

This keeps the plumbing out of the examples, so that they show nothing but a bot. A bot of one's own needs none of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ptb_kvpersistence.server.api import BotAPIServer
from ptb_kvpersistence.server.terminal import Terminal

if TYPE_CHECKING:
    from telegram.ext import Application, ApplicationBuilder

Builder = TypeVar("Builder", bound="ApplicationBuilder[Any, Any, Any, Any, Any, Any]")

TOKEN_VARIABLE = "BOT_TOKEN"  # noqa: S105 - the name of a variable
URL_VARIABLE = "BOT_API_URL"
DATABASE_VARIABLE = "BOT_DATABASE"


class Example:
    """Connects an example's bots to wherever they shall run.

    With a token in the environment (``BOT_TOKEN``, or ``BOT_TOKEN_<NAME>`` for each of several bots) they talk to
    Telegram, or to the Bot API server whose URL is in ``BOT_API_URL``. Without one a server is started in this process,
    and the terminal is the chat.

    Args:
        database: Where the data is kept, unless ``--database`` or ``BOT_DATABASE`` says otherwise.
        bots: The names of the bots, when there are several; the command line may pick some of them.
        description: For ``--help``.
        arguments: Instead of those of the command line.

    Attributes:
        database: Where to keep the data.
        bots: The names of the bots to run in this process.
    """

    def __init__(
        self,
        database: str,
        *,
        bots: Sequence[str] = ("bot",),
        description: str | None = None,
        arguments: Sequence[str] | None = None,
    ) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        default = os.environ.get(DATABASE_VARIABLE, database)
        parser.add_argument("--database", default=default, help=f"a path or a URL (default: {default})")
        if len(bots) > 1:
            parser.add_argument(
                "bots", nargs="*", metavar="BOT", help=f"which to run: {', '.join(bots)} (default: all)"
            )
        options = parser.parse_args(arguments)
        self.database: str = options.database
        self.bots: list[str] = list(getattr(options, "bots", None) or bots)
        unknown = set(self.bots) - set(bots)
        if unknown:
            parser.error(f"there is no bot {min(unknown)!r}, but {', '.join(bots)}")
        self._variables = {
            name: TOKEN_VARIABLE if len(bots) == 1 else f"{TOKEN_VARIABLE}_{name.upper()}" for name in bots
        }
        self._server: BotAPIServer | None = None
        if not any(os.environ.get(variable) for variable in self._variables.values()):
            self._server = BotAPIServer()
            self._server.bind()

    def connect(self, builder: Builder, bot: str | None = None) -> Builder:
        """Give an ApplicationBuilder the token and the URLs.

        Args:
            builder: A new one.
            bot: Which of several bots.

        Returns:
            The builder.
        """
        name = bot or self.bots[0]
        if self._server is None:
            token = os.environ.get(self._variables[name])
            if not token:
                raise SystemExit(f"Set {self._variables[name]} to the token of the bot {name!r}.")
            builder.token(token)
            url = os.environ.get(URL_VARIABLE, "").rstrip("/")
        else:
            # A fixed token: the same bot again at the next start, so that it finds its data.
            number = 7001 + list(self._variables).index(name)
            builder.token(
                self._server.add_bot(f"{number}:local", first_name=name.title(), username=f"{name}_bot").token
            )
            url = self._server.url
        if url:
            builder.base_url(f"{url}/bot").base_file_url(f"{url}/file/bot")
        return builder

    def run(self, *applications: Application[Any, Any, Any, Any, Any, Any]) -> None:
        """Run the bots until they are stopped, or until the chat on the terminal ends.

        Args:
            *applications: Those that were built with `connect`.
        """
        if self._server is None and len(applications) == 1:
            applications[0].run_polling()
            return
        with suppress(KeyboardInterrupt):
            asyncio.run(self._run(applications))

    async def _run(self, applications: Sequence[Application[Any, Any, Any, Any, Any, Any]]) -> None:
        async with AsyncExitStack() as stack:
            if self._server is not None:
                await stack.enter_async_context(self._server)
            for application in applications:
                await stack.enter_async_context(polling(application))
            if self._server is None:
                await _stop_signal()
            else:
                await Terminal(self._server.add_user("You"), self._server.bots).chat()


@asynccontextmanager
async def polling(application: Application[Any, Any, Any, Any, Any, Any]) -> AsyncIterator[None]:
    """Run an application beside others in one event loop; at the end it is stopped and its data saved.

    Args:
        application: One with an updater.

    Raises:
        ValueError: It has no updater.
    """
    if application.updater is None:
        raise ValueError("the application needs an updater to poll with")
    async with application:
        await application.start()
        await application.updater.start_polling()
        try:
            yield
        finally:
            await application.updater.stop()
            await application.stop()


async def _stop_signal() -> None:
    """Wait for SIGTERM; Ctrl+C cancels this instead."""
    stopped = asyncio.Event()
    with suppress(NotImplementedError):  # Windows ends the process by itself
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
