"""Whole answers without Ray: the real roles over a real store, an SQLite source, and a language model on loopback."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from stores import DEFAULTS, soon

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.messages import Answer, Found, Query, Question, RowCitation, Source
from actors.orchestrator import Orchestrator
from actors.store.blobs import Folder

SCRIPT = """
CREATE TABLE planets (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE moons (id INTEGER PRIMARY KEY, name TEXT, planet_id INTEGER REFERENCES planets (id), radius_km REAL);
INSERT INTO planets VALUES (5, 'Jupiter'), (6, 'Saturn');
INSERT INTO moons VALUES (1, 'Titan', 6, 2574.7), (2, 'Rhea', 6, 763.8), (3, 'Io', 5, 1821.6);
"""


class NoPassages:
    """A retrieval that finds nothing."""

    async def search_many(self, queries: list[Query], *, deadline: Deadline) -> list[Found]:
        return [Found() for _ in queries]


@asynccontextmanager
async def model(reply: str) -> AsyncIterator[str]:
    """URL of an OpenAI-compatible API that always replies the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


@asynccontextmanager
async def asking(folder: Path, url: str) -> AsyncIterator[Orchestrator]:
    """An orchestrator over the sky."""
    database = Database(
        DEFAULTS.database,
        DEFAULTS.sources.model_copy(update={"sqlite_root": str(folder), "timeout_s": 10}),
        DEFAULTS.blobs,
        url=f"sqlite:///{folder / 'gatherum.db'}",
        blobs=Folder(folder / "blobs"),
        max_attempts=3,
        model=DEFAULTS.model.model_copy(update={"url": url, "name": "small", "text_to_sql": True}),
    )
    entities = Entities(DEFAULTS.entities.model_copy(update={"read_questions": 0}), database)
    orchestrator = Orchestrator(
        DEFAULTS.orchestrator,
        retrieval=cast("Any", NoPassages()),
        entities=entities,
        database=database,
        text_to_sql=True,
    )
    await database.start()
    try:
        await database.add_source(Source("sky", "sqlite", "sky.db"), deadline=soon())
        await entities.start()
        await orchestrator.start()
        yield orchestrator
    finally:
        await orchestrator.stop()
        await entities.stop()
        await database.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    connection = sqlite3.connect(tmp_path / "sky.db")
    connection.executescript(SCRIPT)
    connection.close()
    return tmp_path


async def ask(orchestrator: Orchestrator, text: str) -> Answer:
    [answer] = await orchestrator.ask_many([Question("r1", text, soon())], deadline=soon())
    assert isinstance(answer, Answer), answer
    return answer


async def test_the_rows_of_a_models_statement_answer_with_the_statement_shown(folder: Path) -> None:
    sql = "SELECT count(*) AS moons FROM moons WHERE radius_km > 1000"
    async with model(f"```sql\n{sql};\n```") as url, asking(folder, url) as orchestrator:
        answer = await ask(orchestrator, "How many moons have a radius over 1000?")
    assert answer.text == "sky: moons 2."
    assert answer.sentences[0].citation == RowCitation("sky", "", {"row": 1}, "model")
    assert [(row.sql, row.kind) for row in answer.rows] == [(sql, "model")]
    assert not answer.partial


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("SELECT 1; DROP TABLE moons", "The language model wrote: SELECT 1; DROP TABLE moons"),
        ("WITH x AS (SELECT 1) DELETE FROM moons", "The language model wrote: WITH x AS (SELECT 1) DELETE FROM moons"),
        ("SELECT name FROM stars", "no such table: stars"),
    ],
)
async def test_a_statement_that_is_refused_degrades_the_answer_and_changes_nothing(
    folder: Path, reply: str, why: str
) -> None:
    before = (folder / "sky.db").read_bytes()
    async with model(reply) as url, asking(folder, url) as orchestrator:
        answer = await ask(orchestrator, "What is the radius of Titan?")
    assert answer.text.startswith("moons · Titan: radius_km 2574.7")
    assert answer.partial
    [told] = answer.degraded
    assert told.startswith("model: ")
    assert why in told
    assert (folder / "sky.db").read_bytes() == before


async def test_a_model_that_is_away_degrades_the_answer(folder: Path) -> None:
    async with model("") as url:
        pass
    async with asking(folder, url) as orchestrator:
        answer = await ask(orchestrator, "What is the radius of Titan?")
    assert answer.text.startswith("moons · Titan: radius_km 2574.7")
    assert answer.degraded == ("model: unavailable: The language model's API could not be asked (ConnectError).",)
