"""Rows told as sentences: `moons · Titan: radius_km 2574.7, discoverer Christiaan Huygens`.

A row was found because one of its values is a name in the question. Whether it answers the question is judged by its
columns: if a word of a column's name stands in the question, that column is what was asked for. Of a row that only a
foreign key led to, the name of its table must stand there too, or the radius of a planet would answer a question for
that of its moon. A result of a stored lookup is what was asked for as it is: the lookup was called for that.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from actors.messages import LinkedEntity, Row, RowCitation, Sentence
from actors.search.language import STOP_WORDS, stems

MAX_COLUMNS = 8
"""Columns told of a row; the row itself goes with the answer whole."""

MAX_VALUE_CHARS = 80

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAMING = frozenset({"name", "titl", "label"})
_KEYS = frozenset({"id", "key", "uuid", "rowid"})


def tell_rows(
    terms: frozenset[str], rows: Sequence[Row], entities: Sequence[LinkedEntity]
) -> tuple[list[Sentence], list[Sentence]]:
    """Tell rows as sentences.

    Args:
        terms: stems of the question's words.
        rows: each told once.
        entities: the names in the question; their links say which value a row was found by.

    Returns:
        The rows of which the question asks for a column, and the others; within each, results of lookups come first,
        then rows that a name of the question names, then those that merely refer to it.
    """
    if not rows:
        return [], []
    found_by = {
        (link.source, link.table, link.column, link.value)
        for entity in entities
        for link in entity.links
        if link.kind == "value"
    }
    words: dict[str, frozenset[str]] = {}
    told: list[tuple[bool, int, Sentence]] = []
    for row in rows:
        for name in (row.table, *row.columns):
            if name not in words:
                words[name] = _words(name)
        citation = RowCitation(source=row.source, table=row.table, key=row.key, kind=row.kind)
        if row.kind != "table":
            told.append((True, 0, Sentence(_tell_result(row), citation)))
            continue
        naming = _name_column(row, words)
        # The value that the row was found by is in the question already.
        known = {column for column, value in row.columns.items() if (row.source, row.table, column, value) in found_by}
        asked = [
            column
            for column, value in row.columns.items()
            if value is not None and column != naming and column not in known and _asks(words[column], terms)
        ]
        answers = bool(words[row.table] & terms) if row.via else bool(asked)
        rank = 1 if naming in known else 3 if row.via else 2
        told.append((answers, rank, Sentence(_tell(row, naming, asked, words), citation)))
    # Stable: among equals the order in which they were found.
    told.sort(key=lambda item: item[1])
    return [text for answers, _, text in told if answers], [text for answers, _, text in told if not answers]


def _asks(words: frozenset[str], terms: frozenset[str]) -> bool:
    """Whether words of a question ask for a column. Nobody asks for the number of a planet by asking for the planet."""
    return bool(words & terms) and (not words & _KEYS or bool(terms & _KEYS))


def _tell_result(row: Row) -> str:
    arguments = ", ".join(_value(value) for name, value in row.key.items() if name != "row" and value is not None)
    called = " · ".join(part for part in (row.table or row.source, arguments) if part)
    facts = ", ".join(f"{column} {_value(value)}" for column, value in row.columns.items() if value is not None)
    return f"{called}: {facts}" if facts else called


def _words(column: str) -> frozenset[str]:
    """Stems of the words of a column's name, which may be in `snake_case` or `camelCase`."""
    parts = [part.lower() for part in _WORD.findall(column)] or [column.lower()]
    return frozenset(stems(" ".join(part for part in parts if part not in STOP_WORDS)))


def _name_column(row: Row, words: Mapping[str, frozenset[str]]) -> str | None:
    """The column that says what the row is called."""
    texts = [column for column, value in row.columns.items() if isinstance(value, str) and value]
    called = [column for column in texts if words[column] & _NAMING]
    keys = [column for column in texts if column in row.key]
    return next(iter([*called, *keys, *texts]), None)


def _tell(row: Row, name: str | None, asked: Sequence[str], words: Mapping[str, frozenset[str]]) -> str:
    called = _value(row.columns[name]) if name else ", ".join(_value(value) for value in row.key.values())
    rest = [
        column
        for column, value in row.columns.items()
        if column not in asked and column not in row.key and not words[column] & _KEYS and not _untold(value)
    ]
    columns = [column for column in [*asked, *rest] if column != name][:MAX_COLUMNS]
    facts = ", ".join(f"{column} {_value(row.columns[column])}" for column in columns)
    return f"{row.table} · {called}: {facts}" if facts else f"{row.table} · {called}"


def _untold(value: Any) -> bool:
    return value is None or value == "" or isinstance(value, bytes | bytearray | memoryview)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(bytes(value)):,} bytes"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…"
