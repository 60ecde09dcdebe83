"""Methods that send and give back files: photos and documents, kept in memory.

Nothing looks into a file: a photo's size in pixels is made up.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.methods.messages import formatted, send
from ptb_kvpersistence.server.methods.registry import Request, method
from ptb_kvpersistence.server.parameters import JSON, Upload

_PIXELS = 90


def _file(request: Request, field: str) -> tuple[str, Upload]:
    """Find the file of a request: uploaded under the field's name, attached under another one, or known by its id."""
    parameters = request.parameters
    value = parameters.text(field)
    upload = parameters.files.get(field)
    if upload is None and value.startswith("attach://"):
        upload = parameters.files.get(value.removeprefix("attach://"))
    if upload is None:
        if not value:
            raise bad_request(f"there is no {field} in the request")
        known = request.world.files.get(value)
        if known is None:
            raise bad_request("wrong file identifier/HTTP URL specified")
        return value, known
    if not upload.content:
        raise bad_request("file must be non-empty")
    digest = hashlib.sha256(upload.content + upload.name.encode()).hexdigest()
    file_id = f"{field}-{digest[:32]}"
    request.world.files[file_id] = upload
    return file_id, upload


def _file_json(file_id: str, upload: Upload) -> JSON:
    return {"file_id": file_id, "file_unique_id": file_id[-16:], "file_size": len(upload.content)}


@method("sendPhoto")
async def send_photo(request: Request) -> JSON:
    """Send a photo with an optional caption."""
    request.room(write=True)
    photo = _file_json(*_file(request, "photo"))
    sizes: list[Any] = [{**photo, "width": _PIXELS, "height": _PIXELS}]
    return send(request, {"photo": sizes, **formatted(request.parameters, "caption")})


@method("sendDocument")
async def send_document(request: Request) -> JSON:
    """Send a file with an optional caption."""
    request.room(write=True)
    file_id, upload = _file(request, "document")
    document = {"file_name": upload.name, "mime_type": upload.mime_type, **_file_json(file_id, upload)}
    return send(request, {"document": document, **formatted(request.parameters, "caption")})


@method("getFile")
async def get_file(request: Request) -> JSON:
    """Tell where a file can be fetched: below ``/file/bot<token>/``."""
    file_id = request.parameters.text("file_id")
    upload = request.world.files.get(file_id)
    if upload is None:
        raise bad_request("invalid file_id")
    return {**_file_json(file_id, upload), "file_path": f"files/{file_id}"}
