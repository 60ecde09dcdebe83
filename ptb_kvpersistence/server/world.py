"""What the server knows: users, bots, chats and the messages in them. No HTTP and no waiting here.

Everything is kept as the JSON that the Bot API shows. A private chat exists once per bot and user and has the user's
id; a group is shared by the bots in it.
"""

from __future__ import annotations

import copy
import itertools
import re
import secrets
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ptb_kvpersistence.server.failures import APIError, bad_request, forbidden, unauthorized
from ptb_kvpersistence.server.parameters import JSON, Upload
from ptb_kvpersistence.server.text import find_entities
from ptb_kvpersistence.server.updates import UpdateQueue
from ptb_kvpersistence.server.waiting import Signal

if TYPE_CHECKING:
    from ptb_kvpersistence.server.webhook import Webhook

TOKEN = re.compile(r"[1-9]\d{0,15}:[A-Za-z0-9_-]{3,64}")

EventKind = Literal["sent", "edited", "deleted"]


@dataclass(frozen=True)
class Event:
    """Something that a bot did in a chat, as the people in it see it.

    Attributes:
        kind: Whether a message was sent, edited or deleted.
        message: The message as it was then.
        markup: The reply markup given along, also where the message does not show it (a custom keyboard).
        bot_id: The bot that did it.
    """

    kind: EventKind
    message: JSON
    markup: JSON | None
    bot_id: int


@dataclass(frozen=True)
class Call:
    """One request that a bot made.

    Attributes:
        method: Its name in the usual spelling.
        parameters: As texts, as they came.
        ok: Whether it was answered well.
        result: The answer's result, or its description when it was refused.
    """

    method: str
    parameters: dict[str, str]
    ok: bool
    result: Any


@dataclass
class Room:
    """One chat. For a private one, `bot_id` tells whose it is."""

    chat: JSON
    bot_id: int | None = None
    members: dict[int, str] = field(default_factory=dict)
    messages: dict[int, JSON] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    next_message_id: int = 1

    @property
    def id(self) -> int:
        """The chat's id."""
        return int(self.chat["id"])

    @property
    def is_private(self) -> bool:
        """Whether it is the chat of one user with one bot."""
        return self.bot_id is not None

    def find(self, message_id: int) -> JSON | None:
        """Return the message as it is now, None when there is none."""
        return self.messages.get(message_id)


class Account:
    """A bot's side: its token, what waits for it and what it has asked for.

    Attributes:
        token: As given to PTB.
        user: The JSON of the bot as a user.
        updates: What waits for the bot.
        webhook: Where updates are sent, None while it polls.
        calls: Every request of the bot except getUpdates.
        rooms: Its private chats, by user id.
        commands: What setMyCommands stored, by scope and language.
    """

    def __init__(self, token: str, first_name: str, username: str, changed: Signal) -> None:
        self.token = token
        self.user: JSON = {
            "id": int(token.partition(":")[0]),
            "is_bot": True,
            "first_name": first_name,
            "username": username,
        }
        self.updates = UpdateQueue(changed)
        self.webhook: Webhook | None = None
        self.calls: list[Call] = []
        self.rooms: dict[int, Room] = {}
        self.commands: dict[tuple[str, str], list[JSON]] = {}

    @property
    def id(self) -> int:
        """The bot's id, the number in its token."""
        return int(self.user["id"])


@dataclass
class Fault:
    """An error to answer some of the next requests with.

    Attributes:
        method: In lower case, ``*`` for any.
        bot_id: None for any bot.
        error: What to answer.
        times: How often yet.
    """

    method: str
    bot_id: int | None
    error: APIError
    times: int


@dataclass
class CallbackQuery:
    """A pressed button, until the bot answers it."""

    id: str
    bot_id: int
    answer: JSON | None = None


class World:
    """All accounts, chats and messages of one server."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.users: dict[int, JSON] = {}
        self.groups: dict[int, Room] = {}
        self.queries: dict[str, CallbackQuery] = {}
        self.files: dict[str, Upload] = {}
        self.changed = Signal()
        self.faults: list[Fault] = []
        self.accepts_any_token = False
        self._user_ids = itertools.count(1001)
        self._group_ids = itertools.count(-2001, -1)
        self._query_ids = itertools.count(5_000_000_001)

    # accounts

    def add_bot(self, token: str | None, first_name: str, username: str | None) -> Account:
        """Register a bot.

        Raises:
            ValueError: The token has not the form ``123:ABC``, or is taken.
        """
        if token is None:
            alphabet = string.ascii_letters + string.digits
            token = f"{7_000_000_001 + len(self.accounts)}:" + "".join(secrets.choice(alphabet) for _ in range(35))
        if TOKEN.fullmatch(token) is None:
            raise ValueError("a bot token has the form 123456:ABC-def, a number, a colon and letters")
        number = int(token.partition(":")[0])
        if any(account.id == number for account in self.accounts.values()):
            raise ValueError(f"there is a bot with the id {number} already")
        account = Account(token, first_name, username or f"bot_{number}_bot", self.changed)
        self.accounts[token] = account
        return account

    def account(self, token: str) -> Account:
        """Return the bot of a token.

        Raises:
            APIError: 401, when there is none.
        """
        account = self.accounts.get(token)
        if account is None and self.accepts_any_token:
            try:
                account = self.add_bot(token, "Bot", None)
            except ValueError:
                raise unauthorized() from None
        if account is None:
            raise unauthorized()
        return account

    def account_of(self, bot_id: int) -> Account:
        """Return the bot with that id; it must exist."""
        return next(account for account in self.accounts.values() if account.id == bot_id)

    def add_user(self, first_name: str, last_name: str | None, username: str | None, language_code: str) -> JSON:
        """Create a user; ids count up from 1001."""
        user: JSON = {"id": next(self._user_ids), "is_bot": False, "first_name": first_name}
        user.update(
            {name: value for name, value in (("last_name", last_name), ("username", username)) if value is not None}
        )
        user["language_code"] = language_code
        self.users[user["id"]] = user
        return user

    def fault(self, account: Account, method: str) -> APIError | None:
        """Return the error that this request is to be answered with, and count it."""
        for fault in self.faults:
            if fault.method in ("*", method.lower()) and fault.bot_id in (None, account.id):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault.error
        return None

    # chats

    def private_room(self, account: Account, user_id: int) -> Room:
        """Return the chat of a user with a bot, a new one where they have not met."""
        room = account.rooms.get(user_id)
        if room is None:
            user = self.users[user_id]
            chat: JSON = {name: user[name] for name in ("id", "first_name", "last_name", "username") if name in user}
            chat["type"] = "private"
            room = Room(chat, bot_id=account.id, members={user_id: "member"})
            account.rooms[user_id] = room
        return room

    def add_group(self, title: str, kind: str, creator: int, members: Iterable[int]) -> Room:
        """Create a group with its members; ids count down from -2001."""
        room = Room({"id": next(self._group_ids), "title": title, "type": kind})
        room.members = {creator: "creator", **{member: "member" for member in members if member != creator}}
        self.groups[room.id] = room
        return room

    def room(self, account: Account, chat_id: str, *, write: bool = False) -> Room:
        """Find the chat that a request means.

        Args:
            account: The bot that asks.
            chat_id: The parameter's text: an id or ``@username``.
            write: Whether the bot is about to write there.

        Raises:
            APIError: 400 when there is no such chat, 403 when the bot may not write there.
        """
        if not chat_id.strip():
            raise bad_request("chat_id is empty")
        room = self._look_up(account, chat_id.strip())
        if room is None:
            raise bad_request("chat not found")
        if room.is_private:
            if write and room.members[room.id] == "kicked":
                raise forbidden("bot was blocked by the user")
        elif room.members.get(account.id, "left") in ("left", "kicked"):
            gone = "kicked from" if room.members.get(account.id) == "kicked" else "not a member of"
            what = "chat" if room.chat["type"] == "group" else f"{room.chat['type']} chat"
            raise forbidden(f"bot was {gone} the group chat" if "kicked" in gone else f"bot is {gone} the {what}")
        return room

    def _look_up(self, account: Account, chat_id: str) -> Room | None:
        if chat_id.startswith("@"):
            return next((room for room in self.groups.values() if room.chat.get("username") == chat_id[1:]), None)
        try:
            number = int(chat_id)
        except ValueError:
            return None
        return account.rooms.get(number) or self.groups.get(number)

    def bots_in(self, room: Room) -> list[Account]:
        """Return the bots that get what is said in a chat."""
        if room.bot_id is not None:
            return [self.account_of(room.bot_id)]
        return [
            account
            for account in self.accounts.values()
            if room.members.get(account.id, "left") not in ("left", "kicked")
        ]

    # messages

    def new_message(self, room: Room, sender: JSON, content: JSON, reply_to: JSON | None = None) -> JSON:
        """Put a message into a chat and return it; nobody is told yet."""
        message: JSON = {
            "message_id": room.next_message_id,
            "from": sender,
            "chat": room.chat,
            "date": int(time.time()),
        }
        room.next_message_id += 1
        if reply_to is not None:
            message["reply_to_message"] = {
                name: value for name, value in reply_to.items() if name != "reply_to_message"
            }
        message.update(content)
        room.messages[message["message_id"]] = message
        return message

    def tell_people(self, room: Room, kind: EventKind, message: JSON, markup: JSON | None, bot_id: int) -> None:
        """Let the people in a chat see what a bot did."""
        room.events.append(Event(kind, copy.deepcopy(message), copy.deepcopy(markup), bot_id))
        self.changed.notify()

    def tell_bots(self, room: Room, kind: str, payload: JSON) -> None:
        """Queue an update for every bot in a chat."""
        for account in self.bots_in(room):
            account.updates.push(kind, copy.deepcopy(payload))

    def user_content(self, text: str) -> JSON:
        """Return the content of a text message as a client would send it."""
        content: JSON = {"text": text}
        entities = find_entities(text)
        if entities:
            content["entities"] = entities
        return content

    def new_query(self, account: Account) -> CallbackQuery:
        """Open a callback query for a pressed button."""
        query = CallbackQuery(str(next(self._query_ids)), account.id)
        self.queries[query.id] = query
        return query
