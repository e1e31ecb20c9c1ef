"""Units: how a role works in the store: a unit of reading or writing at a time, within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from actors.deadline import Deadline
from actors.errors import InvalidInput, Unavailable
from actors.store.engine import Store
from config.settings import DatabaseSettings

T = TypeVar("T")


class Units:
    """What the parts of the database role share.

    Args:
        settings: its section.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._opened: Store | None = None
        # Set, and replaced by a new one, whenever this process has committed a change.
        self._news = asyncio.Event()

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise Unavailable("The store is not open yet; try again.")
        return self._opened

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]], deadline: Deadline, what: str) -> T:
        deadline.check(what)
        return await self._within(self._store.read(work), deadline, what)

    async def _write(
        self,
        work: Callable[[AsyncConnection, float], Awaitable[T]],
        deadline: Deadline,
        what: str,
        *,
        repeatable: bool = False,
    ) -> T:
        deadline.check(what)
        return await self._within(self._store.write(work, repeatable=repeatable), deadline, what)

    async def _within(self, unit: Awaitable[T], deadline: Deadline, what: str) -> T:
        return await deadline.within(self._settings.statement_timeout_s).run(unit, what[0].upper() + what[1:])

    def _tell(self) -> None:
        """Wake those that wait for changes."""
        news, self._news = self._news, asyncio.Event()
        news.set()


def bounded(limit: int) -> int:
    """A limit that a caller gave.

    Raises:
        InvalidInput: it is none.
    """
    if limit < 1:
        raise InvalidInput("The limit must be at least 1.")
    return limit
