"""The HTTP face of the server: paths, tokens, and how answers and errors are put."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from ptb_kvpersistence.server.failures import APIError, not_found
from ptb_kvpersistence.server.methods import METHODS, Described, Request
from ptb_kvpersistence.server.methods.registry import Method
from ptb_kvpersistence.server.parameters import Upload, read_parameters
from ptb_kvpersistence.server.world import TOKEN, Account, Call, World

logger = logging.getLogger(__name__)

MAX_REQUEST = 50 * 1024 * 1024

_WORLD: web.AppKey[World] = web.AppKey("world", World)


def make_app(world: World) -> web.Application:
    """Build the web application.

    Args:
        world: What it serves.

    Returns:
        An application that answers ``/bot<token>/<method>`` and ``/file/bot<token>/<path>``.
    """
    app = web.Application(client_max_size=MAX_REQUEST)
    app[_WORLD] = world
    app.router.add_route("*", "/file/bot{token}/files/{file_id}", _serve_file)
    app.router.add_route("*", "/bot{token}/{method}", _serve_method)
    app.router.add_route("*", "/{rest:.*}", _serve_nothing)
    return app


def _refusal(error: APIError) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": error.code, "description": error.description}
    headers = {}
    if error.retry_after is not None:
        body["parameters"] = {"retry_after": error.retry_after}
        headers["Retry-After"] = str(error.retry_after)
    return web.json_response(body, status=error.code, headers=headers)


def _account(request: web.Request) -> Account:
    token = request.match_info["token"]
    if TOKEN.fullmatch(token) is None:
        raise not_found()
    return request.app[_WORLD].account(token)


def _method(request: web.Request) -> tuple[str, Method]:
    found = METHODS.get(request.match_info["method"].lower())
    if found is None or request.method not in ("GET", "POST"):
        raise not_found()
    return found


def _file(request: web.Request) -> Upload:
    _account(request)
    upload = request.app[_WORLD].files.get(request.match_info["file_id"])
    if upload is None:
        raise not_found()
    return upload


async def _serve_nothing(_request: web.Request) -> web.Response:
    return _refusal(not_found())


async def _serve_file(request: web.Request) -> web.Response:
    try:
        upload = _file(request)
    except APIError as error:
        return _refusal(error)
    return web.Response(body=upload.content, content_type="application/octet-stream")


async def _serve_method(request: web.Request) -> web.Response:
    try:
        account = _account(request)
        name, function = _method(request)
        parameters = await read_parameters(request)
        call = Request(request.app[_WORLD], account, parameters)
        result = await _perform(call, name, function(call))
    except APIError as error:
        return _refusal(error)
    except web.HTTPRequestEntityTooLarge:
        return _refusal(APIError(413, "Request Entity Too Large"))
    except Exception:
        logger.exception("the method %s failed", request.match_info["method"])
        return _refusal(APIError(500, "Internal Server Error"))
    body: dict[str, Any] = {"ok": True, "result": result}
    if isinstance(result, Described):
        body.update(result=result.result, description=result.description)
    return web.json_response(body)


async def _perform(call: Request, name: str, work: Any) -> Any:
    """Run a method, or let it fail as it was asked to, and write down what happened."""
    fault = call.world.fault(call.account, name)
    if fault is not None:
        work.close()
    try:
        if fault is not None:
            raise fault
        result = await work
    except APIError as error:
        _note(call, name, ok=False, result=error.description)
        raise
    _note(call, name, ok=True, result=result)
    return result


def _note(call: Request, name: str, *, ok: bool, result: Any) -> None:
    if name != "getUpdates":
        plain = result.result if isinstance(result, Described) else result
        call.account.calls.append(Call(name, dict(call.parameters.values), ok, plain))
        call.world.changed.notify()
