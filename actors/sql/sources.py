"""Sources: the one way to the SQL databases that users register.

A batch of look-ups is split by source, and the sources are asked side by side: one connection each, one budget each, so
a database that hangs costs its own rows and nobody else's. What fails comes back as a value in its place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from actors.deadline import Deadline
from actors.errors import GatherumError, UnknownSource
from actors.messages import Lookup, Row, Source, SourceValue
from actors.sql.running import Engine, Limits, Params, Result
from actors.sql.sqlite import SqliteReader
from actors.sql.sqlite_process import SqliteEngine
from config.settings import SourcesSettings


class Reader(Protocol):
    """How one kind of database is read. No method of it can write."""

    async def check(self, source: Source) -> None:
        """Open the source and look at its schema.

        Raises:
            Refused: policy does not allow it.
            NotFound: it does not exist.
            InvalidInput: it is not what it claims to be.
        """

    async def values(self, source: Source) -> list[SourceValue]:
        """The values of the source that could be names in a question."""

    async def rows(
        self, source: Source, lookups: Sequence[Lookup], deadline: Deadline
    ) -> list[list[Row] | GatherumError]:
        """The rows of each look-up, or why there are none; raises if the source as a whole cannot be read."""


class Sources:
    """All registered sources, whatever their kind.

    Args:
        settings: root folder, budget and limits.
        store_path: file of Gatherum's own store, if it is one; it is never a source.
    """

    def __init__(self, settings: SourcesSettings, *, store_path: Path | None) -> None:
        self._settings = settings
        sqlite = SqliteReader(settings, store_path=store_path)
        self._readers: Mapping[str, Reader] = {"sqlite": sqlite}
        self._engines: Mapping[str, Engine] = {"sqlite": SqliteEngine(sqlite.locate)}
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(settings.max_concurrent)
        )

    async def close(self) -> None:
        """End what runs, and every connection."""
        for engine in self._engines.values():
            await engine.close()

    @asynccontextmanager
    async def query(
        self, source: Source, sql: str, params: Params, limits: Limits, deadline: Deadline
    ) -> AsyncIterator[Result]:
        """Run one statement, guarded: whatever it says, it can only read. It ends when the block is left.

            async with sources.query(source, sql, {"id": 1}, Limits(rows=50, bytes=1_000_000), deadline) as result:
                async for batch in result.batches: ...

        Args:
            source: where.
            sql: a single SELECT, with parameters as `:name`.
            params: their values; bound, never written into the statement.
            limits: how much is wanted.
            deadline: of all of it, the wait for one of the source's `sources.max_concurrent` places included.

        Raises:
            GatherumError: see `Engine.run`. Also while the batches are read.
        """
        slot = self._slots[source.name]
        await deadline.run(slot.acquire(), f"Waiting for the source {source.name!r}")
        try:
            async with self._engines[source.kind].run(source, sql, params, limits, deadline) as result:
                yield result
        finally:
            slot.release()

    async def check(self, source: Source) -> None:
        """Make sure that a source may be read and can be, before it is registered.

        Raises:
            Refused: it lies outside the allowed folder, is Gatherum's own store, or no folder is set.
            NotFound: there is no such file.
            InvalidInput: it is no database of its kind, or cannot be opened.
        """
        await self._readers[source.kind].check(source)

    async def values(self, source: Source) -> list[SourceValue]:
        """The name-like values of a source: short distinct texts of columns that hold names.

        Numbers, dates, addresses, codes, categories and prose are left out. A column gives at most
        `sources.max_values` of them; one that cannot be read within `sources.timeout_s` gives none.

        Raises:
            GatherumError: as `check`.
        """
        return await self._readers[source.kind].values(source)

    async def lookup_many(
        self, sources: Mapping[str, Source], lookups: Sequence[Lookup], deadline: Deadline
    ) -> list[list[Row] | GatherumError]:
        """Answer look-ups, in order; each has its rows (at most `sources.max_rows`) or the error that kept them back.

        Args:
            sources: the registered sources, by name.
            lookups: may name several sources; equal ones are asked once.
            deadline: of the whole batch. A source also has no more than `sources.timeout_s`.
        """
        wanted: dict[str, list[Lookup]] = {}
        for lookup in dict.fromkeys(lookups):
            wanted.setdefault(lookup.source, []).append(lookup)
        found: dict[Lookup, list[Row] | GatherumError] = {}

        async def ask(name: str, part: list[Lookup]) -> None:
            found.update(zip(part, await self._rows(name, sources.get(name), part, deadline), strict=True))

        async with asyncio.TaskGroup() as group:
            for name, part in wanted.items():
                group.create_task(ask(name, part))
        return [found[lookup] for lookup in lookups]

    async def _rows(
        self, name: str, source: Source | None, part: list[Lookup], deadline: Deadline
    ) -> list[list[Row] | GatherumError]:
        if source is None:
            return [UnknownSource(f"There is no source {name!r}.")] * len(part)
        try:
            return await self._readers[source.kind].rows(source, part, deadline.within(self._settings.timeout_s))
        except GatherumError as error:
            return [error] * len(part)
