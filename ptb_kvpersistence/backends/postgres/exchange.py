"""One round trip: statements go out together, their rows come back together.

psycopg's own pipeline writes and waits once for each statement; here all is written at once, and waited for once. No
I/O of its own: a generator as psycopg's are, which the connections of both faces drive.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from collections.abc import Generator

    from psycopg import abc
    from psycopg.pq.abc import PGconn, PGresult

    Statement = tuple[str, tuple[Any, ...]]
    """What to run, with its parameters; ``%s`` stands for one."""
    Rows = list[tuple[Any, ...]]

PREPARED_FROM: Final = 5
"""How often a statement is sent before the server is asked to remember it."""
PREPARED_MOST: Final = 200
"""How many statements a connection has remembered at most."""
_GOOD: Final = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_FORGOTTEN: Final = {"26000", "0A000"}
"""What the server says where it does not remember a statement, or has changed what that means."""


class Memory:
    """What the server remembers of one connection's statements.

    Attributes:
        is_used: False through a pooler, where the next statement may meet another server process.
    """

    def __init__(self) -> None:
        self.is_used = False
        self._names: dict[Any, bytes] = {}
        self._counts: dict[Any, int] = {}
        self._last = 0

    def find(self, key: Any) -> tuple[bytes | None, bool]:
        """Give a statement's name, None where it has none, and whether it is to be prepared now."""
        name = self._names.get(key)
        if name is not None or not self.is_used or len(self._counts) > PREPARED_MOST:
            return name, False
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count < PREPARED_FROM:
            return None, False
        self._last += 1
        return b"kv_%d" % self._last, True

    def add(self, key: Any, name: bytes) -> None:
        """Note that the server has prepared a statement."""
        self._names[key] = name

    def clear(self) -> None:
        """Have everything prepared anew."""
        self._names.clear()


@lru_cache(maxsize=512)
def _numbered(statement: str) -> bytes:
    """Number the parameters, as the server wants them."""
    numbers = count(1)
    return re.sub("%([%s])", lambda found: "%" if found[1] == "%" else f"${next(numbers)}", statement).encode()


def exchange(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], memory: Memory, statements: list[Statement]
) -> Generator[Any, Any, list[Rows]]:
    """Run statements; gives the rows of each.

    Raises:
        psycopg.Error: What the first one that failed gave; those after it were not run.
    """
    pgconn, transformer = connection.pgconn, Transformer(connection)
    # All before anything is sent: a parameter that cannot be sent must not leave half of it in the pipeline.
    dumped = [(statement, _dumped(transformer, parameters)) for statement, parameters in statements]
    pgconn.enter_pipeline_mode()
    sent: list[tuple[Any, bytes] | None] = []
    for statement, (values, types, formats) in dumped:
        name, is_new = memory.find(key := (statement, types))
        if name is None:
            pgconn.send_query_params(_numbered(statement), values, types, formats)
        else:
            if is_new:
                pgconn.send_prepare(name, _numbered(statement), types)
                sent.append((key, name))
            pgconn.send_query_prepared(name, values, formats)
        sent.append(None)
    pgconn.pipeline_sync()
    yield from send(pgconn)
    results: list[PGresult] = []
    try:
        while (result := (yield from _next_result(pgconn))).status != ExecStatus.PIPELINE_SYNC:
            results.append(result)
    except psycopg.Error as error:
        # Before it closes a connection the server says why.
        raise _failure(results, memory) or error from None
    pgconn.exit_pipeline_mode()
    for prepared, result in zip(sent, results, strict=False):
        if prepared is not None and result.status == ExecStatus.COMMAND_OK:
            memory.add(*prepared)
    if (failure := _failure(results, memory)) is not None:
        raise failure
    answers = [result for result, prepared in zip(results, sent, strict=True) if prepared is None]
    return [_rows(transformer, answer) for answer in answers]


def _next_result(pgconn: PGconn) -> Generator[Any, Any, PGresult]:
    found: list[PGresult] = yield from fetch_many(pgconn)
    if not found:
        message = "the connection was closed"
        raise psycopg.OperationalError(message)
    return found[0]


def _dumped(transformer: abc.Transformer, parameters: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    if not parameters:
        return None, None, None
    values = transformer.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
    return values, transformer.types, transformer.formats


def _failure(results: list[PGresult], memory: Memory) -> psycopg.Error | None:
    for result in results:
        if result.status not in _GOOD:
            failure = error_from_result(result)
            if failure.sqlstate in _FORGOTTEN:
                memory.clear()
            return failure
    return None


def _rows(transformer: abc.Transformer, result: PGresult) -> Rows:
    if not result.nfields:
        return []
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
