"""Memory as a replica of the store: what each side held when they last met, and the two directions of one merge.

No I/O and no event loop: what needs the store is a generator of requests. Nothing here knows PTB.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ptb_kvpersistence.codec import dumps, loads
from ptb_kvpersistence.errors import (
    BusyError,
    ConflictError,
    DatabaseFullError,
    DatabaseUnavailableError,
    DecodeError,
    ReadOnlyError,
    StoreClosedError,
    StoreNotFoundError,
)
from ptb_kvpersistence.inplace import update_in_place
from ptb_kvpersistence.merge import Conflict, Policies, merge
from ptb_kvpersistence.model import ABSENT, Change, Changes, Commit, Delete, GetMany, Put, VersionCheck
from ptb_kvpersistence.persistence.claims import claim
from ptb_kvpersistence.persistence.layout import SECTIONS, EntityId, Layout, Section
from ptb_kvpersistence.persistence.state import FOR_EVER, NOTHING, Nothing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.model import CommitReply, Record, Requested

_logger = logging.getLogger(__name__)

PAGE: Final = 5000
"""Changes per request of a look."""
ATTEMPTS: Final = 50
"""How often a commit is built anew when others change the same entities meanwhile."""
EMPTY: Final = b"{}"
NOTHING_WRITTEN: Final = (
    BusyError,
    DatabaseFullError,
    DatabaseUnavailableError,
    ReadOnlyError,
    StoreClosedError,
    StoreNotFoundError,
)
"""Failures of a commit that leave no doubt about its outcome."""


class _Planned(NamedTuple):
    """One entity in a commit that is being built."""

    entity: EntityId
    state: State
    captured: bytes | None
    theirs: bytes | None
    version: int
    result: bytes | None
    conflicts: list[Conflict]


class Unresolved(NamedTuple):
    """A commit that was sent and whose outcome is not known."""

    commit: Commit
    planned: list[_Planned]


class Replica:
    """All entities of one bot.

    Attributes:
        states: Per section, by id.
        dirty: Entities with something captured.
        in_flight: Entities of the commit that is under way, or whose outcome is not known.
        layout: Where the entities live, once attached.
        store: Id of the store, once attached.
        is_attached: Whether layout and store are known.
        cursor: Version up to which the store's changes have been looked at.
        unresolved: The commit whose outcome is not known, if any.
        discarded: How many values conflicts have discarded so far.
    """

    layout: Layout
    store: int

    def __init__(self, codec: Codec, policies: Policies) -> None:
        self.codec = codec
        self.policies = policies
        self.is_attached = False
        self.states: dict[Section, dict[Any, State]] = {section: {} for section in SECTIONS}
        self.dirty: dict[EntityId, State] = {}
        self.in_flight: frozenset[EntityId] = frozenset()
        self.cursor = 0
        self.incarnation: str | None = None
        self.unresolved: Unresolved | None = None
        self.discarded = 0

    def attach(self, layout: Layout, store: int) -> None:
        """Say where the entities live; until then they can only be captured."""
        self.layout, self.store, self.is_attached = layout, store, True

    def state(self, entity: EntityId) -> State:
        """Give the state of an entity, a new one if it was never seen."""
        name, id_ = entity
        section = self.states[name]
        found = section.get(id_)
        if found is None:
            found = section[id_] = State()
        return found

    # --- from memory: capturing ---

    def capture(self, entity: EntityId, text: bytes | None) -> None:
        """Note what memory holds now (None: it was dropped), to be committed later."""
        state = self.state(entity)
        state.is_replaced = False
        if state.is_quarantined:
            _logger.warning(
                "%s is not saved: the stored entry cannot be read and is left as it is; repair or delete it",
                entity.place,
            )
            return
        if text == state.ours and entity not in self.in_flight:
            state.captured = NOTHING
            self.dirty.pop(entity, None)
        else:
            state.captured = text
            self.dirty[entity] = state

    # --- to the store: committing ---

    def commit(
        self, prepare: Callable[[], None] = lambda: None, *, durable: bool = True
    ) -> Generator[Requested[Any], Any, int]:
        """Commit everything captured, as one commit; what others changed meanwhile is merged.

        Args:
            prepare: Called when all earlier commits are settled, to capture what belongs to that which is captured.
            durable: Wait for the disk.

        Returns:
            How many entities were written.

        Raises:
            ConflictError: Others kept changing the same entities; all stays captured.
            Exception: What the backend raised; all stays captured.
        """
        if self.unresolved is not None:
            yield from self._resolve()
        prepare()
        current: dict[EntityId, tuple[bytes | None, int]] = {}
        self.in_flight = frozenset(self.dirty)
        batch = [(entity, state, state.captured) for entity, state in self.dirty.items()]
        for _ in range(ATTEMPTS):
            planned = [
                self._plan(entity, state, captured, current.get(entity))
                for entity, state, captured in batch
                if not isinstance(captured, Nothing)
            ]
            writes = [plan for plan in planned if plan.result != plan.theirs]
            if not writes:
                self._settle(planned, {})
                return 0
            reply = yield from self._send(planned, writes, durable=durable)
            if reply.is_committed:
                versions = dict(zip((plan.entity for plan in writes), reply.versions, strict=False))
                self._settle(planned, versions)
                return len(writes)
            for plan in planned:
                address = self.layout.address(plan.entity)
                if address in reply.conflicts:
                    record = reply.conflicts[address]
                    current[plan.entity] = (None, 0) if record is None else (record.value, record.version)
                    plan.state.life = FOR_EVER if record is None else (record.ttl, record.expires_at)
        message = f"{len(batch)} entities were changed by others each time; they stay pending and are tried again"
        raise ConflictError(message)

    def land(self) -> None:
        """End a commit that failed; what became of an unresolved one must be known before its entities move."""
        sent = () if self.unresolved is None else self.unresolved.planned
        self.in_flight = frozenset(plan.entity for plan in sent)

    def _send(
        self, planned: list[_Planned], writes: list[_Planned], *, durable: bool
    ) -> Generator[Requested[Any], Any, CommitReply]:
        mutations: list[Put | Delete] = []
        checks = []
        for entity, state, _, theirs, version, result, _ in writes:
            domain, key = self.layout.address(entity)
            # A write renews the entry's lifetime, unless that is an absolute time.
            ttl, expires_at = FOR_EVER if theirs is None else state.life
            if result is None:
                mutations.append(Delete(domain, key))
            else:
                mutations.append(Put(domain, key, result, ttl, expires_at if ttl is None else None))
            checks.append(VersionCheck(domain, key, 0 if theirs is None else version))
        commit = Commit(self.store, tuple(mutations), tuple(checks), uuid.uuid4().hex, durable)
        self.unresolved = Unresolved(commit, planned)
        try:
            reply: CommitReply = yield commit
        except NOTHING_WRITTEN:
            self.unresolved = None
            raise
        self.unresolved = None
        return reply

    def _resolve(self) -> Generator[Requested[Any], Any, None]:
        """Find out what became of the commit that was cut off; if it was not applied, everything is planned anew."""
        assert self.unresolved is not None  # noqa: S101 - the caller checked
        commit, planned = self.unresolved
        assert commit.id is not None  # noqa: S101 - each of ours has one
        try:
            # What else fails now says nothing about the first time.
            is_applied = yield from claim(self.store, commit.id)
        except StoreNotFoundError:
            self.unresolved = None
            raise
        if is_applied:
            writes = [plan for plan in planned if plan.result != plan.theirs]
            records = yield GetMany(self.store, tuple(self.layout.address(plan.entity) for plan in writes))
            self._settle_late(planned, list(zip(writes, records, strict=True)))
        self.unresolved = None

    def _settle_late(self, planned: list[_Planned], found: list[tuple[_Planned, Record | None]]) -> None:
        """Settle a commit that was applied some time ago; others may have written since."""
        own = {
            plan.entity: record.version for plan, record in found if record is not None and record.value == plan.result
        }
        self._settle(planned, own)
        for plan, record in found:
            value, version = (None, plan.version) if record is None else (record.value, record.version)
            newer = plan.state.newer
            if value != plan.result and (newer is None or newer.version < version):
                plan.state.newer = Change(*self.layout.address(plan.entity), value, version, 0)

    def _plan(
        self, entity: EntityId, state: State, captured: bytes | None, current: tuple[bytes | None, int] | None
    ) -> _Planned:
        ours, before = state.ours, state.theirs
        theirs, version = before, state.version
        if current is not None:
            theirs, version = current
        elif state.newer is not None:
            theirs, version = state.newer.value, state.newer.version
        conflicts: list[Conflict] = []
        if ours is before and theirs is before:
            result = captured
        elif theirs is not before and not self._is_readable(entity, state, theirs):
            captured, result = ours, theirs
        else:
            result, conflicts = self._merge(entity, ours, captured, before, theirs)
        return _Planned(entity, state, captured, theirs, version, result, conflicts)

    def _is_readable(self, entity: EntityId, state: State, text: bytes | None) -> bool:
        """Check what somebody else wrote; what cannot be read is not merged with."""
        try:
            if text is not None:
                self.codec.decode(text, entity.place)
        except DecodeError as error:
            self._quarantine(entity, state, error)
            return False
        return True

    def _settle(self, planned: list[_Planned], versions: dict[EntityId, int]) -> None:
        self.in_flight = frozenset()
        for plan in planned:
            entity, state, captured, _, planned_version, result, conflicts = plan
            is_ours = result == captured
            state.ours = captured
            state.theirs = captured if is_ours else result
            version = versions.get(entity, planned_version)
            state.version = version if result is not None else max(version, planned_version)
            if state.newer is not None and state.newer.version <= state.version:
                state.newer = None
            if state.newer is None and not is_ours and not state.is_quarantined:
                # What was merged in is news to memory, though the version is our own.
                state.newer = Change(*self.layout.address(entity), result, state.version, 0)
            if state.captured is captured or state.is_quarantined:
                state.captured = NOTHING
                self.dirty.pop(entity, None)
            if conflicts:
                self._report(entity, conflicts)

    def _merge(
        self,
        entity: EntityId,
        base_ours: bytes | None,
        ours: bytes | None,
        base_theirs: bytes | None,
        theirs: bytes | None,
    ) -> tuple[bytes | None, list[Conflict]]:
        if entity.section in ("conversations", "callback_data"):
            return (theirs if ours == base_ours else ours), []
        trees = [ABSENT if text is None else loads(text) for text in (base_ours, ours, base_theirs, theirs)]
        result, conflicts = merge(*trees, place=entity.path, policies=self.policies, values=self.codec)
        return (None if result is ABSENT else dumps(result)), conflicts

    def _report(self, entity: EntityId, conflicts: Iterable[Conflict]) -> None:
        for conflict in conflicts:
            self.discarded += 1
            _logger.warning(
                "%s: both sides changed %s; one value was discarded (%s)", entity.place, conflict.place, conflict.kind
            )

    # --- from the store: looking and refreshing ---

    def look(self) -> Generator[Requested[Any], Any, int]:
        """Read what changed in the store since the last look and note it with the entities.

        Returns:
            How many entities have something new.
        """
        found, more = 0, True
        while more:
            reply = yield Changes(self.store, self.cursor, self.layout.domains, PAGE)
            if reply.incarnation != self.incarnation or reply.horizon > self.cursor > 0:
                if self.incarnation is not None:
                    found += yield from self._look_at_all()
                    return found
                self.incarnation = reply.incarnation
            found += self._note(reply.changes)
            self.cursor = max(self.cursor, reply.head)
            more = reply.more
        return found

    def _look_at_all(self) -> Generator[Requested[Any], Any, int]:
        """Compare with the whole store: it was recreated, or changes were forgotten before we saw them."""
        _logger.warning("the store was recreated or has forgotten changes; comparing everything with it")
        changes: dict[tuple[str, str], Change] = {}
        cursor, more = 0, True
        while more:
            reply = yield Changes(self.store, cursor, self.layout.domains, PAGE)
            changes.update(((change.domain, change.key), change) for change in reply.changes)
            cursor, more = reply.head, reply.more
        for section, states in self.states.items():
            for id_, state in states.items():
                address = self.layout.address(EntityId(section, id_))
                if address not in changes and state.known is not None:
                    changes[address] = Change(*address, None, cursor, 0)
                state.version = 0
        self.incarnation, self.cursor = reply.incarnation, cursor
        return self._note(changes.values())

    def _note(self, changes: Iterable[Change]) -> int:
        found = 0
        for change in changes:
            entity = self.layout.entity(change.domain, change.key)
            if entity is None:
                continue
            if change.expires_at is not None and change.expires_at <= time.time() * 1000:
                change = change._replace(value=None)  # noqa: PLW2901 - an expired entry is a deleted one
            section = self.states[entity.section]
            state = section.get(entity.id)
            if state is None:
                if change.value is None:
                    continue
                # The first look loads everything: memory and store meet here.
                state = section[entity.id] = State(None, 0)
            if change.version >= state.version:
                state.life = FOR_EVER if change.value is None else (change.ttl, change.expires_at)
            if change.version > state.version and (state.newer is None or change.version > state.newer.version):
                state.newer = change
                found += 1
        return found

    def expire(self, entity: EntityId, state: State) -> None:
        """Note that an entry's time is over: in the store its deletion shows only once it is swept."""
        expires_at = state.life[1]
        if expires_at is not None and expires_at <= time.time() * 1000 and state.known is not None:
            version = state.version if state.newer is None else state.newer.version
            state.life = FOR_EVER
            state.newer = Change(*self.layout.address(entity), None, version, 0)

    def load(self, entity: EntityId, state: State, kind: type = object) -> object:
        """Make a new object for memory from the latest text known, with what is captured merged in.

        Args:
            entity: Which entity.
            state: Its state.
            kind: What the object must be an instance of.

        Returns:
            The object, :data:`NOTHING` if there is no entry or it cannot be read.
        """
        newer = state.newer
        if newer is not None and state.captured is not NOTHING and self._is_readable(entity, state, newer.value):
            self._rebase(entity, state, newer.value)
        if newer is not None:
            state.ours = state.theirs = newer.value
            state.version, state.newer = newer.version, None
        text = state.theirs if isinstance(state.captured, Nothing) else state.captured
        state.is_quarantined, state.is_replaced, state.live = False, False, NOTHING
        if text is None:
            return NOTHING
        # What memory holds from now on is the store's text, whatever an earlier memory held.
        if state.captured is NOTHING:
            state.ours = state.theirs
        try:
            state.live = self.codec.decode(text, entity.place)
            if not isinstance(state.live, kind):
                reason = f"it holds a {type(state.live).__name__}, the context has a {kind.__name__}"
                state.live = NOTHING
                raise DecodeError(place=entity.place, reason=reason)  # noqa: TRY301 - handled like any other
        except DecodeError as error:
            self._quarantine(entity, state, error)
            # Memory begins with nothing, and there is nothing to compare with once the entry is repaired.
            state.ours = state.theirs = None
        return state.live

    def _quarantine(self, entity: EntityId, state: State, error: DecodeError) -> None:
        state.is_quarantined, state.captured = True, NOTHING
        self.dirty.pop(entity, None)
        domain, key = self.layout.address(entity)
        _logger.error(
            "%s cannot be read and is left out; its entry (domain %r, key %r) is left as it is: %s",
            entity.place,
            domain,
            key,
            error,
        )

    def refresh(self, entity: EntityId, state: State, live: Any, default: bytes = EMPTY) -> None:
        """Bring PTB's object up to what the store holds now, in place; what memory changed meanwhile stays.

        Args:
            entity: Which entity.
            state: Its state, with something newer, and not in flight.
            live: PTB's object.
            default: What an object looks like whose entry is absent.

        Raises:
            EncodeError: The object cannot be encoded, so nothing can be merged into it.
        """
        newer = state.newer
        if newer is None:
            return
        if not self._is_readable(entity, state, newer.value):
            state.newer = None
            return
        ours = self.codec.encode(live, entity.place)
        base = state.ours
        if base is None and ours == default:
            # PTB made the empty object when it looked the id up: it is no edit.
            ours_tree, result = loads(ours), newer.value
            conflicts: list[Conflict] = []
        else:
            ours_tree = loads(ours)
            result, conflicts = self._merge(entity, base, ours, state.theirs, newer.value)
        new = loads(default if result is None else result)
        if update_in_place(self.codec, live, ours_tree, new) is not live:
            state.is_quarantined = True
            _logger.error("%s: the store holds another type than memory; both are left as they are", entity.place)
            return
        if state.captured is not NOTHING:
            self._rebase(entity, state, newer.value)
        state.newer, state.is_quarantined = None, False
        state.version, state.theirs = newer.version, newer.value
        state.ours = default if newer.value is None and result is None else newer.value
        self._report(entity, conflicts)

    def _rebase(self, entity: EntityId, state: State, theirs: bytes | None) -> None:
        if isinstance(state.captured, Nothing):
            return
        state.captured, _ = self._merge(entity, state.ours, state.captured, state.theirs, theirs)

    # --- for exports, rescue and health ---

    def pending(self) -> Iterator[tuple[EntityId, State]]:
        """List what is captured and not committed."""
        yield from self.dirty.items()

    def encode(self, entity: EntityId, value: object) -> bytes:
        """Encode a value for an entity; EncodeError names the place."""
        return self.codec.encode(value, entity)
