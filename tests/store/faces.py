"""The sync face, called as if it were the async one, so that a test is written once for both; no tests here."""

from __future__ import annotations

from ptb_kvpersistence.store.sync import Store


class Sync:
    """A sync store or database whose methods are awaited."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        method = getattr(self.target, name)

        async def call(*arguments, **options):
            return _wrapped(method(*arguments, **options))

        return call

    @property
    def scope(self):
        return self.target.scope

    @property
    def backend(self):
        return self.target.backend

    async def contains(self, key):
        return key in self.target

    def domain(self, name, **options):
        return Sync(self.target.domain(name, **options))

    def transaction(self, **options):
        return _Entered(self.target.transaction(**options))

    def edit(self, *arguments, **options):
        return _Entered(self.target.edit(*arguments, **options))

    async def run(self, function):
        return self.target.run(lambda view: finish(function(Sync(view))))

    async def items(self, *arguments, **options):
        for item in self.target.items(*arguments, **options):
            yield item

    async def keys(self, *arguments, **options):
        for key in self.target.keys(*arguments, **options):
            yield key

    async def values(self, *arguments, **options):
        for value in self.target.values(*arguments, **options):
            yield value


class _Entered:
    """A sync context manager, entered by ``async with``."""

    def __init__(self, context):
        self._context = context

    async def __aenter__(self):
        return _wrapped(self._context.__enter__())

    async def __aexit__(self, *details):
        return self._context.__exit__(*details)


def _wrapped(result):
    return Sync(result) if isinstance(result, Store) else result


def finish(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    message = "it waited"
    raise AssertionError(message)


async def collect(iterator):
    """Give all that an async iterator yields."""
    return [item async for item in iterator]
