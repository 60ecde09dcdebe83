"""How often a request is sent, and what is said in the end: generators without I/O, run by both backends.

The driver repeats nothing by itself. What was sent and not answered is sent again under the same id, so that the server
applies it once, until the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import pauses
from ptb_kvpersistence.backends.postgres import statements as sql
from ptb_kvpersistence.backends.postgres.failures import Failed, Verdict, unknown
from ptb_kvpersistence.backends.postgres.jobs import OWN_ID, Claim, Jobs, identified, limits
from ptb_kvpersistence.backends.postgres.schema import (
    LOOK,
    check_server,
    creation,
    fill,
    is_ready,
    lock_key,
)
from ptb_kvpersistence.errors import BusyError, DatabaseError, LockTimeoutError, ReentryError
from ptb_kvpersistence.model import (
    LEASE_REQUESTS,
    Commit,
    CommitReply,
    DeleteStore,
    OpenStore,
    RenameStore,
    Requested,
    SetDomain,
    Sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ptb_kvpersistence.backends.postgres.exchange import Rows, Statement
    from ptb_kvpersistence.backends.postgres.location import Location

    Script = Generator[list[Statement], list[Rows], Any]

PATIENCE: Final = 1.0
"""Seconds for which a server that cannot be reached is tried again, where nothing was sent yet."""
IO_FLOOR: Final = 1.0
"""Seconds that the network gets at least, however short the time to wait for others is."""
GRACE: Final = 0.5
"""Seconds more, in which the server's own word that the time is up arrives."""
PREPARING: Final = 30.0
"""Seconds that making the tables may take on the server."""
SWEEP_EVERY: Final = 30.0
"""Seconds between two sweeps by who commits."""
SWEEP_STEP: Final = 200
"""Entries per sweep."""
REPEATS: Final = 10
"""How often the server may ask for a repetition."""
_WRITES: Final = frozenset({Claim, Commit, DeleteStore, OpenStore, RenameStore, SetDomain, Sweep})


@dataclass
class Deadline:
    """When a request has to be over.

    Attributes:
        at: For waiting for others, by the monotonic clock.
        io_at: For the network.
    """

    at: float
    io_at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Begin now."""
        now = monotonic()
        return cls(now + max(0.0, seconds), now + max(IO_FLOOR, seconds) + GRACE)

    @property
    def left(self) -> float:
        """Seconds for waiting for others."""
        return max(0.0, self.at - monotonic())

    @property
    def io_left(self) -> float:
        """Seconds for the server to do its work."""
        return max(0.001, self.io_at - GRACE - monotonic())


@dataclass
class Prepared:
    """What is known about a database once it was looked at.

    Attributes:
        jobs: For its schema.
        is_pooled: A pooler is in between, so that a session means nothing: no prepared statements, no notifications.
    """

    jobs: Jobs
    is_pooled: bool


@dataclass(frozen=True)
class Attempt:
    """A step: send a request's statements, from a connection of a lane."""

    request: Any
    again: bool
    lane: str
    store: int | None


@dataclass(frozen=True)
class Pause:
    """A step: wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class BeginExclusive(Requested[None]):
    """Have a store to oneself until the connection's transaction ends."""

    store: int
    durable: bool


def lane_of(request: Any) -> str:
    """Say which connections a request may use, so that no kind of request uses up those of the others."""
    if isinstance(request, BeginExclusive):
        return "sessions"
    if type(request) in LEASE_REQUESTS:
        return "leases"
    return "writes" if type(request) in _WRITES else "reads"


def performing(request: Any, place: str, deadline: Deadline) -> Generator[Attempt | Pause, Any, Any]:
    """Send a request until it is answered.

    Raises:
        DatabaseUnavailableError: No connection could be made, or no read was answered in time.
        OutcomeUnknownError: It was sent, and nobody answered in time.
        KVPersistenceError: What the server said.
    """
    lane = lane_of(request)
    gate = getattr(request, "store", None) if lane in ("writes", "sessions") else None
    request = identified(request)
    is_sent, repeats, patience = False, 0, monotonic() + PATIENCE
    refused: CommitReply | None = None
    waiting = pauses(max(0.0, deadline.io_at - monotonic()))
    while True:
        try:
            if refused is None:
                reply = yield Attempt(request, is_sent, lane, gate)
                if not is_sent or not _may_still_fit(request, reply):
                    return reply
                refused = reply
            # What was sent first may come late, when it no longer conflicts; so its id is used up. From then on the
            # request itself would be answered as if it had been applied.
            if not (yield Attempt(Claim(request.store, request.id), False, lane, gate)):
                return refused
            return (yield Attempt(request, True, lane, gate))
        except Failed as failure:
            is_sent |= failure.was_sent and lane in ("writes", "leases")
            last = failure
        verdict = last.verdict
        if verdict is Verdict.FINAL:
            break
        repeats += verdict in (Verdict.AGAIN, Verdict.UNPREPARED)
        if repeats > (REPEATS if verdict is Verdict.AGAIN else 1):
            break
        if verdict is Verdict.DOWN and not is_sent and monotonic() >= patience:
            break
        pause = next(waiting, None)
        if pause is None or monotonic() + pause >= deadline.io_at - GRACE:
            break
        yield Pause(pause)
    if is_sent:
        raise unknown(place, last.error) from last
    raise last.error from last.__cause__


def _may_still_fit(request: Any, reply: Any) -> bool:
    """Whether a commit was refused, and nobody but this backend knows its id."""
    return isinstance(reply, CommitReply) and not reply.is_committed and request.id.startswith(OWN_ID)


def resolved(place: str, cause: Failed, *, is_applied: bool) -> None:
    """Say what became of an exclusive session whose connection broke at its end, from the reply to a claim.

    That one used up the id if nobody had, so that the session's commit cannot be applied late.

    Raises:
        DatabaseError: Nothing of it was written.
    """
    if not is_applied:
        message = (
            f"the connection to {place} broke at the end of an exclusive transaction; nothing was written, repeat it"
        )
        raise DatabaseError(message) from cause


def sweeping() -> Callable[[Any], bool]:
    """Make what decides after each request whether it is time to sweep."""
    swept_at = monotonic()

    def is_due(request: Any) -> bool:
        nonlocal swept_at
        if type(request) is not Commit or monotonic() < swept_at + SWEEP_EVERY:
            return False
        swept_at = monotonic()
        return True

    return is_due


def preparing(location: Location, client_side_pid: int) -> Generator[list[Statement], list[Rows], Prepared]:
    """Look at the database and make what is missing; whoever comes first does it, the others wait for him.

    Args:
        location: Where it is.
        client_side_pid: Who serves the connection, as was said when it was made; a pooler makes a number up.

    Raises:
        DatabaseError: The server or its schema cannot be used.
        FormatVersionError: A newer package wrote the tables.
    """
    ((row,),) = yield [(LOOK, ())]
    schema = check_server(location, row)
    is_pooled = row[2] != client_side_pid
    ready, _, _ = yield from _look_at_format(location, schema)
    if not ready:
        settings, parameters = limits(PREPARING, PREPARING)
        yield [(sql.BEGIN_WRITE, ()), (settings, parameters), (sql.LOCK_SCHEMA, (lock_key(schema),))]
        ready, has_schema, has_tables = yield from _look_at_format(location, schema)
        if not ready:
            made = [] if has_schema else [fill("CREATE SCHEMA {s}", schema)]
            yield [(statement, ()) for statement in (*made, *creation(schema, has_tables=has_tables))]
        yield [(sql.END, ())]
    return Prepared(Jobs(schema, location.name), is_pooled)


def _look_at_format(location: Location, schema: str) -> Generator[list[Statement], list[Rows], tuple[bool, bool, bool]]:
    (((has_schema, has_tables),),) = yield [(sql.WHAT_EXISTS, (schema, schema))]
    if not has_tables:
        return False, has_schema, False
    (rows,) = yield [(fill(sql.FORMAT, schema), ())]
    return is_ready(location, rows[0] if rows else None), True, True


# --- errors that both faces give ---


def pool_exhausted(place: str, timeout: float) -> BusyError:
    """Build the error for a request that got no connection in time."""
    return BusyError(
        f"{place}: all connections of this process were in use for {timeout:g} s; nothing was written, try again"
    )


def lock_timeout(place: str, timeout: float) -> LockTimeoutError:
    """Build the error for a lock that was not free in time."""
    return LockTimeoutError(
        f"the store in {place} was locked by others for {timeout:g} s; try again, or allow a longer timeout"
    )


def reentry(place: str, who: str) -> ReentryError:
    """Build the error for a task or thread that would wait for itself."""
    return ReentryError(
        f"this {who} is inside an exclusive transaction on that store in {place} and would wait for itself; "
        "use the transaction's own store, or end it first"
    )


def would_block(place: str) -> ReentryError:
    """Build the error for a sync wait inside a running loop."""
    return ReentryError(
        f"the store in {place} is locked by somebody else, and waiting for it would block the running event loop; "
        "use AsyncStore (connect_async, or persistence.store) in coroutines"
    )
