"""The rules every SQL reader shares, as pure functions: quoting, rendering, and what looks like a name.

Identifiers reach a statement only after they were found in the live schema *and* quoted here; values are always bound
as parameters. A value is rendered as a literal for one purpose: the statement shown to a person as evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

MAX_NAME_CHARS = 80
"""Longer texts are descriptions."""

MAX_NAME_WORDS = 8
"""More words are a sentence."""

MIN_NAME_SHARE = 0.8
"""Share of a column's values that must look like names before the column counts as one of names."""

MIN_DISTINCT_SHARE = 0.5
"""Below this a column holds categories ("rocky", "gas giant"), of which each would bring half a table as evidence."""

_LETTER = re.compile(r"[^\W\d_]")
_URL_OR_MAIL = re.compile(r"^[a-z][a-z0-9+.-]*://|^www\.|^\S+@\S+\.\S+$", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"^(?=.*\d)[0-9a-f]{16,}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$|^\S{41,}$", re.IGNORECASE
)
_MONTHS = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    # ISO 8601 with or without a time; 12.07.1969 and 7/12/69; 20 July 1969; July 20, 1969; July 1969
    rf"^\d{{4}}-\d{{2}}(?:-\d{{2}})?(?:[T ].*)?$|^\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{2,4}}$"
    rf"|^(?:\d{{1,2}}\s+)?{_MONTHS}\s+(?:\d{{1,2}},?\s+)?\d{{4}}$",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"^[<>~≈±+-]?\s*\d[\d\s,.]*(?:e[+-]?\d+)?\s*(?:[%°µ]|[^\W\d_]{1,3}[²³]?(?:/[^\W\d_]{1,3}[²³]?)?)?$", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?;]\s+[a-z]|\n")
_FILLERS = frozenset({"yes", "no", "true", "false", "null", "none", "n/a", "na", "nan", "unknown", "other", "tbd"})


def identifier(name: str) -> str:
    """A table or column name, quoted for SQL as the standard has it.

    Raises:
        ValueError: the name holds a NUL, which no quoting can carry.
    """
    if "\0" in name:
        raise ValueError("An SQL identifier cannot hold a NUL character.")
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value of SQLite's five storage classes, written so that a person can paste the statement and find it again."""
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(int(value))
        case float() if math.isnan(value):
            return "NULL"
        case float() if math.isinf(value):
            return "9e999" if value > 0 else "-9e999"
        case float():
            return repr(value)
        case bytes():
            return f"X'{value.hex()}'"
        case str() if "\0" in value:
            # A literal would end at the NUL.
            return f"CAST(X'{value.encode().hex()}' AS TEXT)"
        case str():
            return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"No SQL literal for a {type(value).__name__}.")


def is_name(value: str) -> bool:
    """Whether a text could be the name of something, rather than a number, a date, an address, a code or prose."""
    text = value.strip()
    words = text.split()
    if not 2 <= len(text) <= MAX_NAME_CHARS or len(words) > MAX_NAME_WORDS or text.casefold() in _FILLERS:
        return False
    if not _LETTER.search(text) or _SENTENCE.search(text) or (text[-1] in ".!?" and len(words) > 3):
        return False
    return not any(pattern.search(text) for pattern in (_URL_OR_MAIL, _IDENTIFIER, _DATE, _QUANTITY))


def is_name_column(sample: Sequence[str]) -> bool:
    """Whether a column holds names, judged by a sample of its values, repetitions included."""
    distinct = set(sample)
    if not distinct or len(distinct) < MIN_DISTINCT_SHARE * len(sample):
        return False
    return sum(map(is_name, distinct)) >= MIN_NAME_SHARE * len(distinct)
