"""Text-to-SQL: what a language model is told, what is taken from its reply, and what it may cost.

The model is a server on loopback that speaks the API's form, so that the client is the real one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, Overloaded, Unavailable
from actors.messages import Link, LinkedEntity
from actors.sql import model
from actors.sql.links import Table
from actors.sql.model import Model
from actors.sql.schema import ForeignKey
from config.settings import ModelSettings

MOONS = Table(
    "moons", {"name": "TEXT", "planet_id": "INTEGER"}, ("name",), (ForeignKey(("planet_id",), "planets", ("id",)),)
)
PLANETS = Table("planets", {"id": "INTEGER", "gravity_m_s2": "REAL"}, ("id",))
SKY = {"moons": MOONS, "planets": PLANETS}
SHOP = {"Invoice": Table("Invoice", {"InvoiceId": "INTEGER", "Total": "NUMERIC"})}
TITAN = LinkedEntity("titan", "VALUE", 0, 5, (Link("value", None, "sky", "moons", "name", "Titan"),))

TOLD = [{"role": "user", "content": "?"}]


@dataclass
class Api:
    """Answers each request with what is due.

    Attributes:
        answer: status and body of every answer.
        gate: waited for before one, if set.
        asked: headers and body of each request.
    """

    answer: tuple[int, bytes] = (200, json.dumps({"choices": [{"message": {"content": "SELECT 1"}}]}).encode())
    gate: asyncio.Event | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(
            next(line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length"))
        )
        self.asked.append((head, json.loads(await reader.readexactly(length))))
        if self.gate is not None:
            await self.gate.wait()
        status, body = self.answer
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(api: Api) -> AsyncIterator[Api]:
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield api
    finally:
        if api.gate is not None:
            api.gate.set()
        server.close()


def settings(url: str, **changes: Any) -> ModelSettings:
    values = {"name": "small", "key_env": "", "text_to_sql": True, "timeout_s": 5, "max_tokens": 99}
    return ModelSettings(**{**values, "url": url, "calls_per_minute": 10, **changes})


async def reply(api: Api, **changes: Any) -> str:
    client = Model(settings(api.url, **changes))
    try:
        return await client.reply(TOLD, Deadline.after(5))
    finally:
        await client.close()


# --- what it is told, and what is taken ------------------------------------------------------------------------------


def test_the_source_is_the_one_whose_tables_the_question_speaks_of() -> None:
    schemas = {"sky": SKY, "shop": SHOP}
    assert model.fitting("How many moons are there?", (), schemas) == "sky"
    assert model.fitting("What is the total of all invoices?", (), schemas) == "shop"
    assert model.fitting("How far is Titan?", (TITAN,), schemas) == "sky"
    assert model.fitting("Who wrote Fidelio?", (), schemas) is None
    assert model.fitting("How many moons are there?", (), {}) is None


def test_the_model_is_told_tables_keys_and_names_but_no_rows() -> None:
    system, user = model.messages("How many moons has Saturn, like titan?", (TITAN,), "sqlite", "sky", SKY)
    assert "one SQLite SELECT" in system["content"]
    assert "moons (name TEXT, planet_id INTEGER); planet_id refers to planets (id)" in system["content"]
    assert user["content"] == "Question: How many moons has Saturn, like titan?\n'Titan' is a value of moons.name."


def test_of_a_large_schema_what_the_question_speaks_of_comes_first() -> None:
    many = {f"table_{n}": Table(f"table_{n}", {f"column_{m}": "TEXT" for m in range(50)}) for n in range(100)}
    told = model.described("How many moons?", {**many, **SKY})
    assert told.startswith("moons (")
    assert len(told) <= model.MAX_SCHEMA_CHARS


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("select 1;\n", "select 1"),
        ("Here it is:\n```sql\nSELECT name\nFROM moons;\n```\nIt counts.", "SELECT name\nFROM moons"),
        ("```\nWITH a AS (SELECT 1) SELECT * FROM a\n```", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("NONE", None),
        ("", None),
        ("I cannot do that.", None),
        ("```sql\nDROP TABLE moons\n```", None),
    ],
)
def test_a_statement_is_taken_from_a_reply(text: str, sql: str | None) -> None:
    assert model.statement(text) == sql


# --- the client ------------------------------------------------------------------------------------------------------


async def test_the_model_is_asked_in_the_form_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALL_KEY", "sesame")
    async with listening(Api()) as api:
        assert await reply(api, key_env="SMALL_KEY") == "SELECT 1"
    [(head, body)] = api.asked
    assert head.startswith("POST /v1/chat/completions ")
    assert "Bearer sesame" in head
    assert body == {"model": "small", "messages": TOLD, "temperature": 0, "max_tokens": 99}


async def test_without_a_key_none_is_sent() -> None:
    async with listening(Api()) as api:
        await reply(api)
    assert "authorization" not in api.asked[0][0].lower()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, b"the key is sesame"), "status 500"),
        ((302, b""), "status 302"),
        ((200, b"<html>"), "no reply"),
        ((200, b'{"choices": []}'), "no reply"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), "no reply"),
        ((200, b"x" * (model.MAX_REPLY_BYTES + 1)), "far too much"),
    ],
)
async def test_what_is_no_reply_says_so_and_quotes_nothing(answer: tuple[int, bytes], says: str) -> None:
    async with listening(Api(answer)) as api:
        with pytest.raises(Unavailable, match=says) as raised:
            await reply(api)
    assert "sesame" not in raised.value.detail


async def test_a_model_that_is_away_is_unavailable() -> None:
    async with listening(Api()) as api:
        pass
    with pytest.raises(Unavailable, match="could not be asked"):
        await reply(api)


async def test_a_model_that_hangs_is_given_up() -> None:
    async with listening(Api(gate=asyncio.Event())) as api:
        with pytest.raises(DeadlineExceeded, match="language model"):
            await reply(api, timeout_s=0.05)


async def test_calls_beyond_the_budget_of_a_minute_are_not_made() -> None:
    now = 0.0
    async with listening(Api()) as api:
        client = Model(settings(api.url, calls_per_minute=2), clock=lambda: now)

        async def ask() -> str:
            return await client.reply(TOLD, Deadline.after(5))

        await ask()
        now = 30.0
        await ask()
        with pytest.raises(Overloaded, match="at most 2 times a minute"):
            await ask()
        now = 60.0
        await ask()
        await client.close()
    assert len(api.asked) == 3


async def test_a_model_that_keeps_failing_is_left_alone() -> None:
    async with listening(Api((500, b""))) as api:
        client = Model(settings(api.url), clock=lambda: 0.0)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await client.reply(TOLD, Deadline.after(5))
        await client.close()
    assert len(api.asked) == 3


def test_a_refused_statement_is_shown() -> None:
    error = model.blamed(Unavailable("No."), "SELECT\n 1")
    assert (type(error), error.detail) == (Unavailable, "No. The language model wrote: SELECT 1")
