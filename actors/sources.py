"""SqlSources: the part of the database role that keeps the registered SQL databases, and finds evidence in them."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from actors.deadline import Deadline
from actors.errors import GatherumError, Unavailable
from actors.messages import (
    Change,
    Evidence,
    LinkedEntity,
    Lookup,
    LookupCall,
    Source,
    SourceValue,
    StoredLookup,
)
from actors.sql.evidence import Finder, few_at_once
from actors.sql.lookups import call as lookup_call
from actors.sql.model import Model
from actors.sql.sources import Sources
from actors.store import changes, documents, lookups, sources
from actors.units import Units, bounded


class SqlSources(Units):
    """Registered databases, the lookups stored for them, and what questions find there."""

    _sources: Sources
    _finder: Finder
    _model: Model | None

    async def add_source(self, source: Source, *, deadline: Deadline) -> None:
        """Register an SQL database, after a look whether it can be read. The very same one again is no error.

        Raises:
            InvalidInput: not a name.
            Conflict: another source has the name.
            GatherumError: what `Sources.check` found wrong with it.
        """
        documents.check_name(source.name, "source")
        await deadline.run(self._sources.check(source), "checking a source")
        await self._write(partial(sources.add, source=source), deadline, "registering a source", repeatable=True)
        self._tell()

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        """The registered sources, by name."""
        return await self._read(sources.every, deadline, "listing sources")

    async def remove_source(self, name: str, *, deadline: Deadline) -> None:
        """Forget a source; its database is not touched.

        Raises:
            UnknownSource: there is none of this name.
        """
        await self._write(partial(sources.remove, name=name), deadline, "removing a source")
        self._tell()

    async def refresh_source(self, name: str, *, deadline: Deadline) -> None:
        """Have the names in a source read again, soon, instead of when their time comes.

        Raises:
            UnknownSource: there is none of this name.
        """

        async def work(connection: AsyncConnection, now: float) -> None:
            await sources.find(connection, name)
            await changes.draw(connection, now, Change(0, "sources", collection=name))

        await self._write(work, deadline, "refreshing a source", repeatable=True)
        self._tell()

    async def source_values(self, name: str, *, deadline: Deadline) -> list[SourceValue]:
        """The name-like values of a source.

        Raises:
            UnknownSource: there is none of this name.
        """
        source = await self._read(partial(sources.find, name=name), deadline, "finding a source")
        return await deadline.run(self._finder.values(source), "reading a source")

    async def evidence_many(
        self, name: str, wanted: list[Lookup | LookupCall], *, deadline: Deadline
    ) -> list[Evidence | GatherumError]:
        """The rows for each of what is wanted from one source, or what went wrong with it, in order.

        Raises:
            UnknownSource: there is none of this name.
        """

        async def work(connection: AsyncConnection) -> tuple[Source, list[StoredLookup]]:
            return await sources.find(connection, name), await lookups.of(connection, name)

        source, stored = await self._read(work, deadline, "finding a source")
        return await self._finder.find_many(source, wanted, {lookup.name: lookup for lookup in stored}, deadline)

    async def write_sql_many(
        self, asked: list[tuple[str, tuple[LinkedEntity, ...], tuple[str, ...] | None]], *, deadline: Deadline
    ) -> list[Evidence | GatherumError]:
        """The rows of the statements that a language model writes for questions, or what went wrong, in order.

        Args:
            asked: questions, each with the names in it and the sources that it may ask (None for all).
            deadline: of them all.

        Raises:
            Unavailable: there is no language model.
        """
        model = self._model
        if model is None:
            raise Unavailable("No language model is configured.")
        every = await self.sources(deadline=deadline)

        async def one(
            question: tuple[str, tuple[LinkedEntity, ...], tuple[str, ...] | None],
        ) -> Evidence | GatherumError:
            text, names, may = question
            allowed = [source for source in every if may is None or source.name in may]
            try:
                return await self._finder.write(model, text, names, allowed, deadline)
            except GatherumError as error:
                return error

        return await few_at_once(one, asked)

    # --- lookups -----------------------------------------------------------------------------------------------------

    async def add_lookup(self, lookup: StoredLookup, *, deadline: Deadline) -> None:
        """Store a lookup, after its source has taken its statement. The very same one again is no error.

        Raises:
            UnknownSource: its source is not registered.
            InvalidInput: it is not sound, or the source does not take its statement.
            Refused: its statement would do more than read.
            Conflict: another lookup of the source has the name.
        """
        source = await self._read(partial(sources.find, name=lookup.source), deadline, "finding a source")
        await self._finder.check(source, lookup, deadline)
        await self._write(partial(lookups.add, lookup=lookup), deadline, "storing a lookup", repeatable=True)
        self._tell()

    async def lookups(self, source: str | None = None, *, deadline: Deadline) -> list[StoredLookup]:
        """The stored lookups, of one source or of all, by source and name.

        Raises:
            UnknownSource: there is none of this name.
        """
        work = lookups.every if source is None else partial(lookups.of, source=source)
        return await self._read(work, deadline, "listing lookups")

    async def remove_lookup(self, source: str, name: str, *, deadline: Deadline) -> None:
        """Forget a lookup.

        Raises:
            UnknownLookup: the source has none of this name.
        """
        await self._write(partial(lookups.remove, source=source, name=name), deadline, "removing a lookup")
        self._tell()

    async def run_lookup(
        self, source: str, name: str, arguments: dict[str, Any], limit: int, *, deadline: Deadline
    ) -> Evidence:
        """Run a stored lookup; at most `limit` rows.

        Raises:
            UnknownSource, UnknownLookup: there is none of this name.
            InvalidInput: an argument is missing, unknown or of the wrong type.
            GatherumError: what the source said.
        """

        async def work(connection: AsyncConnection) -> tuple[Source, StoredLookup]:
            return await sources.find(connection, source), await lookups.find(connection, source, name)

        found, lookup = await self._read(work, deadline, "finding a lookup")
        return await self._finder.run(found, lookup, lookup_call(lookup, arguments), bounded(limit), deadline)
