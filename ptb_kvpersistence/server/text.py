"""Message text: the entities that Telegram finds in it, and the HTML parse mode.

Offsets and lengths are in UTF-16 code units, as everywhere in the Bot API. The Markdown modes live in ``markdown.py``.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.parameters import JSON

MAX_TEXT = 4096
MAX_CAPTION = 1024

# Order matters: what an earlier pattern has taken, a later one does not take again.
_PATTERNS = (
    ("url", re.compile(r"https?://[^\s<>]+[^\s<>.,;:!?)]")),
    ("email", re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("bot_command", re.compile(r"(?<![\w/])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/])")),
    ("mention", re.compile(r"(?<!\w)@[A-Za-z0-9_]{4,32}(?!\w)")),
    ("hashtag", re.compile(r"(?<!\w)#\w*[^\W\d]\w*")),
)

_TAGS = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "tg-spoiler": "spoiler",
    "span": "spoiler",
    "a": "text_link",
}


def utf16_length(text: str) -> int:
    """Return the length of `text` as Telegram counts it."""
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def find_entities(text: str) -> list[JSON]:
    """Find what Telegram marks by itself: commands, mentions, hashtags, addresses.

    Args:
        text: The plain text of a message.

    Returns:
        Message entities in the order of their places.
    """
    taken: list[tuple[int, int, str]] = []
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            if all(end <= other_start or start >= other_end for other_start, other_end, _ in taken):
                taken.append((start, end, kind))
    return [
        {"type": kind, "offset": utf16_length(text[:start]), "length": utf16_length(text[start:end])}
        for start, end, kind in sorted(taken)
    ]


class _HTML(HTMLParser):
    """Takes Telegram's HTML apart into plain text and entities."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.entities: list[JSON] = []
        self._open: list[tuple[str, int, JSON]] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            raise bad_request(f'can\'t parse entities: Unsupported start tag "{tag}"')
        given = dict(attrs)
        entity: JSON = {"type": _TAGS[tag]}
        if tag == "a":
            entity["url"] = given.get("href") or ""
        elif tag == "blockquote" and "expandable" in given:
            entity["type"] = "expandable_blockquote"
        self._open.append((tag, utf16_length(self.text), entity))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            raise bad_request(f'can\'t parse entities: Unexpected end tag "{tag}"')
        _, start, entity = self._open.pop()
        entity.update(offset=start, length=utf16_length(self.text) - start)
        if entity["length"]:
            self.entities.append(entity)

    def finish(self) -> None:
        self.close()
        if self._open:
            tag = self._open[-1][0]
            raise bad_request(f"can't parse entities: Can't find end tag corresponding to start tag \"{tag}\"")


def parse_html(text: str) -> tuple[str, list[JSON]]:
    """Parse the ``HTML`` parse mode.

    Args:
        text: Text with tags.

    Returns:
        The plain text and its entities.

    Raises:
        APIError: 400, for a tag that Telegram does not know or that is not closed.
    """
    parser = _HTML()
    parser.feed(text)
    parser.finish()
    return parser.text, parser.entities
