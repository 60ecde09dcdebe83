"""Named locks and attached bots, in a small SQLite file of their own beside the database.

Their own, so that a lease can be renewed while somebody holds the database's one writer lock. The file holds nothing
that could not be lost: without it all locks are free, no bot is known to be attached, and tokens go on growing since
they follow the clock. Data is not here, and the commits that a lease protects are made by the engine.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence import process
from ptb_kvpersistence.backends.base import (
    ATTACHED_FOR,
    LINE_PATIENCE,
    TOMBSTONE_LIFETIME,
    lease_lost,
    retry_busy,
    summed_up,
)
from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.sqlite import presence
from ptb_kvpersistence.backends.sqlite.checkpoint import Checkpointer
from ptb_kvpersistence.backends.sqlite.failures import translated
from ptb_kvpersistence.backends.sqlite.hop import Replies
from ptb_kvpersistence.errors import CorruptDatabaseError, FormatVersionError
from ptb_kvpersistence.model import (
    AcquireLease,
    AttachBot,
    BotInfo,
    DetachBot,
    LeaseReply,
    ListBots,
    ReleaseLease,
    RenewLease,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ptb_kvpersistence.model import Fence, Requested

FORMAT: Final = 1
FENCE_PATIENCE: Final = 5.0
"""Seconds that a commit waits for the leases; they are locked for moments only, if nobody was frozen just then."""
_TIDY_EVERY: Final = 500

_STATEMENTS: Final = (
    """CREATE TABLE leases(
        store INTEGER NOT NULL,
        name TEXT NOT NULL,
        token INTEGER NOT NULL,
        holder TEXT,
        slot INTEGER,
        expires_at INTEGER NOT NULL,
        PRIMARY KEY(store, name)) WITHOUT ROWID""",
    """CREATE TABLE waiters(
        ticket INTEGER PRIMARY KEY AUTOINCREMENT,
        store INTEGER NOT NULL,
        name TEXT NOT NULL,
        holder TEXT NOT NULL,
        seen_at INTEGER NOT NULL,
        UNIQUE(store, name, holder))""",
    """CREATE TABLE bots(
        store INTEGER NOT NULL,
        bot TEXT NOT NULL,
        holder TEXT NOT NULL,
        attached_at INTEGER NOT NULL,
        last_seen INTEGER NOT NULL,
        is_attached INTEGER NOT NULL,
        slot INTEGER,
        PRIMARY KEY(store, bot, holder)) WITHOUT ROWID""",
)


def _prepare(connection: sqlite3.Connection, file: str) -> None:
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    if number > FORMAT:
        message = f"{file} has format {number}, this version of ptb_kvpersistence reads up to {FORMAT}; update it"
        raise FormatVersionError(message)
    connection.execute("PRAGMA journal_mode = WAL")
    # Leases need not survive loss of power; the file has to.
    connection.execute("PRAGMA synchronous = NORMAL")
    if number == FORMAT:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone() == (0,):
            for statement in _STATEMENTS:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Leases:
    """Performs the requests about leases and bots: one attempt each, on the calling thread, one thread at a time.

    Args:
        path: Of the database.
        gate: Held during each call, so that no fork happens in the middle of one.

    Raises:
        DatabaseError: The file cannot be opened or made; the subclass says why.
    """

    def __init__(self, path: str, gate: AbstractContextManager[Any] | None = None) -> None:
        self._gate = gate or process.gate()
        # As SQLite does with its own files: who comes by a symbolic link must meet the others.
        path = os.path.realpath(path)
        self._file = f"{path}-leases"
        self._alive = f"{path}-alive"
        self._until_tidy = 0
        self._handlers: dict[type, Callable[[Any], Any]] = {
            AcquireLease: self._acquire,
            RenewLease: self._renew,
            ReleaseLease: self._release,
            AttachBot: self._attach,
            DetachBot: self._detach,
            ListBots: self._list_bots,
        }
        with self._translated(), self._gate:
            self._open()

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._file, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(self._connection, self._file)
            self._checkpointer = Checkpointer(self._connection, self._file)
        except BaseException:
            self._connection.close()
            raise
        self._identity = _identity(self._file)

    def close(self) -> None:
        """Close the connection."""
        with self._gate:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._file):
                yield
        except CorruptDatabaseError as error:
            message = f"{self._file} is damaged; it holds no data, so end everything that uses it and delete it"
            raise CorruptDatabaseError(message) from error

    def perform(self, request: Requested[Any]) -> Any:
        """Perform a request once.

        Raises:
            BusyError: Another connection is using the file; nothing was done.
            DatabaseError: What SQLite said; nothing was written.
        """
        with self._translated(), self._gate:
            self._follow()
            return self._handlers[type(request)](request)

    def _follow(self) -> None:
        # Who deletes the file makes all locks free; it would be worse if some went on with the deleted one.
        if _identity(self._file) != self._identity:
            self._connection.close()
            self._open()

    def execute(self, request: Any, _parameters: Any = ()) -> Replies:
        """Perform a request; aiosqlite takes this for a connection."""
        return Replies(self.perform, request)

    @property
    def total_changes(self) -> int:
        """What sqlite3 says; ProgrammingError once closed."""
        return self._connection.total_changes

    @contextmanager
    def _writing(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        self._checkpointer.before_commit(1)
        committed = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection.execute
            self._connection.execute("COMMIT")
            committed = True
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._checkpointer.after_commit(committed=committed)

    # --- named locks ---

    def _acquire(self, request: AcquireLease) -> LeaseReply:
        store, name, holder = request.store, request.name, request.holder
        with self._writing() as execute:
            now = now_ms()
            self._tidy(now)
            row = execute(
                "SELECT token, holder, slot, expires_at FROM leases WHERE store = ? AND name = ?", (store, name)
            ).fetchone()
            last, current, slot, expires_at = row or (0, None, None, 0)
            if expires_at <= now or (current is not None and presence.is_dead(self._alive, slot)):
                current = None
            ahead = self._ahead(request, now)
            if current is not None or ahead:
                if request.waits:
                    self._stand_in_line(request, now)
                return LeaseReply(None, current, ahead)
            token = max(last + 1, time.time_ns() // 1000)
            execute("DELETE FROM waiters WHERE store = ? AND name = ? AND holder = ?", (store, name, holder))
            mine = presence.keep(self._alive, (store, name, token))
            execute(
                "INSERT OR REPLACE INTO leases VALUES(?, ?, ?, ?, ?, ?)",
                (store, name, token, holder, mine, now + request.ttl),
            )
        return LeaseReply(token, holder)

    def _ahead(self, request: AcquireLease, now: int) -> int:
        """Count those who came before and still ask."""
        here = (request.store, request.name)
        row = self._connection.execute(
            """SELECT count(*) FROM waiters WHERE store = ? AND name = ? AND seen_at > ? AND ticket < coalesce(
                (SELECT ticket FROM waiters WHERE store = ? AND name = ? AND holder = ?), 9e18)""",
            (*here, now - LINE_PATIENCE, *here, request.holder),
        ).fetchone()
        return int(row[0])

    def _stand_in_line(self, request: AcquireLease, now: int) -> None:
        self._connection.execute(
            """INSERT INTO waiters(store, name, holder, seen_at) VALUES(?, ?, ?, ?)
                ON CONFLICT(store, name, holder) DO UPDATE SET seen_at = excluded.seen_at
                WHERE seen_at < excluded.seen_at - ?""",
            (request.store, request.name, request.holder, now, LINE_PATIENCE // 3),
        )

    def _tidy(self, now: int) -> None:
        self._until_tidy -= 1
        if self._until_tidy > 0:
            return
        self._until_tidy = _TIDY_EVERY
        self._connection.execute("DELETE FROM waiters WHERE seen_at < ?", (now - ATTACHED_FOR,))
        self._connection.execute("DELETE FROM leases WHERE expires_at < ?", (now - TOMBSTONE_LIFETIME,))

    def _renew(self, request: RenewLease) -> bool:
        with self._writing() as execute:
            now = now_ms()
            renewed = execute(
                "UPDATE leases SET expires_at = ? WHERE store = ? AND name = ? AND token = ?"
                " AND holder IS NOT NULL AND expires_at > ?",
                (now + request.ttl, request.store, request.name, request.token, now),
            )
            return renewed.rowcount > 0

    def _release(self, request: ReleaseLease) -> bool:
        here = (request.store, request.name)
        with self._writing() as execute:
            execute("DELETE FROM waiters WHERE store = ? AND name = ? AND holder = ?", (*here, request.holder))
            # The row stays for its token, which the next one has to exceed.
            released = execute(
                "UPDATE leases SET holder = NULL WHERE store = ? AND name = ? AND token = ?"
                " AND holder IS NOT NULL AND expires_at > ?",
                (*here, request.token, now_ms()),
            )
        if request.token is not None:
            presence.drop(self._alive, (*here, request.token))
        return released.rowcount > 0

    @contextmanager
    def fenced(self, store: int, fences: tuple[Fence, ...]) -> Iterator[None]:
        """Keep leases from changing hands; a commit inside is made under them.

        Raises:
            LeaseLostError: One of them is not held any more.
        """
        with self.locked() as execute:
            now = now_ms()
            for name, token in fences:
                row = execute(
                    "SELECT 1 FROM leases WHERE store = ? AND name = ? AND token = ?"
                    " AND holder IS NOT NULL AND expires_at > ?",
                    (store, name, token, now),
                ).fetchone()
                if row is None:
                    raise lease_lost(name)
            yield

    @contextmanager
    def locked(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Keep everybody else from writing leases; what is written inside is kept unless an exception comes out.

        Raises:
            BusyError: Somebody else kept them locked for :data:`FENCE_PATIENCE`.
        """

        def begin() -> None:
            with self._translated():
                self._follow()
                self._connection.execute("BEGIN IMMEDIATE")

        retry_busy(begin, FENCE_PATIENCE)
        try:
            yield self._connection.execute
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # --- bots ---

    def _attach(self, request: AttachBot) -> None:
        key = (request.store, request.bot, request.holder)
        with self._writing() as execute:
            now = now_ms()
            since = next((info.attached_at for info in self.attached(request.store) if info.name == request.bot), now)
            slot = presence.keep(self._alive, key)
            rows = execute(
                "SELECT holder, last_seen, is_attached, slot FROM bots WHERE store = ? AND bot = ?", key[:2]
            ).fetchall()
            for holder, *state in rows:
                if not self._is_attached(now, *state):
                    execute("DELETE FROM bots WHERE store = ? AND bot = ? AND holder = ?", (*key[:2], holder))
            execute("INSERT OR REPLACE INTO bots VALUES(?, ?, ?, ?, ?, 1, ?)", (*key, since, now, slot))

    def _is_attached(self, now: int, last_seen: int, is_attached: int, slot: int | None) -> bool:
        return bool(is_attached) and last_seen > now - ATTACHED_FOR and not presence.is_dead(self._alive, slot)

    def _detach(self, request: DetachBot) -> None:
        key = (request.store, request.bot, request.holder)
        here = "store = ? AND bot = ? AND holder = ?"
        with self._writing() as execute:
            row = execute(f"SELECT slot FROM bots WHERE {here} AND is_attached", key).fetchone()
            # The bot may have been started again already, in another process.
            if row is not None and (row[0] is None or presence.is_mine(self._alive, row[0])):
                execute(f"UPDATE bots SET is_attached = 0, last_seen = ?, slot = NULL WHERE {here}", (now_ms(), *key))
        presence.drop(self._alive, key)

    def _list_bots(self, request: ListBots) -> tuple[BotInfo, ...]:
        rows = self._connection.execute(
            "SELECT bot, attached_at, last_seen, is_attached, slot FROM bots WHERE store = ? ORDER BY bot",
            (request.store,),
        ).fetchall()
        now = now_ms()
        return summed_up(
            BotInfo(bot, attached_at, last_seen, self._is_attached(now, last_seen, is_attached, slot))
            for bot, attached_at, last_seen, is_attached, slot in rows
        )

    def attached(self, store: int) -> tuple[BotInfo, ...]:
        """List the bots that are attached to a store now."""
        return tuple(info for info in self._list_bots(ListBots(store)) if info.is_attached)

    def forget(self, store: int) -> None:
        """Drop all that is known about a store; called inside :meth:`locked`."""
        for table in ("leases", "waiters", "bots"):
            self._connection.execute(f"DELETE FROM {table} WHERE store = ?", (store,))


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
