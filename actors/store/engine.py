"""Units of work over the store: a transaction for reading, or one for writing.

Callers wait for a free connection here, not at the database: SQLite lets one writer in at a time, and its own way of
waiting is to sleep and try again, unfairly, in a blocked thread. A unit that has begun is never cancelled inside a
statement. The driver's thread would go on with the statement, and a connection dropped in that state was seen to keep
SQLite's write lock until the garbage collector came by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import URL, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.store import dialect

T = TypeVar("T")

READERS = 4
"""Connections for reading. Each has a thread; more than a few of them only compete for the interpreter lock."""


class Store:
    """An open database."""

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        writers = dialect.writers(url)
        # Pools of their own, or a crowd of readers could keep the one writer from its connection.
        self._readers = dialect.create_engine(url, busy_timeout_s=busy_timeout_s, connections=READERS)
        self._writers = dialect.create_engine(url, busy_timeout_s=busy_timeout_s, connections=writers)
        self._may_read = asyncio.Semaphore(READERS)
        self._may_write = asyncio.Semaphore(writers)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction that sees one state of the store, however many statements it takes.

        Raises:
            Unavailable: the database cannot be reached or is busy.
        """

        async def unit(_: asyncio.Event) -> T:
            async with self._readers.connect() as connection, connection.begin():
                return await work(connection)

        with dialect.translated():
            async with self._may_read:
                return await _undisturbed(unit)

    async def write(self, work: Callable[[AsyncConnection, float], Awaitable[T]]) -> T:
        """Run `work` in a transaction that may write, with the database's clock at its begin; commit if it ends well.

        Cancelled before the commit has begun, it changes nothing.

        Raises:
            Unavailable: the database cannot be reached or is busy. If that happens during the commit, the outcome is
                unknown: read it back, or repeat a call that may be repeated.
        """

        async def unit(abandoned: asyncio.Event) -> T:
            async with dialect.writing(self._writers).begin() as connection:
                result = await work(connection, await now(connection))
                if abandoned.is_set():
                    raise asyncio.CancelledError
            return result

        with dialect.translated():
            async with self._may_write:
                return await _undisturbed(unit)

    async def close(self) -> None:
        """Close every connection."""
        await self._readers.dispose()
        await self._writers.dispose()


async def now(connection: AsyncConnection) -> float:
    """The database's clock, seconds since the epoch."""
    return float((await connection.execute(select(dialect.clock()))).scalar_one())


async def _undisturbed(unit: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run a unit to its end; a caller that is cancelled meanwhile stays until then, and the unit is told."""
    abandoned = asyncio.Event()
    task = asyncio.create_task(unit(abandoned))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        abandoned.set()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # retrieved; nobody is there to hear of it
        raise
