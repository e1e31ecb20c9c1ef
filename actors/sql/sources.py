"""Sources: the one way to the SQL databases that users register.

Each source has so many places for statements and no more, so a database that hangs costs those that ask it, and nobody
else.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from actors.deadline import Deadline
from actors.egress import Guard
from actors.errors import InvalidInput, Overloaded, Refused
from actors.messages import Source
from actors.sql.access import PORTS, Own, check_fields, reaching
from actors.sql.mysql import MysqlEngine
from actors.sql.parsing import told
from actors.sql.plans import Advice, advise
from actors.sql.postgres import PostgresEngine
from actors.sql.running import Engine, Limits, Params, Result
from actors.sql.schema import Schema, Tested
from actors.sql.sqlite import SqliteFiles
from actors.sql.sqlite_process import SqliteEngine
from actors.sql.vault import Vault
from config.settings import SourcesSettings

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
        if not self._free.locked():
            await self._free.acquire()
        elif self._waiting >= self._most:
            raise Overloaded(f"{self._most} statements wait for the source {source.name!r} already. Try again later.")
        else:
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
        own: where Gatherum's own store is; it is never a source.
        vault: where passwords come from; without it there are SQLite files only.
    """

    def __init__(self, settings: SourcesSettings, *, own: Own, vault: Vault | None = None) -> None:
        self._settings = settings
        files = SqliteFiles(settings, store_path=own.file)
        self._engines: dict[str, Engine] = {"sqlite": SqliteEngine(files.locate, keep=settings.max_concurrent)}
        if vault is not None:
            reach = reaching(Guard(settings.allow_hosts, ports=PORTS.values()), vault, own)
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
        known = self._schemas.get(source)
        if known is not None and not refresh and self._is_fresh(known):
            return known
        # One look serves all who ask meanwhile.
        lock = self._reading.setdefault(source, asyncio.Lock())
        await deadline.run(lock.acquire(), f"Waiting for the tables of the source {source.name!r}")
        try:
            known = self._schemas.get(source)
            if known is None or refresh or not self._is_fresh(known):
                samples = self._settings.samples if source.samples else 0
                async with self._places[source.name].taken(source, deadline):
                    found = await self._engine(source).schema(source, deadline, samples=samples)
                known = replace(found, at=time.time())
                for other in [each for each in self._schemas if each.name == source.name]:
                    del self._schemas[other]
                self._schemas[source] = known
        finally:
            lock.release()
        return known

    def _is_fresh(self, known: Schema) -> bool:
        return time.time() - known.at <= self._settings.schema_s

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
        await self.test(source, Deadline.after(CHECK_S))
