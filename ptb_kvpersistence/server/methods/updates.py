"""Methods that bring updates to a bot: long polling and webhooks."""

from __future__ import annotations

import json
from typing import Any

from ptb_kvpersistence.server.failures import bad_request, conflict, not_found
from ptb_kvpersistence.server.methods.registry import METHODS, Described, Request, method
from ptb_kvpersistence.server.parameters import JSON, Parameters
from ptb_kvpersistence.server.updates import DEFAULT_UPDATE_TYPES, MAX_TIMEOUT, WEBHOOK_SET
from ptb_kvpersistence.server.webhook import Webhook, check_secret, check_url

WEBHOOK_ACTIVE = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"


def _set_allowed_updates(request: Request) -> bool:
    try:
        names: Any = json.loads(request.parameters.text("allowed_updates", "null"))
    except ValueError:
        return False
    return request.account.updates.set_allowed(names)


@method("getUpdates")
async def get_updates(request: Request) -> list[JSON]:
    """Return what is pending, or wait for it."""
    account, parameters = request.account, request.parameters
    if account.webhook is not None:
        await account.updates.delay_conflict()
        raise conflict(WEBHOOK_ACTIVE)
    _set_allowed_updates(request)
    return await account.updates.poll(
        offset=parameters.integer("offset"),
        limit=parameters.integer("limit", 100, 1, 100),
        timeout=parameters.integer("timeout", 0, 0, MAX_TIMEOUT),
    )


@method("setWebhook")
async def set_webhook(request: Request) -> Described:
    """Send updates to a URL from now on; an empty URL ends it."""
    account, parameters = request.account, request.parameters
    url = parameters.text("url").strip()
    if not url:
        return await _remove_webhook(request)
    secret = parameters.text("secret_token")
    connections = parameters.integer("max_connections", 40, 1, 100)
    check_secret(secret)
    check_url(url)
    old = account.webhook
    if parameters.boolean("drop_pending_updates"):
        account.updates.clear()
    elif old is not None and (old.url, old.secret, old.max_connections) == (url, secret, connections):
        _set_allowed_updates(request)
        return Described(True, "Webhook is already set")
    account.updates.abort_poll(WEBHOOK_SET)
    if old is not None:
        await old.close()
    _set_allowed_updates(request)

    async def reply(call: JSON) -> None:
        await _call_from_webhook(request, call)

    account.webhook = Webhook(url, secret, connections, account.updates, reply)
    return Described(True, "Webhook was set")


async def _call_from_webhook(request: Request, call: JSON) -> None:
    if str(call["method"]).lower() not in METHODS:
        raise not_found()
    _, function = METHODS[str(call["method"]).lower()]
    values = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in call.items()
        if name != "method" and value is not None
    }
    await function(Request(request.world, request.account, Parameters(values)))


@method("deleteWebhook")
async def delete_webhook(request: Request) -> Described:
    """Go back to long polling; what is pending stays, unless it is to be dropped."""
    return await _remove_webhook(request)


async def _remove_webhook(request: Request) -> Described:
    account = request.account
    if request.parameters.boolean("drop_pending_updates"):
        account.updates.clear()
    webhook, account.webhook = account.webhook, None
    if webhook is None:
        return Described(True, "Webhook is already deleted")
    await webhook.close()
    return Described(True, "Webhook was deleted")


@method("getWebhookInfo")
async def get_webhook_info(request: Request) -> JSON:
    """Tell where updates go and how that works out."""
    account, webhook = request.account, request.account.webhook
    info: JSON = {
        "url": "" if webhook is None else webhook.url,
        "has_custom_certificate": False,
        "pending_update_count": len(account.updates),
    }
    if webhook is not None:
        info["max_connections"] = webhook.max_connections
        if webhook.last_error_date is not None:
            info["last_error_date"] = webhook.last_error_date
            info["last_error_message"] = webhook.last_error_message
    if account.updates.allowed != DEFAULT_UPDATE_TYPES:
        info["allowed_updates"] = sorted(account.updates.allowed)
    return info


@method("answerCallbackQuery")
async def answer_callback_query(request: Request) -> bool:
    """End the spinner on a pressed button."""
    query = request.world.queries.get(request.parameters.text("callback_query_id"))
    if query is None or query.bot_id != request.account.id or query.answer is not None:
        raise bad_request("query is too old and response timeout expired or query ID is invalid")
    query.answer = {
        "text": request.parameters.text("text"),
        "show_alert": request.parameters.boolean("show_alert"),
        "url": request.parameters.text("url"),
    }
    request.world.changed.notify()
    return True
