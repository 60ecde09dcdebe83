"""Where each piece of PTB's data lives in a store: sections and ids on one side, domains and keys on the other.

Pure; this is the documented part of the stored format (README, "Stored format").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import ConfigurationError, DecodeError
from ptb_kvpersistence.model import MAX_KEY_BYTES, RESERVED_PREFIX, Address

if TYPE_CHECKING:
    from collections.abc import Collection

Section = Literal["user_data", "chat_data", "bot_data", "conversations", "callback_data"]

SECTIONS: Final[tuple[Section, ...]] = ("user_data", "chat_data", "bot_data", "conversations", "callback_data")
SHAREABLE: Final[tuple[Section, ...]] = ("user_data", "chat_data", "bot_data")
BOTS: Final = f"{RESERVED_PREFIX}bots"
"""Domain that maps bots to their namespaces."""
RESCUED: Final = f"{RESERVED_PREFIX}rescued"
"""Domain of the marks that rescue files leave once they are applied."""
CLAIMED: Final = f"{RESERVED_PREFIX}claimed"
"""Domain of the marks that commits of unknown outcome leave once they are kept from being applied."""
BOT_DATA_KEY: Final = "data"
UNCLAIMED: Final = "unclaimed"
"""Key in BOTS, and name, of the namespace that the first bot without data takes over."""


class EntityId(NamedTuple):
    """One entity of PTB's data.

    Attributes:
        section: Which kind.
        id: user or chat id; None for bot_data; (handler name, conversation key); a key of callback_data.
    """

    section: Section
    id: Any

    @property
    def place(self) -> str:
        """How messages call it, for example ``user_data[42]``."""
        if self.section == "bot_data":
            return "bot_data"
        if self.section == "conversations":
            name, key = self.id
            return f"conversations[{name!r}][{key!r}]"
        return f"{self.section}[{self.id!r}]"

    def __str__(self) -> str:
        return self.place

    @property
    def path(self) -> tuple[str, ...]:
        """Its place as merge policies name it."""
        return (self.section,) if self.section == "bot_data" else (self.section, str(self.id))


BOT_DATA: Final = EntityId("bot_data", None)


class Layout:
    """The domains of one bot.

    Attributes:
        namespace: What its private domains end with.
        domains: All its domains, private and shared ones.
    """

    def __init__(self, namespace: str, share: Collection[str] = ()) -> None:
        self.namespace = namespace
        self._domains: dict[Section, str] = {
            section: f"{RESERVED_PREFIX}{section}" + ("" if section in share else f":{namespace}")
            for section in SECTIONS
        }
        self._sections = {domain: section for section, domain in self._domains.items()}
        self.domains = tuple(self._sections)

    def domain(self, section: Section) -> str:
        """Give the domain of a section."""
        return self._domains[section]

    def address(self, entity: EntityId) -> Address:
        """Find where an entity is stored."""
        section, id_ = entity
        if section == "conversations":
            name, conversation = id_
            key = dumps([name, list(conversation)]).decode()
        else:
            key = BOT_DATA_KEY if section == "bot_data" else str(id_)
        return Address(self._domains[section], key)

    def entity(self, domain: str, key: str) -> EntityId | None:
        """Find whose entry this is; None for a key that no entity of PTB has."""
        section = self._sections.get(domain)
        if section is None:
            return None
        if section == "bot_data":
            return BOT_DATA if key == BOT_DATA_KEY else None
        if section == "callback_data":
            return EntityId(section, key)
        if section == "conversations":
            return _conversation(key)
        try:
            number = int(key)
        except ValueError:
            return None
        return EntityId(section, number) if str(number) == key else None


def _conversation(key: str) -> EntityId | None:
    try:
        name, conversation = loads(key)
    except (DecodeError, ValueError, TypeError):
        return None
    if not isinstance(name, str) or not isinstance(conversation, list):
        return None
    if not all(type(part) in (int, str) for part in conversation):
        return None
    return EntityId("conversations", (name, tuple(conversation)))


def check_id(section: Section, id_: object) -> int:
    """Check a user or chat id.

    Raises:
        ConfigurationError: It is no int.
    """
    if type(id_) is int:
        return id_
    if not isinstance(id_, int) or isinstance(id_, bool):
        message = f"{section} is keyed by int, not by {type(id_).__name__}"
        raise ConfigurationError(message)
    return int(id_)


def check_conversation(name: object, key: object) -> EntityId:
    """Check a conversation handler's name and a conversation key.

    Raises:
        ConfigurationError: The key is no tuple of int and str, or both together are too long to be a key.
    """
    if not isinstance(name, str) or not isinstance(key, tuple) or not all(type(part) in (int, str) for part in key):
        message = "a conversation is named by the handler's name (str) and a key (tuple of int and str)"
        raise ConfigurationError(message)
    entity = EntityId("conversations", (name, key))
    try:
        size = len(dumps([name, list(key)]))
    except (TypeError, ValueError) as error:
        message = f"the name of the conversation handler cannot be stored ({error}); give it a plain name"
        raise ConfigurationError(message) from error
    if size > MAX_KEY_BYTES // 2:
        limit = MAX_KEY_BYTES // 2
        message = f"name and key of a conversation take at most {limit} bytes, these take {size}; shorten the name"
        raise ConfigurationError(message)
    return entity
