"""Text-to-SQL: a language model is asked for the statement that would answer a question, if an operator wants that.

What comes back is a stranger's text. It is taken for a statement at most, and then it is run like any that a user
sends: one SELECT, read-only, limited. The model sees the names of tables and columns and the values that the question
names, and no rows. What it costs is bounded in time, tokens and calls a minute.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx
import orjson

from actors.breaker import Breaker
from actors.deadline import Deadline
from actors.errors import GatherumError, Overloaded, Unavailable
from actors.messages import LinkedEntity
from actors.search.language import STOP_WORDS, content_stems, stems
from actors.sql.links import Table
from config.settings import ModelSettings

MAX_SCHEMA_CHARS: Final = 12_000
"""Of a description of tables; those with words of the question come first, what goes beyond is left out."""

MAX_NAMES: Final = 20
"""Names of the question that are told with the column they stand in."""

MAX_REPLY_BYTES: Final = 1_000_000

MINUTE_S: Final = 60.0

DIALECTS: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL"}

INSTRUCTIONS: Final = (
    "You write one {dialect} SELECT statement that answers the question from the tables below. Use only tables and "
    "columns that are listed. Give every computed column a telling name. Reply with the statement alone, without "
    "comments. If these tables cannot answer the question, reply NONE."
)

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_STATEMENT = re.compile(r"\b(?:WITH|SELECT)\b.*", re.DOTALL | re.IGNORECASE)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def fitting(question: str, entities: Sequence[LinkedEntity], schemas: Mapping[str, Mapping[str, Table]]) -> str | None:
    """The source that a question is about, by the words of its tables and columns and the names in it; None if none is.

    Args:
        question: as asked.
        entities: the names in it.
        schemas: tables of the sources that it may ask.
    """
    terms = frozenset(content_stems(question))
    linked = [link.source for entity in entities for link in entity.links if link.source]
    scores = {source: len(terms & _words(tables)) + linked.count(source) for source, tables in sorted(schemas.items())}
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] else None


def messages(
    question: str, entities: Sequence[LinkedEntity], kind: str, source: str, schema: Mapping[str, Table]
) -> list[dict[str, str]]:
    """What the model is told."""
    names = [
        f"{link.value!r} is a value of {link.table}.{link.column}."
        for entity in entities
        for link in entity.links
        if link.source == source and link.value is not None
    ]
    told = "\n".join([f"Question: {question}", *dict.fromkeys(names[:MAX_NAMES])])
    instructions = INSTRUCTIONS.format(dialect=DIALECTS[kind])
    return [
        {"role": "system", "content": f"{instructions}\n\n{described(question, schema)}"},
        {"role": "user", "content": told},
    ]


def described(question: str, schema: Mapping[str, Table]) -> str:
    """The tables as a model reads them, those with words of the question first."""
    terms = frozenset(content_stems(question))
    ranked = sorted(schema.values(), key=lambda table: -len(terms & _words({table.name: table})))
    lines: list[str] = []
    left = MAX_SCHEMA_CHARS
    for table in ranked:
        columns = ", ".join(f"{name} {type_}".strip() for name, type_ in table.columns.items())
        keys = "".join(
            f"; {', '.join(key.columns)} refers to {key.table} ({', '.join(key.references)})" for key in table.foreign
        )
        line = f"{table.name} ({columns}){keys}"
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return "\n".join(lines)


def statement(reply: str) -> str | None:
    """The statement in a reply; None where it has none."""
    fenced = _FENCE.search(reply)
    found = _STATEMENT.search(fenced.group(1) if fenced else reply)
    return found.group().strip().rstrip(";").strip() if found else None


class Model:
    """A language model, within its budget.

    Args:
        settings: where it is and what it may cost.
        clock: monotonic, s.
    """

    def __init__(self, settings: ModelSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._calls: deque[float] = deque()
        self._breaker = Breaker("The language model", clock=clock)
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def reply(self, told: Sequence[Mapping[str, str]], deadline: Deadline) -> str:
        """What it says.

        Raises:
            Overloaded: its calls of this minute are used up.
            Unavailable: it is away, answers with an error, or with something that is no reply.
            DeadlineExceeded: it took too long.
        """
        self._spend()
        within = deadline.within(self._settings.timeout_s)
        with self._breaker.watching(fair=deadline.remaining() >= self._settings.timeout_s):
            return await within.run(self._post(told, within), "The language model")

    def _spend(self) -> None:
        now = self._clock()
        while self._calls and self._calls[0] <= now - MINUTE_S:
            self._calls.popleft()
        if len(self._calls) >= self._settings.calls_per_minute:
            raise Overloaded(f"The language model is asked at most {self._settings.calls_per_minute} times a minute.")
        self._calls.append(now)

    async def _post(self, told: Sequence[Mapping[str, str]], deadline: Deadline) -> str:
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        key = os.environ.get(self._settings.key_env, "") if self._settings.key_env else ""
        body = {
            "model": self._settings.name,
            "messages": list(told),
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }
        content = bytearray()
        try:
            async with self._client.stream(
                "POST",
                f"{self._settings.url}/chat/completions",
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
                timeout=deadline.remaining(),
            ) as answer:
                if answer.status_code != 200:
                    # Its own words may quote the key or the prompt.
                    raise Unavailable(f"The language model's API answered with status {answer.status_code}.")
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > MAX_REPLY_BYTES:
                        raise Unavailable("The language model's API answered with far too much.")
        except httpx.HTTPError as error:
            raise Unavailable(f"The language model's API could not be asked ({type(error).__name__}).") from None
        return _content(bytes(content))


def _content(answer: bytes) -> str:
    try:
        content: Any = orjson.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise Unavailable("The language model's API answered with something that is no reply.")
    return content


def blamed(error: GatherumError, sql: str) -> GatherumError:
    """An error of a statement that a model wrote, with the statement, as it is shown in all cases."""
    return type(error)(f"{error.detail} The language model wrote: {' '.join(sql.split())[:500]}")


def _words(tables: Mapping[str, Table]) -> frozenset[str]:
    names = " ".join(name for table in tables.values() for name in (table.name, *table.columns))
    parts = [part.lower() for part in _PART.findall(names)]
    return frozenset(stems(" ".join(part for part in parts if part not in STOP_WORDS)))
