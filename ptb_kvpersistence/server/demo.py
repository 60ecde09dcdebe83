"""The demonstration: a bot is killed in the middle of a conversation, twice, and comes back with everything.

A real bot process, a real database file and a Bot API server on this machine; only the person is played. Run it with
``ptb-kv demo`` or ``python -m ptb_kvpersistence.server.demo``.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ptb_kvpersistence.server.blocking import BlockingBot, BlockingUser, RunningServer, running_server
from ptb_kvpersistence.server.people import Button, Message

TOKEN = "4711:demo"  # noqa: S105 - of the server in this process
UPDATE_INTERVAL = 0.3
TIMEOUT = 15.0

# How long each line stands before the next one, so that a person can follow.
_PAUSE = 0.25


class DemoError(Exception):
    """Something that should have come back did not."""


def _print(text: str, style: str = "") -> None:
    if style and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text = f"\x1b[{style}m{text}\x1b[0m"
    print(text, flush=True)  # noqa: T201 - the demonstration
    time.sleep(_PAUSE)


def _headline(text: str) -> None:
    _print(f"\n--- {text}", "1;36")


class _Bot:
    """The bot's process: started, killed, started again."""

    def __init__(self, server: RunningServer, account: BlockingBot, folder: Path) -> None:
        self.database = folder / "pizza.db"
        self._account = account
        self._log = folder / "bot.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "BOT_TOKEN": account.token,
            "BOT_API_URL": server.url,
            "BOT_DATABASE": str(self.database),
            "BOT_UPDATE_INTERVAL": str(UPDATE_INTERVAL),
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "ptb_kvpersistence.server.demo_bot"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)  # noqa: S603
        _print(f"    bot process {self._process.pid} starts", "32")

    def kill(self) -> None:
        """End the process as a power cut would: no handler and no exit function of it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        _print(f"    kill -9 {process.pid}: the bot is dead", "1;31")

    def check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise DemoError(f"the bot process has ended by itself, with status {self._process.returncode}")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def rows(self, *sections: str) -> dict[str, str]:
        """Read what is stored with plain SQL, as any other program could."""
        wanted = [f"ptb:{section}:{self._account.id}" for section in sections]
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT domain, key, value FROM entries WHERE value IS NOT NULL AND domain IN ({marks})"  # noqa: S608
        uri = f"{self.database.as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
                found = connection.execute(query, wanted).fetchall()
        except sqlite3.OperationalError:  # the bot has not made it yet
            return {}
        return {f"{domain.removeprefix('ptb:')} {key}": value for domain, key, value in found}

    def wait_saved(self, section: str, text: str) -> None:
        """Wait until something is on disk; whatever is killed after that must not matter."""
        deadline = time.monotonic() + TIMEOUT
        while not any(text in value for value in self.rows(section).values()):
            if time.monotonic() > deadline:
                raise DemoError(f"{section} was not saved within {TIMEOUT} s")
            time.sleep(0.05)


class _Chat:
    """What Alice does and what she must be told."""

    def __init__(self, alice: BlockingUser, bot: _Bot) -> None:
        self._alice = alice
        self._bot = bot

    def say(self, text: str, remark: str = "") -> None:
        self._alice.send(text)
        _print(f"  Alice: {text}{remark}")

    def press(self, button: Button, remark: str = "") -> None:
        self._alice.press(button)
        _print(f"  Alice presses [{button.text}]{remark}")

    def expect(self, text: str) -> Message:
        message = self._receive()
        keys = "  ".join(f"[{button.text}]" for row in message.buttons for button in row)
        _print(f"  Bot:   {message.text}  {keys}".rstrip(), "33")
        if message.text != text:
            raise DemoError(f"the bot should have said: {text}")
        return message

    def _receive(self) -> Message:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return self._alice.receive(0.5)
            except TimeoutError:
                self._bot.check_alive()
                if time.monotonic() > deadline:
                    raise DemoError(f"the bot said nothing for {TIMEOUT} s") from None


def _play(bot: _Bot, chat: _Chat) -> None:
    _headline("Alice begins to order")
    bot.start()
    chat.say("/order")
    chat.expect("Welcome! What is your name?")
    chat.say("Alice")
    menu = chat.expect("Hello Alice! Which pizza?")
    chat.press(menu.button("Margherita"), "  (the button carries a Pizza object)")
    chat.expect("How many?")
    bot.wait_saved("conversations", '"amount"')

    _headline("The bot is killed in the middle of the conversation")
    bot.kill()
    chat.say("2", "  (nobody is there)")
    bot.start()
    offer = chat.expect("2 x Margherita for 17.80, for Alice. Shall I order?")
    _print("    it knew the question, the name and the pizza")
    bot.wait_saved("conversations", '"confirm"')
    bot.wait_saved("callback_data", "Order")

    _headline("The bot is killed again; its buttons stay on the screen")
    bot.kill()
    bot.start()
    chat.press(offer.button("Yes"), "  (sent by the process that is dead)")
    chat.expect("Ordered: 2 x Margherita for 17.80.")
    chat.say("/orders")
    chat.expect("Alice ordered: 2 x Margherita for 17.80.")
    bot.wait_saved("user_data", '"orders"')

    _headline(f"What is in {bot.database.name}, as SQL shows it")
    for place, value in bot.rows("user_data", "conversations").items():
        _print(f"    {place}: {value}")


@contextmanager
def _bot(folder: Path) -> Iterator[tuple[_Bot, _Chat]]:
    with running_server() as server:
        account = server.add_bot(TOKEN, first_name="Pizza", username="pizza_bot")
        bot = _Bot(server, account, folder)
        try:
            yield bot, _Chat(server.add_user("Alice"), bot)
        finally:
            bot.close()


def main() -> int:
    """Play the demonstration, printing it as it goes.

    Returns:
        0 when everything came back, 1 when something did not.
    """
    started = time.monotonic()
    with (
        TemporaryDirectory(prefix="ptb-kv-demo-", ignore_cleanup_errors=True) as folder,
        _bot(Path(folder)) as (bot, chat),
    ):
        try:
            _play(bot, chat)
        except (DemoError, LookupError, ValueError) as error:
            _print(f"\nFAILED: {error}", "1;31")
            _print(bot.log()[-4000:])
            return 1
    _print(f"\nEverything came back: two kills, nothing lost, {time.monotonic() - started:.1f} s.", "1;32")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
