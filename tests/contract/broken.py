"""Memory backends, each broken in one way that the contract suite has to notice; no tests here."""

from __future__ import annotations

from ptb_kvpersistence.backends.base import now as now_ms
from ptb_kvpersistence.backends.memory import MemoryEngine
from ptb_kvpersistence.model import Delete, ListDomains, Put, RangeCheck, Sweep, VersionCheck


class LostUpdate(MemoryEngine):
    """Writes whatever version the entry has."""

    def _failed_checks(self, data, checks, now):
        kept = tuple(check for check in checks if not isinstance(check, VersionCheck))
        return super()._failed_checks(data, kept, now)


class Phantoms(MemoryEngine):
    """Does not look whether a range has changed."""

    def _failed_checks(self, data, checks, now):
        kept = tuple(check for check in checks if not isinstance(check, RangeCheck))
        return super()._failed_checks(data, kept, now)


class Forgetful(MemoryEngine):
    """Its feed leaves out the last change of a full page."""

    def _changes(self, request):
        reply = super()._changes(request)
        return reply._replace(changes=reply.changes[:-1]) if reply.more else reply


class NoTombstones(MemoryEngine):
    """Its feed does not tell of deletions."""

    def _changes(self, request):
        reply = super()._changes(request)
        return reply._replace(changes=[change for change in reply.changes if change.value is not None])


class SilentHorizon(MemoryEngine):
    """Forgets deletions without saying so."""

    def _sweep(self, request):
        done = super()._sweep(request)
        for data in self._stores.values():
            data.horizon = 0
        return done


class Undead(MemoryEngine):
    """Shows entries after their time, where several are asked for."""

    def _get_many(self, request):
        found = self._data(request.store).changes
        for address in request.addresses if len(request.addresses) > 1 else ():
            change = found.get(address)
            if change is not None and change.expires_at is not None:
                found[address] = change._replace(expires_at=None)
        return super()._get_many(request)


class Unswept(MemoryEngine):
    """Never turns what has expired into a deletion."""

    def _sweep(self, request):
        return super()._sweep(Sweep(0))


class Crowded(MemoryEngine):
    """Lets others write during an exclusive session."""

    def perform(self, request, owner=None):
        with self._lock:
            return self._handlers[type(request)](request)


class Twice(MemoryEngine):
    """Applies a commit as often as it is sent."""

    def _commit(self, request):
        self._commits.pop(request.id, None)
        return super()._commit(request)


class Hasty(MemoryEngine):
    """Takes the id before it has looked whether the commit holds."""

    def _commit(self, request):
        reply = super()._commit(request)
        if request.id is not None:
            self._commits.setdefault(request.id, now_ms())
        return reply


class Torn(MemoryEngine):
    """Writes the first mutation of a commit whose checks fail."""

    def _commit(self, request):
        reply = super()._commit(request)
        if not reply.is_committed and request.mutations:
            self._mutate(self._data(request.store), request.mutations[0], now_ms())
        return reply


class Unfenced(MemoryEngine):
    """Commits whoever holds the lock by now."""

    def _commit(self, request):
        self._leases.check = lambda store, fences: None
        return super()._commit(request)


class Repeating(MemoryEngine):
    """Gives a version again after a deletion."""

    def _mutate(self, data, mutation, now):
        version = super()._mutate(data, mutation, now)
        if isinstance(mutation, Delete) and version:
            self._version -= 1
        return version


class Recoded(MemoryEngine):
    """Stores a value as it would have written it itself."""

    def _mutate(self, data, mutation, now):
        if isinstance(mutation, Put):
            mutation = mutation._replace(value=mutation.value.replace(b"\\u0000", b""))
        return super()._mutate(data, mutation, now)


class Unordered(MemoryEngine):
    """Orders keys as UTF-16 does."""

    def _range(self, data, keys):
        return sorted(super()._range(data, keys), key=lambda key: key.encode("utf-16-be"))


class Stale(MemoryEngine):
    """Its cheap look does not see what was committed."""

    @property
    def version(self):
        return 1


class Reborn(MemoryEngine):
    """Gives a store made anew the identity of the one before."""

    def _open_store(self, request):
        info = super()._open_store(request)
        info = info._replace(incarnation=f"incarnation of {info.name}")
        self._stores[info.id].info = info
        return info


class Unqueued(MemoryEngine):
    """Gives a free lock to whoever asks first, not to whoever came first."""

    def __init__(self, name):
        super().__init__(name)
        acquire = self._handlers[next(each for each in self._handlers if each.__name__ == "AcquireLease")]

        def hurried(request):
            self._leases._get(request.store, request.name).line.clear()
            return acquire(request)

        self._handlers = {
            each: hurried if each.__name__ == "AcquireLease" else handler for each, handler in self._handlers.items()
        }


class Restarting(MemoryEngine):
    """Counts a time to live anew, also where it is told when the entry expires."""

    def _mutate(self, data, mutation, now):
        if isinstance(mutation, Put) and mutation.ttl is not None:
            mutation = mutation._replace(expires_at=None)
        return super()._mutate(data, mutation, now)


class Unset(MemoryEngine):
    """Lists the settings of all stores as those of each."""

    def _list_domains(self, request):
        return tuple(info for store in self._stores for info in super(Unset, self)._list_domains(ListDomains(store)))


class Careless(MemoryEngine):
    """Deletes stores that bots use."""

    def _refuse_while_attached(self, store):
        pass


class Unchecked(MemoryEngine):
    """Reads without looking whether what a transaction read before still holds."""

    def _checked(self, request):
        return super()._checked(type(request)(request.store, request.request))


BROKEN = {
    LostUpdate: ("atomic commit", "old_version"),
    Torn: ("atomic commit", "stops_everything"),
    Repeating: ("atomic commit", "never_used_twice or written_again"),
    Phantoms: ("serialisable transaction", "has_been_changed"),
    Unchecked: ("serialisable transaction", "next_read or two_states"),
    Twice: ("commit once", "twice"),
    Hasty: ("commit once", "use_up"),
    Forgetful: ("change feed", "pages"),
    NoTombstones: ("change feed", "latest_change"),
    SilentHorizon: ("change feed", "horizon"),
    Reborn: ("stores", "anew"),
    Stale: ("cheap look", "peek"),
    Undead: ("expiry", "nobody_sees"),
    Unswept: ("expiry", "swept"),
    Restarting: ("expiry", "stored_with_both"),
    Unset: ("stores", "domains_with_a_setting"),
    Careless: ("stores", "in_use"),
    Unfenced: ("named locks", "fenced"),
    Unqueued: ("named locks", "first"),
    Crowded: ("exclusive transaction", "checked_commit_waits"),
    Recoded: ("requests", "byte_for_byte"),
    Unordered: ("requests", "code_point"),
}
"""Each with the guarantee whose tests have to fail, and words of their names, since the others take their time."""
