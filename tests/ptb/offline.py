"""Real Applications without a network: a request object that answers as Telegram would, and a bot driven by hand.

No assertions here; what a test claims stands in the test.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from telegram import Update
from telegram.ext import Application, ApplicationBuilder, CallbackContext, ContextTypes, TypeHandler
from telegram.request import BaseRequest

from ptb_kvpersistence import KVPersistence, process
from ptb_kvpersistence.model import Commit

TOKEN = "1001:offline"
OTHER_TOKEN = "2002:offline"

Action = Callable[[Update, Any], Any]


class OfflineTelegram(BaseRequest):
    """Answers the few methods that the tests call, and keeps what was sent."""

    def __init__(self, token: str) -> None:
        self.id = int(token.partition(":")[0])
        self.sent: list[dict[str, Any]] = []

    @property
    def read_timeout(self) -> float:
        return 1.0

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    @property
    def me(self) -> dict[str, Any]:
        return {"id": self.id, "is_bot": True, "first_name": "Bot", "username": f"bot{self.id}_bot"}

    async def do_request(
        self, url: str, method: str, request_data: Any = None, *_timeouts: Any, **_more: Any
    ) -> tuple[int, bytes]:
        name = url.rsplit("/", 1)[-1]
        parameters = request_data.parameters if request_data else {}
        result: Any = True
        if name == "getMe":
            result = self.me
        elif name == "sendMessage":
            self.sent.append(parameters)
            chat = {"id": parameters["chat_id"], "type": "private", "first_name": "Someone"}
            result = {
                "message_id": len(self.sent),
                "date": 1_700_000_000,
                "chat": chat,
                "from": self.me,
                "text": parameters["text"],
            }
            if "reply_markup" in parameters:
                result["reply_markup"] = parameters["reply_markup"]
        return 200, json.dumps({"ok": True, "result": result}).encode()


class OfflineBot:
    """One Application with one persistence, to which a test says what Telegram would deliver."""

    def __init__(
        self,
        persistence: KVPersistence,
        token: str = TOKEN,
        *,
        build: Callable[[ApplicationBuilder], ApplicationBuilder] = lambda builder: builder,
        handlers: Any = (),
        context_types: ContextTypes | None = None,
        job_queue: bool = False,
        callback_data: bool | int = True,
    ) -> None:
        self.telegram = OfflineTelegram(token)
        self.persistence = persistence
        builder = ApplicationBuilder().token(token).persistence(persistence).updater(None)
        builder = builder.request(self.telegram).get_updates_request(OfflineTelegram(token))
        if not job_queue:
            builder = builder.job_queue(None)  # type: ignore[arg-type]
        if callback_data is not False:
            builder = builder.arbitrary_callback_data(callback_data)
        if context_types is not None:
            builder = builder.context_types(context_types)
        self.app: Application = build(builder).build()
        self.errors: list[Exception] = []
        self.update_id = 0
        self._action: Action | None = None
        for group, handler in enumerate(handlers):
            self.app.add_handler(handler, group)
        self.app.add_handler(TypeHandler(Update, self._act), 99)
        self.app.add_error_handler(self._note_error)

    async def _act(self, update: Update, context: CallbackContext) -> None:
        action, self._action = self._action, None
        if action is not None:
            result = action(update, context)
            if isinstance(result, Awaitable):
                await result

    async def _note_error(self, update: object, context: CallbackContext) -> None:
        assert context.error is not None
        self.errors.append(context.error)

    # --- what Telegram delivers ---

    async def say(self, text: str = "hello", action: Action | None = None, *, user: int = 42, chat: int = 7) -> None:
        """Process a message of a user; ``action`` runs as its handler."""
        self._action = action
        await self.process(message=self.message(text, user=user, chat=chat))

    async def press(self, data: str, action: Action | None = None, *, user: int = 42, chat: int = 7) -> None:
        """Process the press of a button that this bot has sent."""
        self._action = action
        message = {
            **self.message("choose", user=self.telegram.id, chat=chat),
            "from": self.telegram.me,
            "reply_markup": {"inline_keyboard": [[{"text": "a button", "callback_data": data}]]},
        }
        query = {
            "id": f"query{self.update_id}",
            "from": {"id": user, "is_bot": False, "first_name": "Someone"},
            "chat_instance": "1",
            "message": message,
            "data": data,
        }
        await self.process(callback_query=query)

    async def process(self, **content: Any) -> None:
        self.update_id += 1
        update = Update.de_json({"update_id": self.update_id, **content}, self.app.bot)
        if "callback_query" in content and self.app.bot.callback_data_cache is not None:
            self.app.bot.insert_callback_data(update)  # what ExtBot.get_updates does
        await self.app.process_update(update)

    def message(self, text: str, *, user: int, chat: int) -> dict[str, Any]:
        kind = {"type": "private", "first_name": "Someone"} if chat > 0 else {"type": "group", "title": "A group"}
        return {
            "message_id": self.update_id + 1,
            "date": 1_700_000_000,
            "chat": {"id": chat, **kind},
            "from": {"id": user, "is_bot": False, "first_name": "Someone"},
            "text": text,
        }

    # --- its life ---

    async def start(self) -> OfflineBot:
        await self.app.initialize()
        return self

    async def save(self) -> None:
        """Let PTB update its persistence, as it does each interval."""
        await self.app.update_persistence()

    async def stop(self) -> None:
        """End in order; saves everything."""
        if self.app.running:
            await self.app.stop()
        await self.app.shutdown()

    async def crash(self) -> None:
        """Vanish without saving, as after SIGKILL; only the connections are closed."""
        keeper = self.persistence._keeper
        if keeper._retry is not None:
            keeper._retry.cancel()
        process.forget(keeper._token_of_end)
        if keeper.owns_store:
            await keeper.store.backend.close()
        if self.app.running:
            self.app.persistence = None
            await self.app.stop()
        self.app.persistence = None
        await self.app.shutdown()

    def buttons(self, message: int = -1) -> list[str]:
        """Give the callback data that Telegram saw in a sent message."""
        keyboard = self.telegram.sent[message]["reply_markup"]["inline_keyboard"]
        return [button["callback_data"] for row in keyboard for button in row]


class Witness:
    """Looks at a database with nothing but SQL, as any other program would."""

    def __init__(self, location: Any) -> None:
        self.location = location

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.location, timeout=5)) as connection, connection:
            yield connection

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(statement, parameters).fetchall()

    def run(self, statement: str, *parameters: Any) -> int:
        with self.connect() as connection:
            return connection.execute(statement, parameters).rowcount

    def rows(self) -> dict[tuple[str, str], tuple[int, Any]]:
        """Give version and value of each entry by domain and key; deleted ones are left out."""
        return {place: (version, json.loads(text)) for place, (version, text) in self.texts().items()}

    def values(self, domain: str) -> dict[str, Any]:
        return {key: json.loads(text) for (owner, key), (_, text) in self.texts().items() if owner == domain}

    def versions(self) -> dict[tuple[str, str], int]:
        return {place: version for place, (version, _) in self.texts().items()}

    def head(self) -> int:
        return self.query("SELECT max(version) FROM feed")[0][0]

    def commits(self) -> int:
        """Count the commits that flushes have made."""
        return self.query("SELECT count(*) FROM commits")[0][0]

    def put(self, domain: str, key: str, value: Any) -> None:
        """Write an entry as a plain SQL client does that follows the documented format."""
        self.run(
            "INSERT OR REPLACE INTO entries(store, domain, key, value)"
            " VALUES((SELECT id FROM stores WHERE name = 'default'), ?, ?, ?)",
            domain,
            key,
            json.dumps(value),
        )

    def update(self, domain: str, key: str, value: Any) -> int:
        return self.update_text(domain, key, json.dumps(value))

    def update_text(self, domain: str, key: str, text: str) -> int:
        """Write an entry that need not be JSON."""
        return self.run("UPDATE entries SET value = ? WHERE domain = ? AND key = ?", text, domain, key)

    def texts(self) -> dict[tuple[str, str], tuple[int, str]]:
        """Give version and text of each entry by domain and key; deleted ones are left out."""
        rows = self.query("SELECT domain, key, version, value FROM entries WHERE value IS NOT NULL")
        return {(domain, key): (version, value) for domain, key, version, value in rows}

    def delete(self, domain: str, key: str) -> int:
        return self.run("DELETE FROM entries WHERE domain = ? AND key = ?", domain, key)


class FaultyCommits:
    """Makes commits of a persistence fail, or lets a test act in the middle of one."""

    def __init__(self, persistence: KVPersistence) -> None:
        self._backend = persistence.store.backend
        self._perform = self._backend.perform
        self.failures: list[Exception] = []
        """Raised by the next commits, one each."""
        self.before: Callable[[Commit], Awaitable[None]] | None = None
        self.after: Callable[[Commit], Awaitable[None]] | None = None
        self.commits: list[Commit] = []
        self._backend.perform = self._faulty  # type: ignore[method-assign]

    async def _faulty(self, request: Any, timeout: float | None = None) -> Any:
        if not isinstance(request, Commit):
            return await self._perform(request, timeout)
        self.commits.append(request)
        if self.before is not None:
            await self.before(request)
        if self.failures:
            raise self.failures.pop(0)
        reply = await self._perform(request, timeout)
        if self.after is not None:
            await self.after(request)
        return reply
