"""Rows told as sentences: `moons · Titan: radius_km 2574.7, planet Saturn`.

A row was found because one of its values is a name in the question. Whether it answers the question is judged by its
columns: if a word of a column's name stands in the question, that column is what was asked for.
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
        The rows of which the question asks for a column, and the others; within each, rows that a name of the question
        names come before those that merely refer to it.
    """
    if not rows:
        return [], []
    found_by = {
        (link.source, link.table, link.column) for entity in entities for link in entity.links if link.kind == "value"
    }
    words: dict[str, frozenset[str]] = {}
    told: list[tuple[bool, bool, Sentence]] = []
    for row in rows:
        for column in row.columns:
            if column not in words:
                words[column] = _words(column)
        name = _name_column(row, words)
        # The value that the row was found by is in the question already.
        known = {column for column in row.columns if (row.source, row.table, column) in found_by}
        asked = [
            column
            for column, value in row.columns.items()
            if value is not None and column != name and column not in known and words[column] & terms
        ]
        sentence = Sentence(
            text=_tell(row, name, asked, words),
            citation=RowCitation(source=row.source, table=row.table, key=row.key),
        )
        told.append((bool(asked), name in known, sentence))
    # Stable: among equals the order in which they were found.
    told.sort(key=lambda item: not item[1])
    return [text for asked, _, text in told if asked], [text for asked, _, text in told if not asked]


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
