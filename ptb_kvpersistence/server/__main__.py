"""``python -m ptb_kvpersistence.server``: the server on its own, until Ctrl+C."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

from ptb_kvpersistence.server.api import BotAPIServer


async def _serve(port: int, tokens: Sequence[str]) -> None:
    async with BotAPIServer(port=port, accepts_any_token=not tokens) as server:
        for token in tokens:
            server.add_bot(token)
        print(server.url, flush=True)  # noqa: T201 - the program's result
        stopped = asyncio.Event()
        with suppress(NotImplementedError):  # Windows ends the process by itself
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server and print its URL.

    Args:
        arguments: Instead of those of the command line.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ptb_kvpersistence.server",
        description="A local Telegram Bot API server. Prints its URL; give PTB that URL + '/bot' as base_url.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 for any free one (default)")
    parser.add_argument("tokens", nargs="*", metavar="TOKEN", help="the bots to accept; without one, every token")
    options = parser.parse_args(arguments)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, options.tokens))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
