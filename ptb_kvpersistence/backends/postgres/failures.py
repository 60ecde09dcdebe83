"""The one place where what psycopg raises becomes an error of the package, and a verdict on what to do about it."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

import psycopg

from ptb_kvpersistence.backends.postgres.connection import LateError
from ptb_kvpersistence.errors import (
    BusyError,
    ConfigurationError,
    DatabaseError,
    DatabaseFullError,
    DatabaseUnavailableError,
    KVPersistenceError,
    OutcomeUnknownError,
    ReadOnlyError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class Verdict(Enum):
    """What a failure means for the request."""

    FINAL = "the server refused it; nothing was written"
    AGAIN = "the server could not do it just now; nothing was written, and it may be repeated at once"
    UNPREPARED = "tables or functions are missing"
    DOWN = "no connection could be made"
    STARTING = "no connection could be made just now, but soon one can"
    BROKEN = "the connection broke"


class Failed(Exception):  # noqa: N818 - it never gets to users
    """An attempt failed.

    Attributes:
        verdict: What it means.
        error: What users are told in the end.
        was_sent: Whether the request may have got to the server.
    """

    def __init__(self, verdict: Verdict, error: KVPersistenceError, *, was_sent: bool) -> None:
        super().__init__(verdict, error)
        self.verdict = verdict
        self.error = error
        self.was_sent = was_sent


_AGAIN: Final = {"40001", "40P01", "23505", "26000", "0A000"}
_UNPREPARED: Final = {"42P01", "42883", "3F000"}
_BROKEN: Final = {"57P01", "57P02", "57P05"}
_ENDED: Final[Mapping[str, str]] = {
    "25P03": "it did nothing for longer than idle_in_transaction_session_timeout allows",
    "25P04": "it took longer than transaction_timeout allows",
}
_FULL: Final = {"53100"}
_READ_ONLY: Final[Mapping[str, str]] = {
    "25006": "is read-only; use the primary server, or a role that may write",
    "42501": "must not be written by this user; grant it CREATE and USAGE on the schema, and its tables",
}
_SOON: Final = re.compile(
    r"starting up|shutting down|terminating connection|not yet accept|recovery|too many|connection slots", re.IGNORECASE
)
_TLS: Final = re.compile(r"certificate|unknown ca|private key|support SSL|SSL was required", re.IGNORECASE)
_FATAL: Final = re.compile(r"[A-Z\u0400-\u04ff]{4,}:\s+(?P<reason>[^\n]+)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def not_connected(error: BaseException, name: str) -> Failed:
    """Judge a failure to connect."""
    text = str(error)
    if isinstance(error, LateError):
        late = DatabaseUnavailableError(f"{name} does not answer; check that the server is well, and the way to it")
        return Failed(Verdict.DOWN, late, was_sent=False)
    if isinstance(error, psycopg.InterfaceError) and "event loop" in text.lower():
        wrong = ConfigurationError(f"{name}: {_first_line(error)}; on Windows run it with a selector event loop")
        return Failed(Verdict.FINAL, wrong, was_sent=False)
    if _SOON.search(text):
        soon = DatabaseUnavailableError(f"{name} takes no connections just now ({_reason(text)}); try again")
        return Failed(Verdict.STARTING, soon, was_sent=False)
    refused = _FATAL.search(text)
    if refused is not None or isinstance(error, psycopg.ProgrammingError):
        reason = refused["reason"] if refused else _first_line(error)
        message = f"{name} refused the connection: {reason}; check user, password and database in the URL"
        return Failed(Verdict.FINAL, DatabaseError(message), was_sent=False)
    if _TLS.search(text):
        advice = "check sslmode, sslrootcert, sslcert and sslkey in the URL, and the host name"
        untrusted = DatabaseUnavailableError(f"{name} cannot be reached by TLS ({_reason(text)}); {advice}")
        return Failed(Verdict.FINAL, untrusted, was_sent=False)
    message = f"{name} cannot be reached ({_reason(text)}); check that the server runs, and host and port in the URL"
    return Failed(Verdict.DOWN, DatabaseUnavailableError(message), was_sent=False)


def _reason(text: str) -> str:
    refused = _FATAL.search(text)
    if refused:
        return refused["reason"]
    lines = [line.strip() for line in text.strip().splitlines()] or ["no reason given"]
    return lines[0].removeprefix("connection failed: ").removeprefix("connection is bad: ")


def failed(error: BaseException, name: str) -> Failed:
    """Judge a failure of what was sent to the server."""
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, LateError):
        late = DatabaseUnavailableError(f"{name} does not answer in time; check that the server is well")
        return Failed(Verdict.BROKEN, late, was_sent=True)
    if not state or state.startswith("08") or state in _BROKEN:
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            broken = DatabaseUnavailableError(f"the connection to {name} broke ({_first_line(error)}); try again")
            return Failed(Verdict.BROKEN, broken, was_sent=True)
        return Failed(Verdict.FINAL, DatabaseError(f"{name}: {_first_line(error)}"), was_sent=False)
    verdict = Verdict.AGAIN if state in _AGAIN else Verdict.UNPREPARED if state in _UNPREPARED else Verdict.FINAL
    return Failed(verdict, _refused(error, state, name), was_sent=False)


def _refused(error: BaseException, state: str, name: str) -> DatabaseError:
    diagnostics = getattr(error, "diag", None)
    # Never the details: those quote values.
    said = getattr(diagnostics, "message_primary", None) or _first_line(error)
    if state in ("55P03", "40P01"):
        return BusyError(f"{name}: the store is locked by another connection; try again, or end what holds it")
    if state == "57014":
        return DatabaseUnavailableError(
            f"{name} did not get ready in time; nothing was written, allow a longer timeout"
        )
    if state in _ENDED:
        return DatabaseError(
            f"{name} ended the transaction, for {_ENDED[state]}; nothing was written, "
            "do less inside of it or have that setting raised for this role"
        )
    if state in _FULL:
        return DatabaseFullError(f"{name}: no space left ({said}); nothing was written, free some space")
    if state in _READ_ONLY:
        return ReadOnlyError(f"{name} {_READ_ONLY[state]} ({said})")
    return DatabaseError(f"{name}: {said} (SQLSTATE {state}); nothing was written")


def unknown(name: str, cause: KVPersistenceError) -> OutcomeUnknownError:
    """Build the error for a request whose fate could not be found out in time."""
    return OutcomeUnknownError(
        f"the reply of {name} never came, so what was sent may have been applied, or not ({cause}); "
        "read the store before doing it again"
    )
