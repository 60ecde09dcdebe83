"""Write-behind and refresh: when the replica meets the store, on which loop, and what happens at the end.

One commit is under way at a time, in a task of its own that no caller's cancellation reaches. What could not be
committed stays captured and is tried again: at the next cycle, after a while, at ``flush()``, and at the very end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ptb_kvpersistence import process
from ptb_kvpersistence.errors import (
    BusyError,
    DatabaseUnavailableError,
    EncodeError,
    OutcomeUnknownError,
)
from ptb_kvpersistence.persistence import namespaces, rescue
from ptb_kvpersistence.persistence import state as states
from ptb_kvpersistence.persistence.cycle import Cycle
from ptb_kvpersistence.persistence.layout import SHAREABLE, EntityId, Layout
from ptb_kvpersistence.persistence.presence import Presence
from ptb_kvpersistence.persistence.replica import Replica
from ptb_kvpersistence.persistence.sight import Sight
from ptb_kvpersistence.persistence.state import NOTHING, State
from ptb_kvpersistence.store.operations import drive, drive_async, open_store

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ptb_kvpersistence.codec import Codec
    from ptb_kvpersistence.model import Requested
    from ptb_kvpersistence.policies import Policies
    from ptb_kvpersistence.store.aio import AsyncStore

T = TypeVar("T")
_logger = logging.getLogger(__name__)

FLIGHT_TIMEOUT: Final = 0.25
"""Seconds that a refresh waits for a commit of the same entity."""
LAST_TIMEOUT: Final = 0.5
"""Seconds that a commit waits for a database that stayed busy, or gave no answer, all through the last one: PTB asks
three times while it stops, and the process has to end before somebody kills it."""
MOST_TOUCHED: Final = 10_000
"""Entities shown to handlers before the last flush that are looked at again when a program crashes."""
PACK_PAUSE: Final = 0.01
"""Seconds between two slices of packing."""
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0


class Surroundings(Protocol):
    """What the keeper asks about the program around it; see :class:`.host.Host`."""

    def bot_name(self) -> str | None:
        """Give the name of the bot's namespace, if there is a bot."""
        ...

    def is_running(self) -> bool:
        """Tell whether PTB is at work."""
        ...

    def required_kind(self, section: str) -> type[Any]:
        """Give the class that loaded data must have."""
        ...

    def default(self, section: str) -> bytes:
        """Give the text of data that were never filled."""
        ...

    def holds(self, entity: EntityId, live: object) -> bool:
        """Tell whether an object is still PTB's."""
        ...

    def follow(self, keeper: Keeper) -> None:
        """Find the new objects of what was dropped."""
        ...

    def collect(self, keeper: Keeper) -> None:
        """Capture what PTB holds beyond the data it showed."""
        ...


class Keeper:
    """Keeps one replica and its store together.

    Attributes:
        replica: What memory and store held when they last met.
        sight: How fresh that is.
        last_saved_at: When everything captured was last in the store.
    """

    def __init__(
        self,
        store: AsyncStore,
        codec: Codec,
        policies: Policies,
        host: Surroundings,
        *,
        owns_store: bool,
        share: frozenset[str],
        max_staleness: float,
        update_interval: float,
        on_flush: bool,
    ) -> None:
        self.store = store
        self.codec = codec
        self.policies = policies
        self.host = host
        self.owns_store = owns_store
        self.share = share
        self._max_staleness = max_staleness
        self.on_flush = on_flush
        self._presence = Presence(store)
        self._patience = max(5.0, 2.5 * update_interval)
        self._start()

    def _start(self) -> None:
        """Begin with nothing in memory."""
        self.replica = Replica(self.codec, self.policies)
        self.last_saved_at: datetime | None = None
        self._pid = process.pid
        self._touched: dict[EntityId, State] = {}
        self._touched_before: dict[EntityId, State] = {}
        self._unencodable: dict[EntityId, str] = {}
        self._cycle: Cycle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock: asyncio.Lock | None = None
        self._commit_task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retry_pause = FIRST_RETRY
        self._trouble: Exception | None = None
        self.sight = Sight(self.store.backend, self._max_staleness, self._see, self._recovered)
        self._captured_at = time.monotonic()
        self._is_watched = False

    def _check_process(self) -> None:
        # What a fork inherits belongs to the parent, which saves it; the child starts anew.
        if self._pid != process.pid:
            self._start()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
            self._commit_task = self._retry = None
            self.replica.land()

    async def _perform(self, operation: Generator[Requested[Any], Any, T], timeout: float | None = None) -> T:
        perform = self.store.backend.perform
        return await drive_async(operation, lambda request: perform(request, timeout))

    # --- opening ---

    def _opening(self, orphans: list[rescue.Orphan]) -> Generator[Requested[Any], Any, None]:
        store = yield from open_store(self.store.handle)
        namespace = yield from namespaces.resolve(store, self.host.bot_name())
        layout = Layout(namespace, self.share)
        for orphan in orphans:
            yield from rescue.replay(orphan, store, self.codec, self.policies)
        self.replica.attach(layout, store)
        yield from self.replica.look()

    async def open(self) -> None:
        """Find the bot's namespace, replay rescue files, and look at the store for the first time."""
        self._check_process()
        self._check_loop()
        if not self.replica.is_attached:
            assert self._lock is not None  # noqa: S101 - made by _check_loop
            async with self._lock:
                if not self.replica.is_attached:
                    await self._open_locked()
        await self._presence.arrive(self.host.bot_name)

    async def _open_locked(self) -> None:
        orphans = rescue.find(self.store)
        try:
            await self.sight.look(see=lambda timeout: self._perform(self._opening(orphans), timeout))
        except Exception:
            # Who cannot open will not flush either; nothing else would end the threads before the process ends.
            if self.owns_store:
                await self.store.backend.release()
            raise
        for orphan in orphans:
            rescue.remove(orphan)

    # --- capturing ---

    def capture(self, entity: EntityId, text: bytes | None) -> None:
        """Note what memory holds now; see Replica.capture."""
        if self._pid != process.pid:
            self._start()
        self.replica.capture(entity, text)
        if self._unencodable:
            self._unencodable.pop(entity, None)

    def forget_live(self, entity: EntityId) -> None:
        """Forget PTB's object of an entity that was dropped; a handler may already fill another one."""
        self.replace_live(entity, NOTHING)

    def replace_live(self, entity: EntityId, live: object) -> None:
        """Note the object that PTB has in place of one that was dropped, NOTHING if it has none."""
        self._touched[entity] = state = self.replica.state(entity)
        state.live = live

    def cycle(self) -> Cycle:
        """Give the cycle that captures belong to, and see that it gets committed."""
        self._captured_at = time.monotonic()
        if not self._is_watched:
            self._watch_the_end()
        cycle = self._cycle
        if cycle is None:
            cycle = self._cycle = Cycle(self.deliver)
        if cycle.task is None and not self.on_flush:
            try:
                self._check_loop()
            except RuntimeError:
                return cycle  # no loop yet: awaiting the coroutine, or flush(), will commit
            self._schedule(cycle)
        return cycle

    def _schedule(self, cycle: Cycle) -> None:
        assert self._loop is not None  # noqa: S101 - the caller has looked
        cycle.task = self._commit_task = self._loop.create_task(
            self._commit_cycle(cycle), name="ptb_kvpersistence:commit"
        )
        cycle.task.add_done_callback(cycle.finish)

    async def deliver(self, cycle: Cycle, own: EncodeError | None) -> None:
        """Wait for a cycle's commit; its error goes to the first who asks, ``own`` to him whom it concerns."""
        if not self.on_flush:
            await self._deliver(cycle)
        if own is not None:
            raise own

    async def _deliver(self, cycle: Cycle) -> None:
        self._check_loop()
        if cycle.task is None or cycle.task.get_loop() is not self._loop:
            self._schedule(cycle)
        assert cycle.task is not None and self._loop is not None  # noqa: S101, PT018 - scheduled above
        if not cycle.task.done():
            waiter = self._loop.create_future()
            cycle.waiters.append(waiter)
            await waiter
        error, cycle.error = cycle.error, None
        if error is not None:
            raise error

    async def _commit_cycle(self, cycle: Cycle) -> None:
        # PTB's loop over update_* must end first; an eager task would start inside of it.
        await asyncio.sleep(0)
        if self._cycle is cycle:
            self._cycle = None
        try:
            await self._commit()
            await self._presence.arrive(self.host.bot_name)
        except Exception as error:  # noqa: BLE001 - delivered to the awaiter
            cycle.error = error
            self._retry_later(error)

    def _take_along(self) -> None:
        """Capture the live data of everybody whose conversation moved, so that state and data stay together."""
        replica = self.replica
        for entity in [entity for entity in replica.dirty if entity.section == "conversations"]:
            for part in entity.id[1]:
                for other in (EntityId("chat_data", part), EntityId("user_data", part)):
                    state = replica.states[other.section].get(part)
                    if state is not None:
                        self._capture_live(other, state)

    def capture_value(self, entity: EntityId, value: object) -> EncodeError | None:
        """Capture what memory holds now as a value; gives the error if it cannot be stored, which is logged too."""
        try:
            text = self.codec.encode(value, entity)
        except EncodeError as error:
            self.report_unencodable(entity, error)
            return error
        self.capture(entity, text)
        return None

    def _capture_live(self, entity: EntityId, state: State) -> None:
        if state.live is NOTHING:
            return
        try:
            self.replica.capture(entity, self.replica.encode(entity, state.live))
        except EncodeError as error:
            self.report_unencodable(entity, error)

    def report_unencodable(self, entity: EntityId, error: EncodeError) -> None:
        """Log, once per reason, that an entity cannot be stored."""
        if self._unencodable.get(entity) != str(error):
            self._unencodable[entity] = str(error)
            _logger.error("%s is not saved, the rest is: %s", entity.place, error)

    def capture_touched(self) -> None:
        """Capture all live data that PTB showed us, without PTB's help."""
        self.host.follow(self)
        for entity, state in self.touched():
            self._capture_live(entity, state)

    def touched(self) -> list[tuple[EntityId, State]]:
        """List the entities that handlers may still be at work on, a flush or not."""
        return list({**self._touched_before, **self._touched}.items())

    # --- committing ---

    async def _commit(self) -> None:
        self._check_process()
        self._check_loop()
        assert self._lock is not None  # noqa: S101 - made by _check_loop
        async with self._lock:
            replica = self.replica
            if not replica.is_attached:
                await self._open_locked()
            if replica.dirty or replica.unresolved is not None:
                try:
                    await self._perform(replica.commit(self._take_along), self._commit_timeout())
                except (BusyError, DatabaseUnavailableError, OutcomeUnknownError) as error:
                    self._trouble = error
                    raise
                finally:
                    replica.land()
            self._trouble = None
            self.sight.try_soon()
            self.last_saved_at = datetime.now(timezone.utc)
            self._retry_pause = FIRST_RETRY

    def _commit_timeout(self) -> float | None:
        # A running bot gives a slow server its time; once it stops there is no more of it.
        is_short = isinstance(self._trouble, BusyError) or (self._trouble is not None and not self.host.is_running())
        return LAST_TIMEOUT if is_short else None

    def _retry_later(self, error: Exception) -> None:
        _logger.error("saving failed, %d entities stay pending and are tried again: %s", len(self.replica.dirty), error)
        if self._loop is None or self._loop.is_closed() or self._retry is not None:
            return
        self._retry = self._loop.call_later(self._retry_pause, self._try_again)
        self._retry_pause = min(self._retry_pause * 2, LAST_RETRY)

    def _try_again(self) -> None:
        self._retry = None
        if (self.replica.dirty or self.replica.unresolved is not None) and not self.on_flush:
            self.cycle()

    async def flush(self) -> None:
        """Commit everything, live data included, and let go of connections that are ours.

        Raises:
            KVPersistenceError: It could not be saved; it stays pending.
        """
        self._check_process()
        self.capture_touched()
        touched, self._touched = self._touched, {}
        self._cycle = None
        commit = asyncio.ensure_future(self._commit())
        commit.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.shield(commit)
        except BaseException:
            self._touched = {**touched, **self._touched}
            self._watch_the_end()
            raise
        # While PTB runs, any handler may still be at work on what it was shown.
        is_running = self.host.is_running()
        keeps = is_running and len(self._touched_before) < MOST_TOUCHED
        self._touched_before = {**self._touched_before, **touched} if keeps else touched
        if not is_running:
            self._is_watched = False
            process.forget(self._token_of_end)
            await self._presence.leave()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.owns_store:
            await self.store.backend.release()

    # --- looking and refreshing ---

    async def _see(self, timeout: float | None) -> None:
        await self.open()
        await self._perform(self.replica.look(), timeout)

    def _recovered(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._try_again()

    async def refresh(self, entity: EntityId, live: Any) -> None:
        """Bring one of PTB's objects up to the store, in place. Never raises for I/O or undecodable data."""
        if self._pid != process.pid:
            self._start()
        state = self.replica.state(entity)
        if state.live is not live:
            state.is_replaced = state.live is not NOTHING
            state.live = live
        self._touched[entity] = state
        if not self._is_watched:
            self._watch_the_end()
        await self.sight.glance_for(entity.section)
        self.replica.expire(entity, state)
        if state.newer is not None:
            await self._merge_newer(entity, state, live)
        if time.monotonic() - self._captured_at > self._patience:
            self._help_out()
        self.sight.hook_ended(entity.section)

    async def _merge_newer(self, entity: EntityId, state: State, live: Any) -> None:
        if entity in self.replica.in_flight and self._commit_task is not None and self._trouble is None:
            await asyncio.wait({self._commit_task}, timeout=FLIGHT_TIMEOUT)
        if entity in self.replica.in_flight or state.live is not live or not self.host.holds(entity, live):
            return  # the next refresh finds it, with the base that the commit leaves
        try:
            self.replica.refresh(entity, state, live, self.host.default(entity.section))
        except EncodeError as error:
            self.report_unencodable(entity, error)

    def _help_out(self) -> None:
        """Save by ourselves: PTB has not called for long, so its updater may be dead."""
        self._captured_at = time.monotonic()
        self.host.collect(self)
        self.capture_touched()
        if self.replica.dirty:
            _logger.warning("PTB has not updated the persistence for long; saving %d entities", len(self.replica.dirty))
            self.cycle()

    async def load(self, section: Any) -> dict[Any, object]:
        """Make new objects for memory from all entries of a section.

        Raises:
            KVPersistenceError: The store cannot be read.
        """
        await self.open()
        if self.replica.unresolved is not None:
            await self._commit()
        assert self._lock is not None  # noqa: S101 - made by open
        async with self._lock:
            if not self.sight.is_fresh():
                await self.sight.look()
            replica, found = self.replica, {}
            kind = self.host.required_kind(section) if section in SHAREABLE else object
            for count, (id_, state) in enumerate(list(replica.states[section].items())):
                value = replica.load(EntityId(section, id_), state, kind)
                if value is not NOTHING:
                    found[id_] = value
                if count % 2000 == 1999:
                    await asyncio.sleep(0)
            if len(found) >= states.PACK_FROM:
                self._pack(states.packing(list(replica.states[section].values())))
            return found

    def _pack(self, packing: Iterator[None]) -> None:
        """Pack on beside the bot's work, on this loop as long as it runs."""
        try:
            next(packing)
        except StopIteration:
            return
        asyncio.get_running_loop().call_later(PACK_PAUSE, self._pack, packing)

    # --- the end of the process ---

    @property
    def _token_of_end(self) -> object:
        return ("keeper", id(self))

    def _watch_the_end(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            # Held strongly: what a program has dropped or lost track of may still have something to save.
            process.at_end(self._token_of_end, process.SAVE_FIRST, self.finish)

    def finish(self) -> None:
        """Save, without a loop, what is not saved yet; what cannot be saved goes to a rescue file."""
        if self._pid != process.pid:
            return
        self._is_watched = False
        self.replica.land()
        try:
            self.host.collect(self)
        except Exception:  # what PTB and its handlers hold may be anything; the rest is saved all the same
            _logger.exception("could not ask PTB for conversations and callback data")
        self.capture_touched()
        replica = self.replica
        if not replica.dirty and replica.unresolved is None:
            return
        backend = self.store.backend.blocking()
        timeout = None if self._trouble is None else LAST_TIMEOUT
        try:
            if not replica.is_attached:
                drive(self._opening([]), lambda request: backend.perform(request, timeout))
            drive(replica.commit(self._take_along), lambda request: backend.perform(request, timeout))
        except Exception as error:  # noqa: BLE001 - whatever it is, this is the last chance to keep what is pending
            _logger.error("the last changes could not be saved (%s)", error)  # noqa: TRY400 - the reason is enough
            rescue.write(self.store, replica)
        finally:
            backend.close()
