"""A chat on the terminal: what is typed goes to a bot, what bots do is printed."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress

from ptb_kvpersistence.server.people import BotAccount, Button, Message, Press, User

HELP = "Type messages; #1 presses the first button, @name writes to another bot, Ctrl+D ends."

# Typed lines may come from a pipe, all at once: each waits for the answer to the one before.
_ANSWER_TIMEOUT = 5.0
_QUIET = 0.25


def _read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Pass on what is typed; reads the bare descriptor, since a thread inside ``sys.stdin`` spoils the exit."""
    rest = b""
    encoding = sys.stdin.encoding or "utf-8"
    with suppress(RuntimeError):  # the loop has closed
        while chunk := os.read(sys.stdin.fileno(), 4096):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                loop.call_soon_threadsafe(lines.put_nowait, line.decode(encoding, "replace").rstrip("\r"))
        if rest:
            loop.call_soon_threadsafe(lines.put_nowait, rest.decode(encoding, "replace"))
        loop.call_soon_threadsafe(lines.put_nowait, None)


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the chat


class Terminal:
    """One user at the terminal and the bots that user can write to.

    Args:
        user: Who types.
        bots: Whom to write to, the first one to begin with.
    """

    def __init__(self, user: User, bots: list[BotAccount]) -> None:
        self._user = user
        self._bots = bots
        self._current = bots[0]
        self._buttons: list[Button] = []
        self._moved = asyncio.Event()

    async def chat(self) -> None:
        """Pass on what is typed until the end of the input, and print what the bots do."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        threading.Thread(target=_read_lines, args=(loop, lines), daemon=True).start()
        _show(HELP)
        printers = [asyncio.create_task(self._print(bot)) for bot in self._bots]
        try:
            while (line := await lines.get()) is not None:
                if not sys.stdin.isatty():
                    _show(f"You: {line}")
                if line.strip():
                    self._moved.clear()
                    self._say(line.strip())
                    await self._settle()
        finally:
            for printer in printers:
                printer.cancel()

    def _say(self, line: str) -> None:
        if line.startswith("#") and line[1:].isdigit():
            self._press(int(line[1:]))
            return
        if line.startswith("@"):
            name, _, line = line[1:].partition(" ")
            bot = next(
                (bot for bot in self._bots if name.lower() in (bot.username.lower(), bot.first_name.lower())), None
            )
            if bot is None:
                _show(f"There is no bot @{name}, but " + ", ".join(f"@{bot.username}" for bot in self._bots))
                self._moved.set()
                return
            self._current = bot
        if line:
            self._user.send(line, to=self._current)
        else:
            self._moved.set()

    def _press(self, number: int) -> None:
        if not 1 <= number <= len(self._buttons):
            _show(f"There is no button #{number}")
            self._moved.set()
            return
        try:
            press = self._user.press(self._buttons[number - 1])
        except ValueError as error:
            _show(f"({error})")
            self._moved.set()
        else:
            self._notice = asyncio.create_task(self._print_notice(press))

    async def _settle(self) -> None:
        """Wait for an answer, and until nothing more comes."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._moved.wait(), _ANSWER_TIMEOUT)
            while True:
                self._moved.clear()
                await asyncio.wait_for(self._moved.wait(), _QUIET)

    async def _print(self, bot: BotAccount) -> None:
        while True:
            with suppress(TimeoutError):
                self._print_message(bot, await self._user.receive(timeout=3600, sender=bot))
                self._moved.set()

    async def _print_notice(self, press: Press) -> None:
        with suppress(TimeoutError):
            answer = await press.answer()
            if answer["text"]:
                _show(f"  ({answer['text']})")
            self._moved.set()

    def _print_message(self, bot: BotAccount, message: Message) -> None:
        if message.kind == "deleted":
            _show(f"{bot.first_name} removed: {message.text}")
            return
        changed = " (changed)" if message.kind == "edited" else ""
        _show(f"{bot.first_name}{changed}: {message.text}")
        rows = message.buttons
        if rows or message.kind == "edited":
            self._buttons = [button for row in rows for button in row]
        number = 0
        for row in rows:
            labels = []
            for button in row:
                number += 1
                labels.append(f"#{number} [{button.text}]")
            _show("    " + "   ".join(labels))
        for labels_row in message.keyboard:
            _show("    " + "   ".join(f"({label})" for label in labels_row))
