"""Evidence: the names that sources hold, and the rows that questions call for.

Everything here goes through `Sources.query`, the one way to run a statement, so a source of any kind is read under the
same fences as a statement that a user wrote. A source is given its own time, and what fails comes back as a value in
its place; one that keeps failing is left alone for a while (`breaker.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from actors.breaker import Breaker
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, UnknownLookup
from actors.messages import Evidence, LinkedEntity, Lookup, LookupCall, Row, RowKind, Source, SourceValue, StoredLookup
from actors.sql import links, lookups
from actors.sql.guard import is_name_column
from actors.sql.model import Model, blamed, fitting, messages, statement
from actors.sql.running import Limits
from actors.sql.sources import Sources
from config import logs
from config.settings import SourcesSettings

A = TypeVar("A")
B = TypeVar("B")

SIDE_BY_SIDE: Final = 4
"""Statements run at once in one source for one batch of questions, or sources looked at for one question."""

VALUES_BUDGET: Final = 10
"""Reading the names of a whole source may take this many times the budget of a look-up."""

MAX_BYTES: Final = 4_000_000
"""Most bytes of the rows of one statement for evidence. Cells are cut besides."""

MAX_NAMES_BYTES: Final = 64_000_000

FRESH_S: Final = 2.0
"""What a schema is younger than need not be looked at again because a table or column is missing, s."""

FAIR: Final = 0.9
"""Share of a source's time that a call must have for its being late to count against the source."""


async def few_at_once(work: Callable[[A], Awaitable[B]], items: Sequence[A], most: int = SIDE_BY_SIDE) -> list[B]:
    """What comes of each item, in order, of which no more than so many are worked on at once."""
    found: dict[int, B] = {}
    places = iter(range(len(items)))

    async def some() -> None:
        for place in places:
            found[place] = await work(items[place])

    async with asyncio.TaskGroup() as group:
        for _ in range(min(most, len(items))):
            group.create_task(some())
    return [found[place] for place in range(len(items))]


class Finder:
    """Finds evidence in sources.

    Args:
        settings: limits, and which columns are left out.
        sources: runs the statements.
    """

    def __init__(self, settings: SourcesSettings, sources: Sources) -> None:
        self._settings = settings
        self._sources = sources
        self._breakers: dict[str, Breaker] = {}

    # --- names ---

    async def values(self, source: Source) -> list[SourceValue]:
        """The name-like values of a source: short distinct texts of columns that hold names.

        Numbers, dates, addresses, codes, categories and prose are left out, and the columns that settings or the
        registration exclude. A column gives at most `sources.max_values` of them, a source `sources.max_names`; a
        column that cannot be read within `sources.timeout_s` gives none.

        Raises:
            GatherumError: the source cannot be read.
        """
        if self._settings.max_values == 0:
            return []
        found: list[SourceValue] = []
        stop = Deadline.after(self._settings.timeout_s * VALUES_BUDGET)
        exclude = self._excluded(source)
        for table in (await self._tables(source, stop, refresh=True)).values():
            for column in links.text_columns(source.kind, table, exclude):
                most = min(self._settings.max_values, self._settings.max_names - len(found))
                if most <= 0:
                    logs.get().warning("source_has_more_names", source=source.name, names=len(found))
                    return found
                try:
                    names = await self._names(source, table, column, most, stop.within(self._settings.timeout_s))
                except DeadlineExceeded:
                    logs.get().warning("source_column_too_slow", source=source.name, table=table.name, column=column)
                    continue
                found += (SourceValue(source.name, table.name, column, name, key) for name, key in names)
        return found

    async def _names(
        self, source: Source, table: links.Table, column: str, most: int, deadline: Deadline
    ) -> list[tuple[str, int | str | None]]:
        sample = await self._rows(source, links.sample(source.kind, table, column), {}, links.SAMPLE_ROWS, deadline)
        if not is_name_column([value for (value,) in sample if isinstance(value, str)]):
            return []
        sql = links.names(source.kind, table, column, most)
        return list(links.named(await self._rows(source, sql, {}, most, deadline, size=MAX_NAMES_BYTES)))

    # --- rows ---

    async def find_many(
        self,
        source: Source,
        wanted: Sequence[Lookup | LookupCall],
        stored: Mapping[str, StoredLookup],
        deadline: Deadline,
    ) -> list[Evidence | GatherumError]:
        """The rows for each of what is wanted from one source, or the error that kept them back, in order.

        Args:
            source: where.
            wanted: rows that have a value, and stored lookups to be run.
            stored: the lookups of the source, by name.
            deadline: of the batch; the source has no more than `sources.timeout_s` of it.
        """
        given = deadline.within(self._settings.timeout_s)
        fair = given.remaining() >= FAIR * self._settings.timeout_s

        async def one(each: Lookup | LookupCall) -> Evidence | GatherumError:
            return await self._find(source, each, stored, given, fair=fair)

        return await few_at_once(one, wanted)

    async def check(self, source: Source, lookup: StoredLookup, deadline: Deadline) -> None:
        """Make sure that the statement of a lookup is one that the source takes: it is prepared, for no rows.

        Raises:
            InvalidInput: the lookup is not sound, or the database does not take its statement.
            Refused: it would do more than read.
        """
        lookups.check(lookup, source.kind)
        nothing = {parameter.name: parameter.default for parameter in lookup.parameters}
        await self._rows(source, lookup.sql, nothing, 0, deadline.within(self._settings.timeout_s))

    async def run(
        self, source: Source, lookup: StoredLookup, call: LookupCall, limit: int, deadline: Deadline
    ) -> Evidence:
        """Run a stored lookup; at most `limit` rows.

        Raises:
            GatherumError: the source did not answer.
        """
        arguments = dict(call.arguments)
        shown = lookups.shown(lookup.sql, source.kind, arguments)
        return await self._result(source, lookup.sql, arguments, limit, deadline, ("lookup", lookup.name, shown))

    async def write(
        self, model: Model, text: str, entities: Sequence[LinkedEntity], sources: Sequence[Source], deadline: Deadline
    ) -> Evidence:
        """The rows of the statement that a language model writes for a question; none where it writes none.

        Args:
            model: is asked.
            text: the question.
            entities: the names in it.
            sources: that it may ask; the one whose tables and columns it speaks of is taken.
            deadline: of all of it.

        Raises:
            GatherumError: the model or the source did not answer, or the statement was refused; then it is told.
        """
        soon = deadline.within(self._settings.timeout_s)

        async def tables(source: Source) -> Mapping[str, links.Table] | GatherumError:
            try:
                return await self._tables(source, soon)
            except GatherumError as error:
                return error

        schemas: dict[str, Mapping[str, links.Table]] = {}
        away: GatherumError | None = None
        for source, found in zip(sources, await few_at_once(tables, sources), strict=True):
            if isinstance(found, GatherumError):
                away = found
            else:
                schemas[source.name] = found
        if away is not None and not schemas:
            raise away
        name = fitting(text, entities, schemas)
        if name is None:
            return Evidence()
        source = next(source for source in sources if source.name == name)
        sql = statement(await model.reply(messages(text, entities, source.kind, name, schemas[name]), deadline))
        if sql is None:
            return Evidence()
        within = deadline.within(self._settings.timeout_s)
        try:
            return await self._result(source, sql, {}, self._settings.max_rows, within, ("model", "", sql))
        except GatherumError as error:
            raise blamed(error, sql) from None

    async def _find(
        self,
        source: Source,
        wanted: Lookup | LookupCall,
        stored: Mapping[str, StoredLookup],
        deadline: Deadline,
        *,
        fair: bool,
    ) -> Evidence | GatherumError:
        lookup = stored.get(wanted.name) if isinstance(wanted, LookupCall) else None
        if isinstance(wanted, LookupCall) and lookup is None:
            return UnknownLookup(f"The source has no lookup {wanted.name!r} any more.")
        breaker = self._breakers.setdefault(source.name, Breaker(f"The source {source.name!r}"))
        try:
            with breaker.watching(fair=fair):
                if isinstance(wanted, LookupCall) and lookup is not None:
                    return await self.run(source, lookup, wanted, self._settings.max_rows, deadline)
                return await self._linked(source, cast("Lookup", wanted), deadline)
        except GatherumError as error:
            return error

    async def _linked(self, source: Source, lookup: Lookup, deadline: Deadline) -> Evidence:
        """Rows that have a value, and those that foreign keys lead to from them."""
        known = await self._sources.schema(source, deadline)
        try:
            return await self._linked_by(links.tables(source.kind, known), source, lookup, deadline)
        except (NotFound, InvalidInput):
            # The tables may have changed since they were looked at.
            if time.time() - known.at < FRESH_S:
                raise
        return await self._linked_by(await self._tables(source, deadline, refresh=True), source, lookup, deadline)

    async def _linked_by(
        self, schema: Mapping[str, links.Table], source: Source, lookup: Lookup, deadline: Deadline
    ) -> Evidence:
        table = schema.get(lookup.table)
        if table is None or lookup.column not in table.columns:
            raise NotFound(f"The source {source.name!r} has no column {lookup.column!r} in a table {lookup.table!r}.")
        exclude = self._excluded(source)
        first = links.direct(source.kind, table, lookup, exclude, self._settings.max_rows)
        rows = await self._evidence(source, first, exclude, deadline)
        if not rows and lookup.key is not None:
            # The row has got another key since the names were read.
            return await self._linked_by(schema, source, replace(lookup, key=None), deadline)
        error: GatherumError | None = None
        if 0 < len(rows) <= links.FOLLOW:
            try:
                for further in links.followed(source.kind, schema, table, lookup, exclude):
                    rows += await self._evidence(source, further, exclude, deadline)
            except GatherumError as failed:
                # What was asked for is there; what goes with it is an extra, whose lack is told.
                error = failed
        return Evidence(tuple(rows), error)

    async def _evidence(
        self, source: Source, asked: links.Statement, exclude: Sequence[str], deadline: Deadline
    ) -> list[Row]:
        found = await self._rows(source, asked.sql, asked.params, asked.limit, deadline)
        return links.rows(source.kind, source.name, asked, found, exclude)

    async def _result(
        self,
        source: Source,
        sql: str,
        arguments: Mapping[str, Any],
        limit: int,
        deadline: Deadline,
        called: tuple[RowKind, str, str],
    ) -> Evidence:
        kind, name, shown = called
        async with self._sources.query(source, sql, arguments, Limits(limit, MAX_BYTES), deadline) as result:
            columns = _distinct([column.name for column in result.columns])
            rows = await result.rows()
        return Evidence(
            tuple(
                Row(
                    source.name,
                    name,
                    {**arguments, "row": number},
                    {column: _cell(value) for column, value in zip(columns, row, strict=True)},
                    shown,
                    kind,
                )
                for number, row in enumerate(rows, 1)
            ),
            truncated=result.truncated,
        )

    async def _tables(self, source: Source, deadline: Deadline, *, refresh: bool = False) -> Mapping[str, links.Table]:
        return links.tables(source.kind, await self._sources.schema(source, deadline, refresh=refresh))

    async def _rows(
        self,
        source: Source,
        sql: str,
        params: Mapping[str, Any],
        limit: int,
        deadline: Deadline,
        *,
        size: int = MAX_BYTES,
    ) -> list[tuple[Any, ...]]:
        async with self._sources.query(source, sql, params, Limits(limit, size), deadline) as result:
            return await result.rows()

    def _excluded(self, source: Source) -> tuple[str, ...]:
        return (*self._settings.exclude, *source.exclude)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns, of which two may be alike, made different."""
    seen: dict[str, int] = defaultdict(int)
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def _cell(value: Any) -> Any:
    """A cell as evidence."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(bytes(value)):,} bytes)"
    return value[: links.MAX_CELL_CHARS] if isinstance(value, str) else value
