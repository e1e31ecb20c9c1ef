"""Statements of clients: they run in this process, beside the requests they belong to.

Nothing comes between a client and its statement that could lose the end of one: whoever goes away takes the statement
along, and rows go out as they come in. A hop through the store's role would cost half of the statements in a second,
and have all of them share a process with the jobs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import orjson
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import DocumentTooLarge, GatherumError, UnknownSource
from actors.messages import Source
from actors.sql.access import Own
from actors.sql.running import Limits, Params, Result
from actors.sql.sources import Sources
from actors.sql.vault import Vault
from actors.store import dialect
from config import logs
from config.settings import Settings
from serve import rows
from serve.problems import problem
from serve.services import Roles
from serve.streaming import Stream, generator

KNOWN_S: Final = 1.0
"""How long a registration is believed without asking the store again, s."""

DEFAULT_ROWS: Final = 1000
"""Rows that an answer in JSON has by default."""


PIECE: Final = 256_000
"""Of an answer in JSON, what is sent together, bytes; a shorter one is sent as a whole."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement, and in which form its rows are wanted.

    Attributes:
        limit: rows; None for the default, which is all where they are streamed.
    """

    source: str
    sql: str
    params: Params
    form: rows.Form
    shape: rows.Shape
    limit: int | None
    timeout_s: float | None


class Queries:
    """The sources as this process reads them.

    Args:
        settings: all of them.
        roles: the store is asked which sources there are.
    """

    def __init__(self, settings: Settings, roles: Roles) -> None:
        self._settings = settings.sources
        self._roles = roles
        self.vault = Vault(settings.sources_key, variables=settings.sources.password_variables)
        store = dialect.parse_url(settings.database_url)
        own = Own.of(store, dialect.file_of(store))
        self.sources = Sources(settings.sources, own=own, vault=self.vault)
        self._known: dict[str, Source] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def find(self, name: str, deadline: Deadline) -> Source:
        """A registered source.

        Raises:
            UnknownSource: there is none of this name.
        """
        if time.monotonic() - self._asked_at > KNOWN_S:
            async with self._asking:
                if time.monotonic() - self._asked_at > KNOWN_S:
                    listed = await self._roles.database.sources(deadline=deadline)
                    self._known = {source.name: source for source in listed}
                    self._asked_at = time.monotonic()
        source = self._known.get(name)
        if source is None:
            raise UnknownSource("There is no source of this name.")
        return source

    def forget(self) -> None:
        """Ask the store again next time: this process has changed what there is."""
        self._asked_at = float("-inf")

    def deadline(self, timeout_s: float | None) -> Deadline:
        """That of a statement, as long as the client wants and the settings allow."""
        deadline = Deadline.after(self._settings.query_timeout_s)
        return deadline if timeout_s is None else deadline.within(timeout_s)

    async def whole(self, asked: Asked) -> Response:
        """The rows in one answer. Those that are few are sent as a whole, so that an error on the way is a status."""
        deadline = self.deadline(asked.timeout_s)
        if asked.form == "arrow":
            return await self._arrow(asked, deadline)
        pieces = self._object(asked, deadline)
        first = await anext(pieces)
        try:
            second = await anext(pieces)
        except StopAsyncIteration:
            return Response(first, media_type=_type(asked))
        return Stream(_after(first + second, pieces), media_type=_type(asked), deadline=deadline)

    async def stream(self, asked: Asked, request_id: str) -> Response:
        """The rows as they come in. What goes wrong before the first of them still is a status."""
        deadline = self.deadline(asked.timeout_s)
        pieces = self._csv(asked, deadline) if asked.form == "csv" else self._lines(asked, deadline, request_id)
        first = await anext(pieces)
        return Stream(_after(first, pieces), media_type=_type(asked), deadline=deadline)

    async def close(self) -> None:
        """End what runs."""
        await self.sources.close()

    def _limits(self, asked: Asked) -> Limits:
        most = self._settings.query_rows
        limit = asked.limit if asked.limit is not None else (DEFAULT_ROWS if asked.form == "json" else most)
        return Limits(rows=min(limit, most), bytes=int(self._settings.query_mb * 1e6))

    async def _arrow(self, asked: Asked, deadline: Deadline) -> Response:
        """An Arrow stream begins with the types of its columns, and only all rows together say which those are."""
        source = await self.find(asked.source, deadline)
        async with self.sources.query(source, asked.sql, asked.params, self._limits(asked), deadline) as result:
            found = await result.rows()
        _must_be_whole(result, asked)
        return Response(await asyncio.to_thread(rows.arrow, result.columns, found), media_type=_type(asked))

    async def _object(self, asked: Asked, deadline: Deadline) -> AsyncIterator[bytes]:
        """A JSON object, in pieces of `PIECE` bytes. One that breaks off is not closed: nobody takes it for whole."""
        began = time.perf_counter()
        source = await self.find(asked.source, deadline)
        async with self.sources.query(source, asked.sql, asked.params, self._limits(asked), deadline) as result:
            names = rows.names_of(result.columns)
            columns = [{"name": column.name, "type": column.type} for column in result.columns]
            parts, size, comma = [b'{"columns":', rows.encode(columns), b',"rows":['], 0, b""
            async for batch in result.batches:
                # Without the brackets around it.
                text = rows.encode(rows.shaped(batch, names, asked.shape))[1:-1]
                parts += (comma, text)
                comma = b","
                size += len(text)
                if size >= PIECE:
                    yield b"".join(parts)
                    parts, size = [], 0
        took = round((time.perf_counter() - began) * 1000, 2)
        end = rows.encode({"truncated": result.truncated, "elapsed_ms": took})
        yield b"".join((*parts, b"],", end[1:]))

    async def _lines(self, asked: Asked, deadline: Deadline, request_id: str) -> AsyncIterator[bytes]:
        """The columns, each row, and `end`, or `problem` if it breaks off: a JSON object a line, named by its key."""
        began, count = time.perf_counter(), 0
        source = await self.find(asked.source, deadline)
        started = False
        try:
            async with self.sources.query(source, asked.sql, asked.params, self._limits(asked), deadline) as result:
                names = rows.names_of(result.columns)
                columns = [{"name": column.name, "type": column.type} for column in result.columns]
                head = rows.encode({"columns": columns}) + b"\n"
                async for batch in result.batches:
                    count += len(batch)
                    yield head + rows.lines(batch, names, asked.shape)
                    head, started = b"", True
            took = round((time.perf_counter() - began) * 1000, 2)
            yield (
                head + rows.encode({"end": {"rows": count, "truncated": result.truncated, "elapsed_ms": took}}) + b"\n"
            )
        except GatherumError as error:
            if not started:
                raise
            logs.get().warning("query_broke_off", code=error.code, detail=error.detail)
            body = problem(error.http_status, error.code, error.detail, request_id).body
            yield orjson.dumps({"problem": orjson.Fragment(bytes(body))}) + b"\n"

    async def _csv(self, asked: Asked, deadline: Deadline) -> AsyncIterator[bytes]:
        """A line of names, and the rows. One that breaks off has no proper end: the connection is cut."""
        source = await self.find(asked.source, deadline)
        async with self.sources.query(source, asked.sql, asked.params, self._limits(asked), deadline) as result:
            head = rows.csv_rows([rows.names_of(result.columns)])
            async for batch in result.batches:
                yield head + rows.csv_rows(batch)
                head = b""
        _must_be_whole(result, asked)
        yield head


def _must_be_whole(result: Result, asked: Asked) -> None:
    """CSV and Arrow have no place to say that something is missing, so it may only be what the client left out."""
    if result.truncated and asked.limit is None:
        raise DocumentTooLarge(
            "The answer is larger than sources.query_rows or sources.query_mb allows. Ask for fewer rows with `limit`, "
            "or for the form ndjson, which says what was left out."
        )


def _type(asked: Asked) -> str:
    return rows.MEDIA_TYPES[asked.form]


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(generator(pieces)) as rest:
        yield first
        async for piece in rest:
            yield piece


def plan_body(plan: Any, advice: list[Any]) -> dict[str, Any]:
    """The JSON of an explanation."""
    return {
        "plan": plan,
        "analysis": [{"level": each.level, "table": each.table or None, "text": each.text} for each in advice],
    }
