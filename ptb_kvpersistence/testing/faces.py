"""Both faces called in one way, so that each test is written once; no tests here.

What a sync backend or store does is done at once, on the thread of the test's event loop. Tests in which somebody
has to wait go through :meth:`Face.elsewhere`: a task of its own for the async face, a thread for the sync one.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.store.aio import AsyncStore
from ptb_kvpersistence.store.operations import Handle
from ptb_kvpersistence.store.sync import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from ptb_kvpersistence.backends.base import AsyncBackend, AsyncSession, Backend, Session
    from ptb_kvpersistence.model import Commit, R, Requested
    from ptb_kvpersistence.store.watching import Event
    from ptb_kvpersistence.testing.place import Place

T = TypeVar("T")


class Subject:
    """A backend of either face whose methods are awaited.

    Attributes:
        raw: The backend.
    """

    def __init__(self, raw: Backend | AsyncBackend) -> None:
        self.raw = raw

    async def perform(self, request: Requested[R], timeout: float | None = None) -> R:
        """Perform a request."""
        return cast("R", await _settled(self.raw.perform(request, timeout)))

    async def exclusive(self, store: int, timeout: float = 5.0, *, durable: bool = True) -> AsyncSession:
        """Begin an exclusive session."""
        session: Any = await _settled(self.raw.exclusive(store, timeout, durable=durable))
        return cast("AsyncSession", _Session(session))

    async def close(self) -> None:
        """Close the backend."""
        await _settled(self.raw.close())


class _Session:
    def __init__(self, raw: Session | AsyncSession) -> None:
        self._raw = raw

    async def perform(self, request: Requested[R]) -> R:
        return cast("R", await _settled(self._raw.perform(request)))

    async def end(self, commit: Commit | None) -> None:
        await _settled(self._raw.end(commit))


async def _settled(result: object) -> object:
    return await result if inspect.isawaitable(result) else result


class Face(ABC):
    """How a test works with one of the two faces."""

    def __init__(self) -> None:
        self._started: list[asyncio.Future[Any]] = []
        self._is_over = False

    @abstractmethod
    def open(self, place: Place, timeout: float) -> Subject:
        """Open a backend."""

    @abstractmethod
    def store(self, backend: Subject, name: str = "shop") -> AsyncStore:
        """Give a store, made where it is not there; its methods are awaited whichever face it has."""

    @abstractmethod
    def _start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]: ...

    def start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Run a coroutine function in a thread or task of its own; inside, wait by :meth:`sleep` only."""
        self._started.append(self._start(function))
        return self._started[-1]

    async def end(self) -> None:
        """Wait for what a failed test has left running; its backends are closed."""
        self._is_over = True
        if self._started:
            await asyncio.wait(self._started, timeout=10)
        for each in self._started:
            if not each.cancel() and not each.cancelled():
                each.exception()  # the test has seen it, or has failed itself

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait inside of :meth:`start`."""

    @abstractmethod
    async def watched(self, store: AsyncStore, **options: Any) -> list[Event]:
        """Give what a watcher of the store sees at once."""

    async def elsewhere(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function in a thread or task of its own, and give what it gives."""
        return await self.start(function)


class SyncFace(Face):
    """Backend and Store."""

    def open(self, place: Place, timeout: float) -> Subject:
        """Open a backend."""
        return Subject(place.open(timeout=timeout))

    def store(self, backend: Subject, name: str = "shop") -> AsyncStore:
        """Give a store whose methods are awaited."""
        return cast("AsyncStore", SyncStore(sync_store(cast("Backend", backend.raw), name)))

    def _start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        return asyncio.ensure_future(asyncio.to_thread(lambda: finish(function())))

    async def sleep(self, seconds: float) -> None:
        """Block the thread."""
        assert not self._is_over, "the test has ended"
        time.sleep(seconds)  # noqa: ASYNC251 - it is the thread that is meant to wait

    async def watched(self, store: AsyncStore, **options: Any) -> list[Event]:
        """Give what a watcher of the store sees at once."""
        return list(cast("SyncStore", store).target.watch(timeout=0, **options))


class AsyncFace(Face):
    """AsyncBackend and AsyncStore."""

    def open(self, place: Place, timeout: float) -> Subject:
        """Open a backend."""
        return Subject(place.open_async(timeout=timeout))

    def store(self, backend: Subject, name: str = "shop") -> AsyncStore:
        """Give a store."""
        raw = cast("AsyncBackend", backend.raw)
        return AsyncStore(raw, Handle(name, "ensure", Codec(), raw))

    def _start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        return asyncio.ensure_future(function())

    async def sleep(self, seconds: float) -> None:
        """Let the other tasks go on."""
        assert not self._is_over, "the test has ended"
        await asyncio.sleep(seconds)

    async def watched(self, store: AsyncStore, **options: Any) -> list[Event]:
        """Give what a watcher of the store sees at once."""
        async with store.watch(timeout=0, **options) as changes:
            return [event async for event in changes]


class SyncStore:
    """A sync store whose methods are awaited.

    Attributes:
        target: The store.
    """

    def __init__(self, target: Store) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        if not callable(found):
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            return _wrapped(found(*arguments, **options))

        return call

    async def contains(self, key: str) -> bool:
        """Call ``key in store``."""
        return key in self.target

    def domain(self, name: str, **options: Any) -> SyncStore:
        """Call the method of the same name, as do all below."""
        return SyncStore(self.target.domain(name, **options))

    def transaction(self, **options: Any) -> _Entered:
        """Enter it by ``async with``."""
        return _Entered(self.target.transaction(**options))

    def edit(self, *arguments: Any, **options: Any) -> _Entered:
        """Enter it by ``async with``."""
        return _Entered(self.target.edit(*arguments, **options))

    def lock(self, name: str, **options: Any) -> _Entered:
        """Enter it by ``async with``."""
        return _Entered(self.target.lock(name, **options))

    async def run(self, function: Callable[[SyncStore], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function."""
        return self.target.run(lambda view: finish(function(SyncStore(view))))

    async def items(self, *arguments: Any, **options: Any) -> AsyncIterator[tuple[str, Any]]:
        """List entries."""
        for item in self.target.items(*arguments, **options):
            yield item

    async def keys(self, *arguments: Any, **options: Any) -> AsyncIterator[str]:
        """List keys."""
        for key in self.target.keys(*arguments, **options):
            yield key

    async def values(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        """List values."""
        for value in self.target.values(*arguments, **options):
            yield value

    async def watch(self, **options: Any) -> AsyncIterator[Event]:
        """Follow the changes; blocks."""
        for event in self.target.watch(**options):
            yield event


class _Entered:
    """A sync context manager, entered by ``async with``."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        return _wrapped(self._context.__enter__())

    async def __aexit__(self, *details: object) -> Any:
        return self._context.__exit__(*details)


def _wrapped(result: Any) -> Any:
    return SyncStore(result) if isinstance(result, Store) else result


def sync_store(backend: Backend, name: str = "shop") -> Store:
    """Give a store of the sync face, made where it is not there."""
    return Store(backend, Handle(name, "ensure", Codec(), backend))


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never gives the thread away."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise AssertionError("a coroutine of the sync face waited")


async def collect(iterator: AsyncIterator[T]) -> list[T]:
    """Give all that an async iterator yields."""
    return [item async for item in iterator]
