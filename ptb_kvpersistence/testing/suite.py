"""What all test classes of the suite have: their fixtures, and how a declared limit skips a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import pytest
import pytest_asyncio

from ptb_kvpersistence.model import Changes, Commit, OpenStore, Put
from ptb_kvpersistence.testing.faces import AsyncFace, Face, Subject, SyncFace, sync_store
from ptb_kvpersistence.testing.place import GUARANTEES, Place, Witness

if TYPE_CHECKING:
    from ptb_kvpersistence.store.aio import AsyncStore
    from ptb_kvpersistence.store.sync import Store

F = TypeVar("F", bound=Callable[..., Any])

Head = Callable[[], Awaitable[int]]
"""Reads a store's highest version."""


class Connect(Protocol):
    """Opens another backend of the face under test; it is closed at the end of the test."""

    def __call__(self, timeout: float = 5.0) -> Subject:
        """Open it, with a default deadline of ``timeout`` seconds."""
        ...


class Write(Protocol):
    """Writes values in one commit, and gives their versions."""

    def __call__(self, domain: str = "d", **values: bytes) -> Awaitable[tuple[int, ...]]:
        """Write values under the names of the arguments."""
        ...


def proves(guarantee: str) -> Callable[[F], F]:
    """Say that a test is about another guarantee than its class."""

    def mark(test: F) -> F:
        test.__guarantee__ = guarantee  # type: ignore[attr-defined]
        return test

    return mark


def guarantee_of(suite: type, test: str) -> str:
    """Tell which guarantee a test is about: its own word, or that of the class it was written in."""
    written_in = next(each for each in suite.__mro__ if test in vars(each))
    return str(getattr(vars(written_in)[test], "__guarantee__", None) or vars(written_in)["guarantee"])


on_sync_face = pytest.mark.parametrize("face", ["sync"], indirect=True)
"""For a test about the sync face alone; on tests, since marks of classes would go over to the whole contract."""

on_async_face = pytest.mark.parametrize("face", ["async"], indirect=True)
"""For a test about the async face alone."""


@pytest.mark.asyncio
class Suite:
    """Base of all test classes.

    Attributes:
        guarantee: Which of the guarantees the tests of the class are about.
    """

    guarantee: ClassVar[str]

    def make_place(self, folder: Path) -> Place:
        """Make a place with an empty database; ``folder`` is an empty folder of the test's own."""
        raise NotImplementedError("give the test class a make_place(self, folder) that makes your Place")

    @pytest.fixture
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        """One empty database."""
        place = self.make_place(tmp_path)
        try:
            unknown = set(place.limits) - set(GUARANTEES)
            assert not unknown, f"limits take the names of guarantees, these are none: {sorted(unknown)}"
            guarantee = guarantee_of(type(self), request.node.originalname)
            if guarantee in place.limits:
                pytest.skip(f"declared limit, {guarantee}: {place.limits[guarantee]}")
            yield place
        finally:
            place.close()

    @pytest.fixture(params=["sync", "async"])
    def face(self, request: pytest.FixtureRequest) -> Face:
        """Both of them, one after the other."""
        return SyncFace() if request.param == "sync" else AsyncFace()

    @pytest_asyncio.fixture
    async def connect(self, place: Place, face: Face) -> AsyncIterator[Connect]:
        """Open backends of the face under test."""
        opened: list[Subject] = []

        def open_(timeout: float = 5.0) -> Subject:
            opened.append(face.open(place, timeout))
            return opened[-1]

        yield open_
        for subject in opened:
            await subject.close()
        await face.end()

    @pytest_asyncio.fixture
    async def backend(self, connect: Connect) -> Subject:
        """The backend under test."""
        return connect()

    @pytest_asyncio.fixture
    async def store(self, backend: Subject) -> int:
        """The id of a new store, named "shop"."""
        return (await backend.perform(OpenStore("shop", "create"))).id

    @pytest.fixture
    def witness(self, place: Place, store: int) -> Witness:
        """Who sees what is stored."""
        assert store
        return place.witness()

    @pytest.fixture
    def put(self, backend: Subject, store: int) -> Write:
        """Write to the store."""

        async def write(domain: str = "d", **values: bytes) -> tuple[int, ...]:
            puts = tuple(Put(domain, key, value) for key, value in values.items())
            return (await backend.perform(Commit(store, puts))).versions

        return write

    @pytest.fixture
    def head(self, backend: Subject, store: int) -> Head:
        """Read the store's highest version."""

        async def read() -> int:
            return (await backend.perform(Changes(store, 0))).head

        return read

    @pytest_asyncio.fixture
    async def shop(self, face: Face, backend: Subject) -> AsyncStore:
        """A store whose methods are awaited, whichever face it has."""
        store = face.store(backend)
        await store.count()
        return store

    @pytest.fixture
    def rival(self, place: Place, shop: AsyncStore) -> Any:
        """The same store by a sync backend of its own, to be used where nothing is locked."""
        backend = place.open()
        store: Store = sync_store(backend, shop.name)
        yield store
        backend.close()
