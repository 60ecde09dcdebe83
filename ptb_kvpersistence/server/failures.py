"""The errors that the server answers with; turning one into HTTP happens in ``web.py``."""

from __future__ import annotations


class APIError(Exception):
    """A request that the Bot API refuses.

    Attributes:
        code: The HTTP status, repeated as ``error_code`` in the answer.
        description: What the answer says, with its prefix (``Bad Request: ...``).
        retry_after: Seconds to wait before trying again, for 429.
    """

    def __init__(self, code: int, description: str, *, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.retry_after = retry_after


def bad_request(reason: str) -> APIError:
    """A 400: something in the parameters is wrong."""
    return APIError(400, f"Bad Request: {reason}")


def forbidden(reason: str) -> APIError:
    """A 403: the bot may not do that there."""
    return APIError(403, f"Forbidden: {reason}")


def unauthorized() -> APIError:
    """A 401: a well-formed token that belongs to no bot."""
    return APIError(401, "Unauthorized")


def not_found() -> APIError:
    """A 404: a malformed token or an unknown method; the real server tells no more either."""
    return APIError(404, "Not Found")


def conflict(reason: str) -> APIError:
    """A 409: another consumer of the same updates."""
    return APIError(409, f"Conflict: {reason}")


def too_many_requests(retry_after: int) -> APIError:
    """A 429 with the number of seconds to wait."""
    return APIError(429, f"Too Many Requests: retry after {retry_after}", retry_after=retry_after)
