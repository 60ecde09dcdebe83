"""The parameters of one request, whichever of the four ways they came in.

A query string, a form, multipart or a JSON object: the Bot API takes each parameter as text and parses it where it is
used. What the parameters mean is the methods' business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ptb_kvpersistence.server.failures import bad_request

JSON = dict[str, Any]

_TRUE = frozenset({"true", "yes", "1"})


@dataclass(frozen=True)
class Upload:
    """A file that came with a request.

    Attributes:
        name: The file's name as the client gave it.
        mime_type: The content type as the client gave it.
        content: The bytes.
    """

    name: str
    mime_type: str
    content: bytes


class Parameters:
    """What a client sent along with a method.

    Args:
        values: Parameter name to text.
        files: Field name to uploaded file.
    """

    def __init__(self, values: Mapping[str, str], files: Mapping[str, Upload] | None = None) -> None:
        self.values = dict(values)
        self.files = dict(files or {})

    def __contains__(self, name: str) -> bool:
        return name in self.values or name in self.files

    def text(self, name: str, default: str = "") -> str:
        """Return the parameter's text, or `default`."""
        return self.values.get(name, default)

    def boolean(self, name: str) -> bool:
        """Return whether the parameter says yes; a missing one says no."""
        return self.values.get(name, "").strip().lower() in _TRUE

    def integer(self, name: str, default: int = 0, minimum: int | None = None, maximum: int | None = None) -> int:
        """Return a number, moved into its limits; what is no number is `default`, as the real server takes it."""
        try:
            number = int(self.values.get(name, ""))
        except ValueError:
            number = default
        if minimum is not None:
            number = max(number, minimum)
        if maximum is not None:
            number = min(number, maximum)
        return number

    def json(self, name: str, what: str | None = None) -> Any:
        """Return the parsed JSON of a parameter, None when it is missing or empty.

        Raises:
            APIError: 400, when the text is no JSON.
        """
        text = self.values.get(name, "").strip()
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise bad_request(f"can't parse {what or name} JSON object") from None


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


async def _read_json(request: web.Request) -> dict[str, str]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        raise bad_request("can't parse JSON object") from None
    if not isinstance(body, dict):
        raise bad_request("can't parse JSON object: an object is expected")
    texts = {name: _as_text(value) for name, value in body.items()}
    return {name: text for name, text in texts.items() if text is not None}


async def read_parameters(request: web.Request) -> Parameters:
    """Read the parameters of a request: its query first, its body on top.

    Args:
        request: A GET or POST request.

    Returns:
        All parameters as text, the uploaded files apart.

    Raises:
        APIError: 400, when a JSON body cannot be read.
    """
    values: dict[str, str] = dict(request.query)
    files: dict[str, Upload] = {}
    if request.method == "POST":
        if request.content_type == "application/json":
            values.update(await _read_json(request))
        else:
            for name, field in (await request.post()).items():
                if isinstance(field, web.FileField):
                    files[name] = Upload(field.filename, field.content_type, field.file.read())
                elif isinstance(field, str):
                    values[name] = field
                else:
                    values[name] = bytes(field).decode(errors="replace")
    return Parameters(values, files)
