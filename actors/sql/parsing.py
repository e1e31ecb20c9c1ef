"""What is wrong with a statement, in better words than a server's: for the message alone, nothing is decided here.

The statement is parsed after it was refused, so one that is fine costs nothing, and what the parser does not know does
no harm.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

from actors.errors import GatherumError

E = TypeVar("E", bound=GatherumError)

MAX_CHARS: Final = 4000
"""Longer statements are not parsed again: it takes about a millisecond for every hundred characters."""

_DIALECTS: Final = {"postgresql": "postgres", "mysql": "mysql", "sqlite": "sqlite"}
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


async def told(error: E, sql: str, kind: str) -> E:
    """The same error, with what a parser has to say about the statement."""
    if len(sql) > MAX_CHARS:
        return error
    hint = await asyncio.to_thread(remark, sql, kind)
    return type(error)(f"{error.detail} {hint}") if hint else error


def remark(sql: str, kind: str) -> str:
    """A sentence about a statement that is no single query, or no SQL; empty if there is nothing to say."""
    # It is loaded for the first statement that is refused, which takes 0.2 s.
    import sqlglot
    from sqlglot import errors, expressions

    try:
        parsed = [part for part in sqlglot.parse(sql, dialect=_DIALECTS[kind]) if part is not None]
    except errors.ParseError as error:
        first = error.errors[0] if error.errors else {}
        if not first.get("line"):
            return ""
        near = _COLOURS.sub("", str(first.get("highlight", ""))).strip()
        return f"Look at line {first['line']}, column {first['col']}" + (f", near {near!r}." if near else ".")
    except (errors.SqlglotError, RecursionError, ValueError):
        return ""
    if len(parsed) > 1:
        return f"There are {len(parsed)} statements in it."
    for part in parsed:
        for node in part.walk():
            if isinstance(node, expressions.DML | expressions.DDL) and not isinstance(node, expressions.Query):
                return f"It holds {_article(node.key)}."
    return ""


def _article(word: str) -> str:
    return ("an " if word[:1].lower() in "aeiou" else "a ") + word.upper()
