"""The server for scripts and process tests that have no event loop: it runs in a thread with its own.

Each method does what its namesake in ``api.py`` and ``people.py`` does, and waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from ptb_kvpersistence.server.api import BotAPIServer
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.people import DEFAULT_TIMEOUT, BotAccount, Button, Group, Message, Press, User
from ptb_kvpersistence.server.world import Call

T = TypeVar("T")

# Beyond the waiting time that a method is given; reached only when the server's thread has died.
_GRACE = 10.0


class _Thread:
    """Runs coroutines in the server's loop on behalf of another thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="bot-api-server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def wait(self, work: Coroutine[Any, Any, T], timeout: float = DEFAULT_TIMEOUT) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout + _GRACE)

    def call(self, function: Callable[[], T]) -> T:
        async def work() -> T:
            return function()

        return self.wait(work())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_GRACE)
        self.loop.close()


class BlockingBot:
    """A registered bot; see `BotAccount`."""

    def __init__(self, thread: _Thread, bot: BotAccount) -> None:
        self._thread = thread
        self.bot = bot
        self.token = bot.token
        self.id = bot.id
        self.username = bot.username

    @property
    def calls(self) -> list[Call]:
        """Every request of the bot except getUpdates, oldest first."""
        return self._thread.call(lambda: self.bot.calls)

    def wait_until_idle(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """See `BotAccount.wait_until_idle`."""
        self._thread.wait(self.bot.wait_until_idle(timeout), timeout)

    def wait_for_call(self, method: str, timeout: float = DEFAULT_TIMEOUT, *, skip: int = 0) -> Call:
        """See `BotAccount.wait_for_call`."""
        return self._thread.wait(self.bot.wait_for_call(method, timeout, skip=skip), timeout)


class BlockingPress:
    """A button that was pressed; see `Press`."""

    def __init__(self, thread: _Thread, press: Press) -> None:
        self._thread = thread
        self._press = press
        self.id = press.id

    def answer(self, timeout: float = DEFAULT_TIMEOUT) -> JSON:
        """See `Press.answer`."""
        return self._thread.wait(self._press.answer(timeout), timeout)


def _place(where: BlockingBot | Group | None) -> BotAccount | Group | None:
    return where.bot if isinstance(where, BlockingBot) else where


class BlockingUser:
    """Somebody who writes to bots; see `User`."""

    def __init__(self, thread: _Thread, user: User) -> None:
        self._thread = thread
        self.user = user
        self.id = user.id
        self.first_name = user.first_name

    def send(
        self, text: str, *, to: BlockingBot | Group | None = None, reply_to: Message | None = None, **content: Any
    ) -> Message:
        """See `User.send`."""
        return self._thread.call(lambda: self.user.send(text, to=_place(to), reply_to=reply_to, **content))

    def edit(self, message: Message, text: str) -> Message:
        """See `User.edit`."""
        return self._thread.call(lambda: self.user.edit(message, text))

    def press(self, button: Button) -> BlockingPress:
        """See `User.press`."""
        return BlockingPress(self._thread, self._thread.call(lambda: self.user.press(button)))

    def receive(self, timeout: float = DEFAULT_TIMEOUT, *, sender: BlockingBot | Group | None = None) -> Message:
        """See `User.receive`."""
        return self._thread.wait(self.user.receive(timeout, sender=_place(sender)), timeout)

    def ask(self, text: str, timeout: float = DEFAULT_TIMEOUT, *, to: BlockingBot | Group | None = None) -> Message:
        """See `User.ask`."""
        return self._thread.wait(self.user.ask(text, timeout, to=_place(to)), timeout)

    def history(self, sender: BlockingBot | Group | None = None) -> list[Message]:
        """See `User.history`."""
        return self._thread.call(lambda: self.user.history(_place(sender)))

    def block(self, bot: BlockingBot, *, blocked: bool = True) -> None:
        """See `User.block`."""
        self._thread.call(lambda: self.user.block(bot.bot, blocked=blocked))


class RunningServer:
    """A server in a thread; see `BotAPIServer`. Made by `running_server`."""

    def __init__(self, thread: _Thread, server: BotAPIServer) -> None:
        self._thread = thread
        self._server = server
        self.url = server.url
        self.base_url = server.base_url
        self.base_file_url = server.base_file_url

    def add_bot(self, token: str | None = None, *, first_name: str = "Bot", username: str | None = None) -> BlockingBot:
        """See `BotAPIServer.add_bot`."""
        bot = self._thread.call(lambda: self._server.add_bot(token, first_name=first_name, username=username))
        return BlockingBot(self._thread, bot)

    def add_user(self, first_name: str = "Alice", **more: Any) -> BlockingUser:
        """See `BotAPIServer.add_user`."""
        return BlockingUser(self._thread, self._thread.call(lambda: self._server.add_user(first_name, **more)))

    def add_group(
        self,
        title: str,
        users: Iterable[BlockingUser],
        bots: Iterable[BlockingBot],
        *,
        kind: Literal["group", "supergroup"] = "group",
    ) -> Group:
        """See `BotAPIServer.add_group`."""
        people, accounts = [user.user for user in users], [bot.bot for bot in bots]
        return self._thread.call(lambda: self._server.add_group(title, people, accounts, kind=kind))

    def fail_next(self, method: str = "*", code: int = 429, description: str | None = None, **more: Any) -> None:
        """See `BotAPIServer.fail_next`; `bot` takes a `BlockingBot`."""
        if isinstance(more.get("bot"), BlockingBot):
            more["bot"] = more["bot"].bot
        self._thread.call(lambda: self._server.fail_next(method, code, description, **more))


@contextmanager
def running_server(*, port: int = 0, accepts_any_token: bool = False) -> Iterator[RunningServer]:
    """Run a server in a thread for as long as the block lasts.

    Args:
        port: 0 for any free one.
        accepts_any_token: Register each well-formed token at its first use instead of refusing it.

    Yields:
        The running server; its methods may be called from any thread but the server's own.
    """
    thread = _Thread()
    server = BotAPIServer(port=port, accepts_any_token=accepts_any_token)
    try:
        thread.wait(server.start())
        try:
            yield RunningServer(thread, server)
        finally:
            thread.wait(server.stop())
    finally:
        thread.close()
