"""What each request means in SQL: the statements that go out in one round trip, and what their rows say.

No I/O; the two backends run the jobs, each in its way.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ptb_kvpersistence.backends.base import (
    ATTACHED_FOR,
    TOMBSTONE_LIFETIME,
    in_use,
    no_such_store,
    store_exists,
    store_gone,
    summed_up,
)
from ptb_kvpersistence.backends.postgres import statements as sql
from ptb_kvpersistence.backends.postgres.arrays import Texts
from ptb_kvpersistence.backends.postgres.commits import (
    bound,
    checks_of,
    claim_reply,
    commit_reply,
    fences_of,
    mutations_of,
    record,
)
from ptb_kvpersistence.backends.postgres.schema import fill
from ptb_kvpersistence.model import (
    AcquireLease,
    AttachBot,
    BotInfo,
    Change,
    Changes,
    ChangesReply,
    Checked,
    CheckedReply,
    Commit,
    CommitReply,
    Count,
    DeleteStore,
    DetachBot,
    DomainInfo,
    GetMany,
    KeyRange,
    LeaseReply,
    ListBots,
    ListDomains,
    ListStores,
    OpenStore,
    Page,
    PageReply,
    Record,
    ReleaseLease,
    RenameStore,
    RenewLease,
    Requested,
    SetDomain,
    StoreInfo,
    Sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptb_kvpersistence.backends.postgres.exchange import Rows, Statement

OWN_ID: Final = "~"
"""Begins the ids of commits that were given none; they are remembered for :data:`OWN_ID_LIFETIME` only."""
OWN_ID_LIFETIME: Final = 10 * 60_000


@dataclass(frozen=True)
class Job:
    """What to do for one request.

    Attributes:
        statements: In one round trip.
        decode: Turns the rows of each statement into the reply.
        writes: Whether it changes anything; then the whole is one transaction.
        is_single: A statement that needs no transaction around it, being one by itself.
        locks: The store to have to oneself, by id or by name.
        is_durable: Whether to wait for the disk also where the server is set not to.
    """

    statements: list[Statement]
    decode: Callable[[list[Rows]], Any]
    writes: bool = False
    is_single: bool = False
    locks: int | str | None = None
    is_durable: bool = False

    def script(self, schema: str, seconds: float, lock_seconds: float, *, in_session: bool = False) -> list[Statement]:
        """Give all statements, with the transaction around them (but in a session, which is one) and its limits."""
        if self.is_single and not in_session:
            return self.statements
        settings, parameters = limits(seconds, lock_seconds)
        if in_session:
            return [(settings, parameters), *self.statements]
        before: list[Statement] = [(sql.BEGIN_WRITE if self.writes else sql.BEGIN_READ, ())]
        if self.writes:
            settings += sql.PLANS + (sql.DURABLE if self.is_durable else "")
        if isinstance(self.locks, int):
            settings, parameters = settings + fill(sql.LOCK, schema), (*parameters, self.locks)
        before.append((settings, parameters))
        if isinstance(self.locks, str):
            before.append((fill(sql.LOCK_BY_NAME, schema), (self.locks,)))
        return [*before, *self.statements, (sql.END, ())]

    def reply(self, rows: list[Rows], *, in_session: bool = False) -> Any:
        """Decode the rows of a whole :meth:`script`.

        Raises:
            KVPersistenceError: What they say is an error.
        """
        if in_session:
            return self.decode(rows[1:])
        if self.is_single:
            return self.decode(rows)
        return self.decode(rows[3 if isinstance(self.locks, str) else 2 : -1])


def limits(seconds: float, lock_seconds: float) -> tuple[str, tuple[Any, ...]]:
    """Give the beginning of a statement that sets the server's own time limits."""
    return sql.LIMITS, (str(max(1, round(seconds * 1000))), str(max(1, round(lock_seconds * 1000))))


def beginning(schema: str, store: int, seconds: float, lock_seconds: float, *, durable: bool) -> list[Statement]:
    """Give the statements that begin an exclusive session."""
    settings, parameters = limits(seconds, lock_seconds)
    settings += sql.PLANS + sql.WATCHED + (sql.DURABLE if durable else "") + fill(sql.LOCK, schema)
    return [(sql.BEGIN_WRITE, ()), (settings, (*parameters, store))]


class Jobs:
    """Makes jobs for the tables in one schema.

    Args:
        schema: Its name.
        place: The database's name, for messages.
    """

    def __init__(self, schema: str, place: str) -> None:
        self.schema = schema
        self._place = place
        self._makers: dict[type, Callable[[Any, bool], Job]] = {
            GetMany: lambda request, _: self._get_many(request),
            Page: lambda request, _: self._page(request),
            Count: lambda request, _: self._count(request),
            Changes: lambda request, _: self._changes(request),
            Checked: lambda request, _: self._checked(request),
            Commit: self._commit,
            Claim: lambda request, _: self._claim(request),
            OpenStore: self._open_store,
            _Opening: self._open_store,
            ListStores: lambda _request, _: self._list_stores(),
            RenameStore: self._rename_store,
            DeleteStore: self._delete_store,
            SetDomain: lambda request, _: self._set_domain(request),
            ListDomains: lambda request, _: self._list_domains(request),
            Sweep: lambda request, _: self._sweep(request),
            AcquireLease: self._acquire,
            RenewLease: lambda request, _: self._renew(request),
            ReleaseLease: self._release,
            AttachBot: lambda request, _: self._attach(request),
            DetachBot: lambda request, _: self._detach(request),
            ListBots: lambda request, _: self._list_bots(request),
        }
        self._filled: dict[str, str] = {}

    def make(self, request: Any, *, again: bool = False) -> Job:
        """Make the job of a request; ``again``: an earlier attempt may have been carried out."""
        return self._makers[type(request)](request, again)

    def sql(self, statement: str, **parts: str) -> str:
        """Fill in the schema, and other parts."""
        key = statement + "".join(parts.values())
        found = self._filled.get(key)
        if found is None:
            for name, part in parts.items():
                statement = statement.replace(f"{{{name}}}", part)
            found = self._filled[key] = fill(statement, self.schema)
        return found

    # --- reading ---

    def _get_many(self, request: GetMany) -> Job:
        if len(request.addresses) == 1:
            parameters = (*request.addresses[0], request.store)
            return Job(
                [(self.sql(sql.GET), parameters)], lambda rows: tuple(map(record, _of_store(rows[0]))), is_single=True
            )
        domains = Texts([domain for domain, _ in request.addresses])
        keys = Texts([key for _, key in request.addresses])
        count = len(request.addresses)
        statement = (self.sql(sql.GET_MANY), (domains, keys, request.store))
        return Job([statement], lambda rows: tuple(map(record, _of_store(rows[0])))[:count])

    def _page(self, request: Page) -> Job:
        stop, bounds = _bounds(request.range)
        order = "DESC" if request.reverse else "ASC"
        statement = (self.sql(sql.PAGE, stop=stop, order=order), (*bounds, request.limit + 1, request.store))

        def decode(rows: list[Rows]) -> PageReply:
            found = [(row[0], Record._make(row[1:])) for row in _of_store(rows[0]) if row[0] is not None]
            return PageReply(found[: request.limit], len(found) > request.limit)

        return Job([statement], decode)

    def _count(self, request: Count) -> Job:
        stop, bounds = _bounds(request.range)
        statement = (self.sql(sql.COUNT, stop=stop), (*bounds, request.store))
        return Job([statement], lambda rows: int(_of_store(rows[0])[0][0]))

    def _changes(self, request: Changes) -> Job:
        wanted: tuple[Any, ...] = () if request.domains is None else (Texts(request.domains),)
        domains = " AND e.domain = ANY (%s)" if wanted else ""
        parameters = (request.since, *wanted, request.limit + 1, request.store)

        def decode(rows: list[Rows]) -> ChangesReply:
            found = _of_store(rows[0])
            head, horizon, incarnation, expires_in = found[0][:4]
            changes = [Change._make(row[4:]) for row in found if row[4] is not None]
            more = len(changes) > request.limit
            changes = changes[: request.limit]
            head = changes[-1].version if more else max(head, horizon)
            return ChangesReply(changes, head, horizon, incarnation, more, expires_in)

        return Job([(self.sql(sql.CHANGES, domains=domains), parameters)], decode)

    def _checked(self, request: Checked) -> Job:
        inner = self.make(request.request)
        checks: list[Statement] = []
        if request.checks:
            checks.append((self.sql(sql.FAILED), (request.store, *checks_of(request.checks))))

        def decode(rows: list[Rows]) -> CheckedReply:
            head, at = _of_store(rows[0])[0]
            if checks and rows[1]:
                return CheckedReply(None, is_current=False, head=head, at=at)
            return CheckedReply(inner.decode(rows[1 + len(checks) :]), is_current=True, head=head, at=at)

        return Job([(self.sql(sql.HEAD), (request.store,)), *checks, *inner.statements], decode)

    # --- committing ---

    def _commit(self, request: Commit, again: bool) -> Job:
        is_own = _is_own(request.id)
        parameters = (
            request.store,
            request.id,
            OWN_ID_LIFETIME if is_own else TOMBSTONE_LIFETIME,
            *fences_of(request.fences),
            *checks_of(request.checks),
            *mutations_of(request.mutations),
        )

        def decode(rows: list[Rows]) -> CommitReply:
            return commit_reply(request, rows[0], is_own_repeated=is_own and again)

        return Job(
            [(self.sql(sql.COMMIT), parameters)],
            decode,
            writes=True,
            locks=request.store,
            is_durable=request.durable,
        )

    def _claim(self, request: Claim) -> Job:
        lifetime = OWN_ID_LIFETIME if _is_own(request.id) else TOMBSTONE_LIFETIME
        nothing = (*fences_of(()), *checks_of(()), Texts(()), *[None] * 5)

        def decode(rows: list[Rows]) -> bool:
            return claim_reply(rows[0])

        statement = (self.sql(sql.COMMIT), (request.store, request.id, lifetime, *nothing))
        return Job([statement], decode, writes=True, locks=request.store)

    def _set_domain(self, request: SetDomain) -> Job:
        def decode(rows: list[Rows]) -> None:
            if rows[0] != [(True,)]:
                raise store_gone()

        statement = (self.sql(sql.SET_DOMAIN), (request.store, request.domain, request.keep))
        return Job([statement], decode, writes=True, locks=request.store)

    def _sweep(self, request: Sweep) -> Job:
        return Job([(self.sql(sql.SWEEP), (request.limit,))], lambda rows: int(rows[0][0][0]), writes=True)

    def _list_domains(self, request: ListDomains) -> Job:
        def decode(rows: list[Rows]) -> tuple[DomainInfo, ...]:
            return tuple(DomainInfo._make(row) for row in _of_store(rows[0]) if row[0] is not None)

        return Job([(self.sql(sql.LIST_DOMAINS), (request.store,))], decode)

    # --- stores ---

    def _list_stores(self) -> Job:
        return Job([(self.sql(sql.LIST), ())], lambda rows: tuple(map(StoreInfo._make, rows[0])))

    def _open_store(self, request: OpenStore, _again: bool) -> Job:
        if request.mode == "open":
            return Job([(self.sql(sql.FIND), (request.name,))], lambda rows: self._found(request.name, rows[0]))
        # A repeated request finds the store that the first one made by its incarnation, which is made here.
        incarnation = _incarnation(request)

        def decode(rows: list[Rows]) -> StoreInfo:
            info = self._found(request.name, rows[0])
            if request.mode == "create" and info.incarnation != incarnation:
                raise store_exists(request.name, self._place)
            return info

        return Job([(self.sql(sql.OPEN), (request.name, incarnation))], decode, writes=True)

    def _found(self, name: str, rows: Rows) -> StoreInfo:
        if not rows:
            raise no_such_store(name, self._place)
        return StoreInfo._make(rows[0])

    def _rename_store(self, request: RenameStore, again: bool) -> Job:
        def decode(rows: list[Rows]) -> None:
            ((outcome, bots),) = rows[0]
            if outcome == "gone" and not (again and rows[1]):
                raise no_such_store(request.name, self._place)
            self._administered(outcome, bots, request.name, request.new_name)

        statement = (self.sql(sql.RENAME), (request.name, request.new_name, request.force))
        found = (self.sql(sql.FIND), (request.new_name,))
        return Job([statement, found], decode, writes=True, locks=request.name)

    def _delete_store(self, request: DeleteStore, again: bool) -> Job:
        def decode(rows: list[Rows]) -> None:
            ((outcome, bots),) = rows[0]
            if outcome == "gone" and not again:
                raise no_such_store(request.name, self._place)
            self._administered(outcome, bots, request.name, request.name)

        statement = (self.sql(sql.DELETE), (request.name, request.force))
        return Job([statement], decode, writes=True, locks=request.name)

    def _administered(self, outcome: str, bots: list[str] | None, name: str, new_name: str) -> None:
        if outcome == "used":
            raise in_use(name, tuple(bots or ()))
        if outcome == "exists":
            raise store_exists(new_name, self._place)

    # --- leases and bots ---

    def _acquire(self, request: AcquireLease, again: bool) -> Job:
        parameters = (request.store, request.name, request.holder, request.ttl, request.waits, again)
        return Job([(self.sql(sql.ACQUIRE), parameters)], lambda rows: LeaseReply._make(rows[0][0]), writes=True)

    def _renew(self, request: RenewLease) -> Job:
        parameters = (request.ttl, request.store, request.name, request.token)
        return Job([(self.sql(sql.RENEW), parameters)], lambda rows: bool(rows[0]), writes=True)

    def _release(self, request: ReleaseLease, again: bool) -> Job:
        parameters = (request.store, request.name, request.holder, request.token, again)
        return Job([(self.sql(sql.RELEASE), parameters)], lambda rows: bool(rows[0][0][0]), writes=True)

    def _attach(self, request: AttachBot) -> Job:
        return Job(
            [(self.sql(sql.ATTACH), (request.store, request.bot, request.holder))], lambda _rows: None, writes=True
        )

    def _detach(self, request: DetachBot) -> Job:
        return Job(
            [(self.sql(sql.DETACH), (request.store, request.bot, request.holder))], lambda _rows: None, writes=True
        )

    def _list_bots(self, request: ListBots) -> Job:
        statement = (self.sql(sql.BOTS), (ATTACHED_FOR, request.store))
        return Job([statement], lambda rows: summed_up(map(BotInfo._make, rows[0])))


def _is_own(commit_id: str | None) -> bool:
    return commit_id is None or commit_id.startswith(OWN_ID)


def identified(request: Any) -> Any:
    """Give a request an identity by which the server knows it when it is repeated."""
    if isinstance(request, Commit) and request.id is None:
        own = OWN_ID + uuid.uuid4().hex
        return Commit(request.store, request.mutations, request.checks, own, request.durable, request.fences)
    if isinstance(request, OpenStore) and request.mode != "open":
        return _Opening(request.name, request.mode, uuid.uuid4().hex)
    return request


@dataclass(frozen=True, slots=True)
class _Opening(OpenStore):
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Claim(Requested[bool]):
    """Use up the id of a commit; gives whether the commit was applied before. May be repeated."""

    store: int
    id: str | None


def _incarnation(request: OpenStore) -> str:
    return request.incarnation if isinstance(request, _Opening) else uuid.uuid4().hex


def _of_store(rows: Rows) -> Rows:
    if not rows:
        raise store_gone()
    return rows


def _bounds(keys: KeyRange) -> tuple[str, tuple[Any, ...]]:
    if keys.stop is None:
        return "", (keys.domain, bound(keys.start))
    return " AND e.key < %s", (keys.domain, bound(keys.start), bound(keys.stop))
