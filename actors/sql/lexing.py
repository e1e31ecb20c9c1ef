"""SQL taken apart into words, strings and parameters, as each kind of database does it; no grammar.

It finds the `:names` to bind, and what a statement begins with and calls. Where the two servers read a text in ways
that depend on their state, or in several pieces, it is refused instead of guessed: what this and the server read
differently would be a hole in a fence. It is never the only fence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from actors.errors import InvalidInput, Refused

Dialect = Literal["postgresql", "mysql", "sqlite"]

MAX_CHARS: Final = 100_000
"""Longest statement."""
MAX_PARAMS: Final = 1000
"""Places for parameters in a statement."""

# As the servers' own lexers have them: whatever lies beyond ASCII is a letter to them, and never a blank or a digit.
# Python's \w, \s and \d go by Unicode, and what they take apart otherwise could hide a call in what seems a string.
_WORD = r"[A-Za-z_\x80-\U0010ffff]"
_PART = r"[A-Za-z0-9_\x80-\U0010ffff]"
_COMMON = rf"""
  | (?P<param>(?<!:):{_WORD}{_PART}*)
  | (?P<word>{_WORD}(?:{_PART}|\$)*)
  | (?P<number>0[xX][0-9A-Fa-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<operator>::|:=)
  | (?P<other>.)
"""
_TOKENS: Final[Mapping[Dialect, re.Pattern[str]]] = {
    "postgresql": re.compile(
        rf"""
    (?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
  | (?P<comment>/\*)
  | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
  | (?P<dollar>\$(?:{_WORD}{_PART}*)?\$)
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")"""
        + _COMMON,
        re.VERBOSE | re.DOTALL,
    ),
    "mysql": re.compile(
        r"""
    (?P<space>[ \t\n\r\f\v]+|\#[^\n]*|--(?=[\x00-\x20\x7f]|\Z)[^\n]*)
  | (?P<comment>/\*)
  | (?P<string>(?:[bBxXnN])?'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
  | (?P<quoted>`(?:[^`]|``)*`)"""
        + _COMMON,
        re.VERBOSE | re.DOTALL,
    ),
    "sqlite": re.compile(
        r"""
    (?P<space>[ \t\n\r\f]+|--[^\n]*)
  | (?P<comment>/\*)
  | (?P<string>[xX]?'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])"""
        + _COMMON,
        re.VERBOSE | re.DOTALL,
    ),
}
_RUNS_ON: Final = re.compile(rf"{_PART}|[.$]")
_ENDS = {"'": "A string", '"': "A quoted name", "`": "A quoted name"}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a statement.

    Attributes:
        kind: `space` (comments too), `string`, `quoted` (a name), `param`, `word`, `number`, `operator` or `other`.
        text: as it stands there.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement taken apart.

    Attributes:
        text: it, without a semicolon at its end, its parameters in the server's form.
        first: the word it begins with, in lower case, brackets before it left out.
        words: every word that is not quoted, in lower case.
        pairs: every two words without quotes that follow one another, in lower case.
        calls: every name that a bracket follows, as the server looks it up.
        names: the parameters in the server's order.
    """

    text: str
    first: str
    words: frozenset[str] = frozenset()
    pairs: frozenset[tuple[str, str]] = frozenset()
    calls: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()

    def values(self, params: Mapping[str, Any]) -> list[Any]:
        """The values in the server's order.

        Raises:
            InvalidInput: one is missing, or has no place.
        """
        if missing := sorted(set(self.names) - params.keys()):
            raise InvalidInput(f"There is no value for the parameter {missing[0]!r}.")
        if unused := sorted(params.keys() - set(self.names)):
            raise InvalidInput(f"The statement has no parameter {unused[0]!r}; write it there as :{unused[0]}.")
        return [params[name] for name in self.names]


def read(sql: str, dialect: Dialect) -> Statement:
    """Take a statement apart.

    Raises:
        InvalidInput: it is too long, empty, has too many parameters, or something in it is not closed.
        Refused: it holds what servers read in more than one way.
    """
    if len(sql) > MAX_CHARS:
        raise InvalidInput(f"The statement is longer than {MAX_CHARS:,} characters.")
    if "\0" in sql:
        raise InvalidInput("The statement holds a NUL character.")
    pieces = list(tokens(sql, dialect))
    while pieces and (pieces[-1].kind == "space" or pieces[-1].text == ";"):
        pieces.pop()
    solid = [token for token in pieces if token.kind != "space"]
    if any(token.text == ";" for token in solid):
        raise Refused("There is more than one statement. Send one at a time.")
    begin = next((token for token in solid if token.text != "("), None)
    if begin is None:
        raise InvalidInput("There is no statement.")
    calls, pairs = set(), set()
    for token, following in itertools.pairwise(solid):
        if token.kind == following.kind == "string" and dialect == "postgresql":
            raise Refused("Two strings follow one another. Write them as one, or put || between them.")
        if token.kind == following.kind == "word":
            pairs.add((token.text.lower(), following.text.lower()))
        if following.text == "(" and token.kind in ("word", "quoted"):
            calls.add(_name(token, dialect))
    if sum(token.kind == "param" for token in solid) > MAX_PARAMS:
        raise InvalidInput(f"The statement has more than {MAX_PARAMS:,} parameters.")
    text, names = _placed(pieces, dialect)
    return Statement(
        text,
        begin.text.lower() if begin.kind == "word" else "",
        frozenset(token.text.lower() for token in solid if token.kind == "word"),
        frozenset(pairs),
        frozenset(calls),
        names,
    )


def tokens(sql: str, dialect: Dialect) -> Iterator[Token]:
    """The pieces of a statement, in order; comments are a blank.

    Raises:
        InvalidInput: something in it is not closed.
        Refused: it holds what servers read in more than one way.
    """
    pattern, at = _TOKENS[dialect], 0
    while at < len(sql):
        found = pattern.match(sql, at)
        # The last branch takes any character.
        assert found is not None and found.lastgroup is not None  # noqa: S101, PT018
        kind, text = found.lastgroup, found[0]
        if kind == "comment":
            if dialect == "mysql" and sql.startswith(("/*!", "/*M!"), at):
                raise Refused("Comments that a server runs (/*! … */) are not taken.")
            end = _end_of_comment(sql, at, nested=dialect == "postgresql")
            kind, text = "space", " "
        elif kind == "dollar":
            closing = sql.find(text, found.end())
            if closing < 0:
                raise InvalidInput(f"A string that begins with {text} is not closed.")
            end = closing + len(text)
            kind, text = "string", sql[at:end]
        else:
            end = found.end()
        if kind == "other" and text in _ENDS and not (text == "`" and dialect == "postgresql"):
            raise InvalidInput(f"{_ENDS[text]} is not closed: it begins with {sql[at : at + 20]}.")
        if kind == "quoted" and text[0] in "uU":
            raise Refused('Names with escapes (U&"…") are not taken. Write the characters themselves.')
        if kind == "number" and _RUNS_ON.match(sql, end):
            # Some versions end the number there, and others begin a name with it.
            raise Refused("A number and a word run together. Put a blank between them.")
        yield Token(kind, text)
        at = end


def _end_of_comment(sql: str, at: int, *, nested: bool) -> int:
    depth, at = 1, at + 2
    while depth:
        found = re.compile(r"/\*|\*/").search(sql, at)
        if found is None:
            raise InvalidInput("A comment is not closed.")
        at = found.end()
        if found[0] == "*/":
            depth -= 1
        elif nested:
            depth += 1
    return at


def _name(token: Token, dialect: Dialect) -> str:
    if token.kind == "word":
        return token.text.lower()
    quote = token.text[0]
    name = token.text[1:-1].replace(quote * 2, quote)
    return name if dialect == "postgresql" else name.lower()


def _placed(pieces: list[Token], dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    """The text with its parameters in the server's form, and their names in its order."""
    if dialect == "mysql":
        text = "".join("?" if token.kind == "param" else token.text for token in pieces)
        return text, tuple(token.text[1:] for token in pieces if token.kind == "param")
    numbers: dict[str, int] = {}
    parts = []
    for token in pieces:
        if token.kind == "param":
            # Set apart, or it would run together with a $ or a word beside it.
            parts.append(f" ${numbers.setdefault(token.text[1:], len(numbers) + 1)} ")
        else:
            parts.append(token.text)
    return "".join(parts), tuple(numbers)
