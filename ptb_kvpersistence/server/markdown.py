"""The two Markdown parse modes of the Bot API; HTML and plain text live in ``text.py``."""

from __future__ import annotations

import re

from ptb_kvpersistence.server.failures import APIError, bad_request
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.text import utf16_length

_LINK = re.compile(r"\]\(((?:[^)\\]|\\.)*)\)")
_V2_MARKS = {
    "||": "spoiler",
    "__": "underline",
    "*": "bold",
    "_": "italic",
    "~": "strikethrough",
}
_V1_MARKS = {"*": "bold", "_": "italic"}
_V2_RESERVED = set("_*[]()~`>#+-=|{}.!")


def _unclosed(mark: str) -> APIError:
    return bad_request(f"can't parse entities: Can't find end of the entity starting with \"{mark}\"")


class _Scanner:
    """Goes once over the text, keeping a stack of what is open."""

    def __init__(self, source: str, marks: dict[str, str], *, strict: bool) -> None:
        self.source = source
        self.marks = marks
        self.strict = strict
        self.at = 0
        self.text = ""
        self.entities: list[JSON] = []
        self.open: list[tuple[str, int]] = []

    def run(self) -> tuple[str, list[JSON]]:
        while self.at < len(self.source):
            self._step()
        if self.open:
            raise _unclosed(self.open[-1][0])
        return self.text, sorted(self.entities, key=lambda entity: (entity["offset"], -entity["length"]))

    def _add(self, kind: str, start: int, **more: str) -> None:
        length = utf16_length(self.text) - start
        if length:
            self.entities.append({"type": kind, "offset": start, "length": length, **more})

    def _step(self) -> None:
        rest = self.source[self.at :]
        if rest[0] == "\\" and len(rest) > 1 and not rest[1].isalnum():
            self.text += rest[1]
            self.at += 2
        elif rest[0] == "`":
            self._code("```" if rest.startswith("```") else "`")
        elif rest[0] == "[":
            self.open.append(("[", utf16_length(self.text)))
            self.at += 1
        elif rest[0] == "]" and self.open and self.open[-1][0] == "[":
            self._link()
        else:
            self._mark_or_character(rest)

    def _code(self, fence: str) -> None:
        end = self.source.find(fence, self.at + len(fence))
        if end < 0:
            raise _unclosed(fence)
        start = utf16_length(self.text)
        self.text += self.source[self.at + len(fence) : end]
        self._add("pre" if fence == "```" else "code", start)
        self.at = end + len(fence)

    def _link(self) -> None:
        _, start = self.open.pop()
        match = _LINK.match(self.source, self.at)
        if match is None:
            self.at += 1
            return
        self._add("text_link", start, url=re.sub(r"\\(.)", r"\1", match[1]))
        self.at = match.end()

    def _mark_or_character(self, rest: str) -> None:
        for mark, kind in self.marks.items():
            if rest.startswith(mark):
                if self.open and self.open[-1][0] == mark:
                    self._add(kind, self.open.pop()[1])
                else:
                    self.open.append((mark, utf16_length(self.text)))
                self.at += len(mark)
                return
        if self.strict and rest[0] in _V2_RESERVED:
            raise bad_request(
                f"can't parse entities: Character '{rest[0]}' is reserved and must be escaped with the preceding '\\'"
            )
        self.text += rest[0]
        self.at += 1


def parse_markdown(text: str, *, version: int) -> tuple[str, list[JSON]]:
    """Parse ``Markdown`` (version 1) or ``MarkdownV2`` (version 2).

    Args:
        text: Text with marks.
        version: 1 or 2.

    Returns:
        The plain text and its entities.

    Raises:
        APIError: 400, for an entity that does not end or a reserved character that is not escaped.
    """
    return _Scanner(text, _V2_MARKS if version == 2 else _V1_MARKS, strict=version == 2).run()
