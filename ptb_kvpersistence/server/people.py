"""Who takes part in a chat: simulated users and groups, and the bots as the test sees them.

All of this works inside the server's event loop. Scripts without one use ``blocking.py``.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.world import Account, Call, CallbackQuery, Event, EventKind, Room, World

DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Button:
    """A button of an inline keyboard.

    Attributes:
        text: Its label.
        data: The callback data that the bot gets, None for other buttons.
        url: Where it leads, None for other buttons.
        message_id: The message it stands under.
    """

    text: str
    data: str | None
    url: str | None
    message_id: int
    room: Room


@dataclass(frozen=True)
class Message:
    """A message as a user sees it, at one moment.

    Attributes:
        kind: ``sent``, ``edited`` or ``deleted``.
        data: The message as JSON.
        keyboard: The labels of a custom keyboard that came along, row by row.
    """

    kind: EventKind
    data: JSON
    keyboard: tuple[tuple[str, ...], ...]
    room: Room

    @property
    def id(self) -> int:
        """The message's id."""
        return int(self.data["message_id"])

    @property
    def text(self) -> str:
        """Its text or caption; empty where there is none."""
        return str(self.data.get("text") or self.data.get("caption") or "")

    @property
    def buttons(self) -> list[list[Button]]:
        """The inline keyboard, row by row."""
        rows: list[list[JSON]] = self.data.get("reply_markup", {}).get("inline_keyboard", [])
        return [
            [
                Button(button["text"], button.get("callback_data"), button.get("url"), self.id, self.room)
                for button in row
            ]
            for row in rows
        ]

    def button(self, text: str) -> Button:
        """Return the button with that label, or the first whose label contains it.

        Raises:
            LookupError: There is none.
        """
        all_buttons = [button for row in self.buttons for button in row]
        for button in all_buttons:
            if button.text == text:
                return button
        for button in all_buttons:
            if text in button.text:
                return button
        raise LookupError(f"no button {text!r} among {[button.text for button in all_buttons]}")


def _message(event: Event, room: Room) -> Message:
    rows = (event.markup or {}).get("keyboard", [])
    keyboard = tuple(
        tuple(str(button["text"] if isinstance(button, dict) else button) for button in row) for row in rows
    )
    return Message(event.kind, event.message, keyboard, room)


class BotAccount:
    """A registered bot, as the test sees it.

    Attributes:
        token: For ``ApplicationBuilder().token``.
        id: The number in the token.
        username: Without ``@``.
        first_name: The name that people see.
    """

    def __init__(self, world: World, account: Account) -> None:
        self._world = world
        self.account = account
        self.token = account.token
        self.id = account.id
        self.username = str(account.user["username"])
        self.first_name = str(account.user["first_name"])

    @property
    def calls(self) -> list[Call]:
        """Every request of the bot except getUpdates, oldest first."""
        return list(self.account.calls)

    @property
    def pending_updates(self) -> int:
        """How many updates the bot has not confirmed."""
        return len(self.account.updates)

    @property
    def is_polling(self) -> bool:
        """Whether a getUpdates request of the bot is waiting right now."""
        return self.account.updates.has_poller

    def push_update(self, kind: str, payload: JSON) -> None:
        """Queue an update of any kind, for what users here cannot do."""
        self.account.updates.push(kind, payload)

    async def wait_until_idle(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until the bot has confirmed all its updates and asks for more.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: It did not.
        """
        idle = await self._world.changed.until(
            lambda: True if self.is_polling and not self.pending_updates else None, timeout
        )
        if not idle:
            raise TimeoutError(f"bot {self.username} was not idle within {timeout} s")

    async def wait_for_call(self, method: str, timeout: float = DEFAULT_TIMEOUT, *, skip: int = 0) -> Call:
        """Wait for a request of the bot.

        Args:
            method: The method's name.
            timeout: Seconds.
            skip: How many of these calls to pass over.

        Returns:
            The call, also if it came earlier.

        Raises:
            TimeoutError: It did not come.
        """

        def look() -> Call | None:
            calls = [call for call in self.account.calls if call.method == method]
            return calls[skip] if len(calls) > skip else None

        call = await self._world.changed.until(look, timeout)
        if call is None:
            raise TimeoutError(f"bot {self.username} did not call {method} within {timeout} s")
        return call


class Group:
    """A group chat.

    Attributes:
        id: The chat's id.
        title: Its title.
    """

    def __init__(self, world: World, room: Room) -> None:
        self._world = world
        self.room = room
        self.id = room.id
        self.title = str(room.chat["title"])

    def set_status(self, member: BotAccount | User, status: str) -> None:
        """Make somebody ``member``, ``administrator``, ``left`` or ``kicked``, without telling the bots."""
        self.room.members[member.id] = status


class Press:
    """A button that was pressed."""

    def __init__(self, world: World, query: CallbackQuery) -> None:
        self._world = world
        self._query = query
        self.id = query.id

    async def answer(self, timeout: float = DEFAULT_TIMEOUT) -> JSON:
        """Wait until the bot answers the callback query.

        Args:
            timeout: Seconds.

        Returns:
            ``text``, ``show_alert`` and ``url`` of the answer.

        Raises:
            TimeoutError: It did not.
        """
        answer = await self._world.changed.until(lambda: self._query.answer, timeout)
        if answer is None:
            raise TimeoutError(f"the pressed button was not answered within {timeout} s")
        return answer


class User:
    """Somebody who writes to bots.

    Where a method takes `to` or `sender`, it means a bot (the private chat with it) or a group; without it the chat
    that the user wrote to last, or the only bot there is.

    Attributes:
        id: The user's id, and that of the private chats.
        data: The user as JSON.
    """

    def __init__(self, world: World, data: JSON) -> None:
        self._world = world
        self.data = data
        self.id = int(data["id"])
        self.first_name = str(data["first_name"])
        self._last_room: Room | None = None
        self._seen: dict[tuple[int, int | None], int] = {}

    def _room(self, place: BotAccount | Group | None) -> Room:
        if isinstance(place, Group):
            if self.id not in place.room.members:
                raise ValueError(f"{self.first_name} is not in the group {place.title!r}")
            return place.room
        if place is not None:
            return self._world.private_room(place.account, self.id)
        if self._last_room is not None:
            return self._last_room
        if len(self._world.accounts) != 1:
            raise ValueError("say to whom: there is not exactly one bot")
        return self._world.private_room(next(iter(self._world.accounts.values())), self.id)

    def send(
        self, text: str, *, to: BotAccount | Group | None = None, reply_to: Message | None = None, **content: Any
    ) -> Message:
        """Write a message.

        Args:
            text: What to write; ``/commands`` are marked as such.
            to: The bot or group.
            reply_to: The message that this one answers.
            **content: More fields of the message, for example ``contact={...}``; with them `text` may be empty.

        Returns:
            The message.
        """
        room = self._last_room = self._room(to)
        fields = {**(self._world.user_content(text) if text else {}), **content}
        target = None if reply_to is None else room.find(reply_to.id)
        message = self._world.new_message(room, self.data, fields, target)
        if room.is_private:
            room.members[self.id] = "member"
        self._world.tell_bots(room, "message", message)
        return Message("sent", copy.deepcopy(message), (), room)

    def edit(self, message: Message, text: str) -> Message:
        """Change a message of one's own.

        Raises:
            ValueError: It is gone, or somebody else's.
        """
        current = message.room.find(message.id)
        if current is None or current["from"]["id"] != self.id:
            raise ValueError("only a message of one's own that still exists can be edited")
        kept = {name: value for name, value in current.items() if name not in ("text", "entities")}
        changed = {**kept, **self._world.user_content(text), "edit_date": int(time.time())}
        message.room.messages[message.id] = changed
        self._world.tell_bots(message.room, "edited_message", changed)
        return Message("edited", copy.deepcopy(changed), (), message.room)

    def press(self, button: Button) -> Press:
        """Press a button of an inline keyboard.

        Raises:
            ValueError: It carries no callback data, or has gone from its message meanwhile.
        """
        if button.data is None:
            raise ValueError(f"the button {button.text!r} sends nothing to the bot")
        message = button.room.find(button.message_id)
        rows = [] if message is None else message.get("reply_markup", {}).get("inline_keyboard", [])
        if message is None or not any(other.get("callback_data") == button.data for row in rows for other in row):
            raise ValueError(f"the button {button.text!r} is not there any more")
        account = self._world.account_of(message["from"]["id"])
        query = self._world.new_query(account)
        self._last_room = button.room
        payload = {
            "id": query.id,
            "from": self.data,
            "message": message,
            "chat_instance": str(button.room.id * 31 + account.id),
            "data": button.data,
        }
        account.updates.push("callback_query", copy.deepcopy(payload))
        return Press(self._world, query)

    async def receive(self, timeout: float = DEFAULT_TIMEOUT, *, sender: BotAccount | Group | None = None) -> Message:
        """Wait for the next thing that a bot does in a chat: a message, an edit, a deletion.

        Args:
            timeout: Seconds.
            sender: Which chat.

        Returns:
            The message; each is returned once.

        Raises:
            TimeoutError: Nothing came.
        """
        room = self._room(sender)
        place = (room.id, room.bot_id)

        def look() -> Event | None:
            seen = self._seen.get(place, 0)
            return room.events[seen] if len(room.events) > seen else None

        event = await self._world.changed.until(look, timeout)
        if event is None:
            raise TimeoutError(f"no message for {self.first_name} within {timeout} s")
        self._seen[place] = self._seen.get(place, 0) + 1
        return _message(event, room)

    async def ask(
        self, text: str, timeout: float = DEFAULT_TIMEOUT, *, to: BotAccount | Group | None = None
    ) -> Message:
        """Write a message and wait for what the bot does next; earlier messages count as seen.

        Raises:
            TimeoutError: Nothing came.
        """
        room = self._room(to)
        self._seen[room.id, room.bot_id] = len(room.events)
        self.send(text, to=to)
        return await self.receive(timeout, sender=to)

    def history(self, sender: BotAccount | Group | None = None) -> list[Message]:
        """Return everything that bots have done in a chat, oldest first, seen or not."""
        room = self._room(sender)
        return [_message(event, room) for event in room.events]

    def block(self, bot: BotAccount, *, blocked: bool = True) -> None:
        """Block a bot, or with ``blocked=False`` let it write again; it is told by a ``my_chat_member`` update."""
        room = self._world.private_room(bot.account, self.id)
        old, new = room.members[self.id], "kicked" if blocked else "member"
        room.members[self.id] = new
        place: dict[str, JSON] = {status: {"user": bot.account.user, "status": status} for status in (old, new)}
        for status, member in place.items():
            if status == "kicked":
                member["until_date"] = 0
        bot.push_update(
            "my_chat_member",
            {
                "chat": room.chat,
                "from": self.data,
                "date": int(time.time()),
                "old_chat_member": place[old],
                "new_chat_member": place[new],
            },
        )
