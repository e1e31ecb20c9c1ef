"""Sources: the one way to the SQL databases that users register.

A batch of look-ups is split by source, and the sources are asked side by side: one connection each, one budget each, so
a database that hangs costs its own rows and nobody else's. What fails comes back as a value in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from actors.deadline import Deadline
from actors.egress import Guard
from actors.errors import GatherumError, InvalidInput, Overloaded, Refused, UnknownSource
from actors.messages import Lookup, Row, Source, SourceValue
from actors.sql.access import PORTS, check_fields, reaching
from actors.sql.mysql import MysqlEngine
from actors.sql.parsing import told
from actors.sql.plans import Advice, advise
from actors.sql.postgres import PostgresEngine
from actors.sql.running import Engine, Limits, Params, Result
from actors.sql.schema import Schema, Tested
from actors.sql.sqlite import SqliteReader
from actors.sql.sqlite_process import SqliteEngine
from actors.sql.vault import Vault
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


CHECK_S: Final = 5.0
"""Budget of a look at a server that is to be registered, s."""


class _Places:
    """The statements that run in one source, and those that wait for it."""

    def __init__(self, settings: SourcesSettings) -> None:
        self._free = asyncio.Semaphore(settings.max_concurrent)
        self._most = settings.max_waiting
        self._waiting = 0

    @asynccontextmanager
    async def taken(self, source: Source, deadline: Deadline) -> AsyncIterator[None]:
        """One of the places, while the block runs.

        Raises:
            Overloaded: too many wait already.
            DeadlineExceeded: none became free in time.
        """
        if self._free.locked() and self._waiting >= self._most:
            raise Overloaded(f"{self._most} statements wait for the source {source.name!r} already. Try again later.")
        self._waiting += 1
        try:
            await deadline.run(self._free.acquire(), f"Waiting for the source {source.name!r}")
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


class Sources:
    """All registered sources, whatever their kind.

    Args:
        settings: root folder, budget and limits.
        store_path: file of Gatherum's own store, if it is one; it is never a source.
        vault: where passwords come from; without it there are SQLite files only.
    """

    def __init__(self, settings: SourcesSettings, *, store_path: Path | None, vault: Vault | None = None) -> None:
        self._settings = settings
        sqlite = SqliteReader(settings, store_path=store_path)
        self._readers: Mapping[str, Reader] = {"sqlite": sqlite}
        self._engines: dict[str, Engine] = {"sqlite": SqliteEngine(sqlite.locate, keep=settings.max_concurrent)}
        if vault is not None:
            reach = reaching(Guard(settings.allow_hosts, ports=PORTS.values()), vault)
            self._engines["postgresql"] = PostgresEngine(reach, keep=settings.max_concurrent)
            self._engines["mysql"] = MysqlEngine(reach, keep=settings.max_concurrent)
        self._places: defaultdict[str, _Places] = defaultdict(lambda: _Places(settings))
        self._schemas: dict[Source, Schema] = {}
        self._reading: dict[Source, asyncio.Lock] = {}

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
            Overloaded: too many wait already.
        """
        async with self._places[source.name].taken(source, deadline):
            try:
                async with self._engine(source).run(source, sql, params, limits, deadline) as result:
                    yield result
            except (InvalidInput, Refused) as error:
                raise await told(error, sql, source.kind) from None

    async def explain(self, source: Source, sql: str, params: Params, deadline: Deadline) -> tuple[Any, list[Advice]]:
        """How a statement would be run, as its server says it and in plain words.

        Raises:
            GatherumError: as `query`.
        """
        schema = await self.schema(source, deadline)
        async with self._places[source.name].taken(source, deadline):
            try:
                plan = await self._engine(source).explain(source, sql, params, deadline)
            except (InvalidInput, Refused) as error:
                raise await told(error, sql, source.kind) from None
        return plan, advise(source.kind, plan, {table.name: table.rows for table in schema.tables})

    async def schema(self, source: Source, deadline: Deadline, *, refresh: bool = False) -> Schema:
        """The tables of a source, not older than `sources.schema_s`; `refresh` looks at them now.

        Raises:
            GatherumError: as `query`.
        """
        # One look serves all who ask meanwhile.
        async with self._reading.setdefault(source, asyncio.Lock()):
            known = self._schemas.get(source)
            if known is None or refresh or time.time() - known.at > self._settings.schema_s:
                samples = self._settings.samples if source.samples else 0
                async with self._places[source.name].taken(source, deadline):
                    found = await self._engine(source).schema(source, deadline, samples=samples)
                known = replace(found, at=time.time())
                for other in [each for each in self._schemas if each.name == source.name]:
                    del self._schemas[other]
                self._schemas[source] = known
        return known

    async def test(self, source: Source, deadline: Deadline) -> Tested:
        """What a new connection finds out: version, latency, and whether the user could write.

        Raises:
            GatherumError: as `query`.
        """
        async with self._places[source.name].taken(source, deadline):
            return await self._engine(source).test(source, deadline)

    def _engine(self, source: Source) -> Engine:
        engine = self._engines.get(source.kind)
        if engine is None:
            raise InvalidInput(f"Sources of the kind {source.kind!r} cannot be read here.")
        return engine

    async def check(self, source: Source) -> None:
        """Make sure that a source may be read and can be, before it is registered.

        Raises:
            Refused: it lies outside the allowed folder, is Gatherum's own store, or no folder is set.
            NotFound: there is no such file.
            InvalidInput: it is no database of its kind, or cannot be opened.
        """
        check_fields(source)
        reader = self._readers.get(source.kind)
        if reader is not None:
            await reader.check(source)
        else:
            await self.test(source, Deadline.after(CHECK_S))

    async def values(self, source: Source) -> list[SourceValue]:
        """The name-like values of a source: short distinct texts of columns that hold names.

        Numbers, dates, addresses, codes, categories and prose are left out. A column gives at most
        `sources.max_values` of them; one that cannot be read within `sources.timeout_s` gives none.

        Raises:
            GatherumError: as `check`.
        """
        reader = self._readers.get(source.kind)
        return [] if reader is None else await reader.values(source)

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
        reader = self._readers.get(source.kind)
        if reader is None:
            return [InvalidInput(f"Rows of the source {name!r} cannot be looked up by a value.")] * len(part)
        try:
            return await reader.rows(source, part, deadline.within(self._settings.timeout_s))
        except GatherumError as error:
            return [error] * len(part)
