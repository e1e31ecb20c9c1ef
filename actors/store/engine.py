"""Units of work over the store: a transaction for reading, or one for writing, tried again where that does no harm.

Callers wait for a free connection here, not at the database: SQLite lets one writer in at a time, and its own way of
waiting is to sleep and try again, unfairly, in a blocked thread. A unit that has begun is never cancelled inside a
statement. SQLite's driver would go on with the statement in its thread, and a connection dropped in that state was seen
to keep the write lock until the garbage collector came by; a server cut off would have to be connected to again.

What happens to a transaction that fails is certain until its COMMIT is sent: nothing. So after a deadlock, or when the
connection was lost, any unit is run again. If the connection is lost *during* the COMMIT nobody knows whether it came
through. Then only a unit that is *repeatable* is run again: one that finds out for itself, by reading back the id or
the fence that it wrote, and gives the answer that the first run would have given.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Unavailable
from actors.store import dialect, faults
from config import logs
from config.settings import DatabaseSettings

T = TypeVar("T")

_NOW = select(dialect.clock())

PAUSE_S = 0.02
"""Pause before the second try, s; it doubles up to `LONGEST_PAUSE_S`, and chance takes up to half of it away."""
LONGEST_PAUSE_S = 1.0

GRACE_S = 5.0
"""How long a caller that has gone away waits for a server to end the statement under way, s."""


@dataclass(slots=True)
class _Run:
    """One run of a unit.

    Attributes:
        abandoned: set when the caller has gone away.
        committing: whether the COMMIT may have been sent.
    """

    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    committing: bool = False


class Store:
    """An open database.

    Args:
        url: from `dialect.parse_url`.
        settings: the database's section.
        sleep: how to wait before another try.
        clock: monotonic, s.
    """

    def __init__(
        self,
        url: URL,
        settings: DatabaseSettings,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        writers = dialect.writers(url, settings)
        # Pools of their own, or a crowd of readers could keep the one writer from its connection.
        self._readers = dialect.create_engine(url, settings, write=False, connections=settings.readers)
        self._writers = dialect.create_engine(url, settings, write=True, connections=writers)
        self._may_read = asyncio.Semaphore(settings.readers)
        self._may_write = asyncio.Semaphore(writers)
        self._retry_s = settings.retry_s
        self._grace_s = GRACE_S if dialect.interruptible(url) else None
        self._sleep = sleep
        self._clock = clock
        self._dice = random.Random()  # noqa: S311 -- for jitter

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction that sees one state of the store, however many statements it takes.

        Raises:
            Unavailable: the database cannot be reached or is busy, and was so for `database.retry_s`.
        """

        async def unit(run: _Run) -> T:
            async with self._readers.connect() as connection, connection.begin():
                return await work(connection)

        return await self._until_it_ends(unit, self._may_read, repeatable=True, budget_s=self._retry_s)

    async def write(self, work: Callable[[AsyncConnection, float], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Run `work` in a transaction that may write, with the database's clock at its begin; commit if it ends well.

        Cancelled before the commit has begun, it changes nothing.

        Args:
            work: it may be run several times, so all its effects are in the transaction.
            repeatable: run again after it was committed, it changes nothing and gives the same answer.

        Raises:
            Unavailable: the database cannot be reached or is busy, and was so for `database.retry_s`; or the unit is
                not repeatable, and the connection was lost during the commit, whose outcome is unknown.
        """

        async def unit(run: _Run) -> T:
            async with self._writers.connect() as connection, connection.begin() as transaction:
                result = await work(connection, await now(connection))
                if run.abandoned.is_set():
                    raise asyncio.CancelledError
                run.committing = True
                await transaction.commit()
            return result

        return await self._until_it_ends(unit, self._may_write, repeatable=repeatable, budget_s=self._retry_s)

    async def ping(self) -> float:
        """How long the database takes to answer on a connection that is open, ms. Tried once.

        Raises:
            Unavailable: it cannot be reached or is busy.
        """

        async def unit(_: _Run) -> float:
            async with self._readers.connect() as connection, connection.begin():
                await now(connection)  # opens the transaction, and the connection if need be
                began = time.perf_counter()
                await now(connection)
                return (time.perf_counter() - began) * 1000

        return await self._until_it_ends(unit, self._may_read, repeatable=True, budget_s=0.0)

    async def close(self) -> None:
        """Close every connection."""
        await self._readers.dispose()
        await self._writers.dispose()

    async def _until_it_ends(
        self,
        unit: Callable[[_Run], Awaitable[T]],
        gate: asyncio.Semaphore,
        *,
        repeatable: bool,
        budget_s: float,
    ) -> T:
        """Run a unit, and run it again after errors that pass, while that can do no harm and the budget lasts."""
        give_up = self._clock() + budget_s
        attempt = 0
        while True:
            attempt += 1
            run = _Run()
            try:
                async with gate:
                    return await self._undisturbed(unit, run)
            except faults.ERRORS as error:
                fault = faults.fault_of(error)
                unknown = run.committing and fault is faults.Fault.LOST
                pause = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(attempt - 1, 30)) * self._dice.uniform(0.5, 1.0)
                again = fault in faults.TRANSIENT and (repeatable or not unknown) and self._clock() + pause < give_up
                _report(error, fault, attempt=attempt, again=again, outcome="unknown" if unknown else "none")
                if not again:
                    raise _told(error, unknown=unknown) from None
            await self._sleep(pause)

    async def _undisturbed(self, unit: Callable[[_Run], Awaitable[T]], run: _Run) -> T:
        """Run a unit to its end; a caller that is cancelled meanwhile stays until then, and the unit is told."""
        task = asyncio.ensure_future(unit(run))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            run.abandoned.set()
            await asyncio.wait((task,), timeout=self._grace_s)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # retrieved; nobody is there to hear of it
            raise


async def now(connection: AsyncConnection) -> float:
    """The database's clock, seconds since the epoch."""
    return float((await connection.execute(_NOW)).scalar_one())


def _told(error: BaseException, *, unknown: bool) -> Exception:
    if unknown:
        return Unavailable(
            "The connection to the database was lost while the change was being committed: whether it was made is "
            "unknown. Look, and repeat it if it was not."
        )
    return faults.translation(error)


def _report(error: BaseException, fault: faults.Fault, *, attempt: int, again: bool, outcome: str) -> None:
    log: Any = logs.get()
    report = partial(log.warning, "store_retries") if again else partial(log.error, "store_failed")
    if not again and fault is faults.Fault.TAKEN:
        report = partial(log.warning, "store_conflict")
    report(
        kind=type(error).__name__, fault=fault.name.lower(), error=faults.said(error), attempt=attempt, commit=outcome
    )
