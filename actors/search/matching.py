"""Which stored lookups a question calls for, and what their parameters are in it.

Nobody writes SQL for a question here; somebody who knows the database has, and described it. A lookup is called where
its description says what the question says, and the question has all that its parameters need: names of the right
column, numbers, dates. Both are judged by words alone, so the same question always calls for the same lookups, and it
is as easy to see why. In doubt nothing is called: a row that answers another question is worse than none.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from actors.messages import Link, LinkedEntity, LookupCall, Parameter, Scalar, StoredLookup
from actors.search.answer import FILLERS
from actors.search.language import STOP_WORDS, content_stems, stems

THRESHOLD: Final = 0.6
"""Harmonic mean of the share of the question's words that a lookup knows and of the share of its description's words
that the question has, from which it is called: say, three of five words each way."""

MOST_CALLS: Final = 2
"""Lookups called for one question."""

BESIDE_THE_BEST: Final = 0.9
"""Share of the best score that a second lookup must reach."""

REMEMBERED: Final = 4096
"""Descriptions and names whose stems are kept: with them, a question is compared with 50 lookups in a fifth of the
time."""

_NUMBER = re.compile(r"(?<![\w.,-])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w-]|[.,]\d)")
_WORDS_FOR_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
_COUNTS: Final = {word: number for number, word in enumerate(_WORDS_FOR_NUMBERS.split(), 1)}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!\d)(?P<year>\d{4})-(?P<number>\d{1,2})-(?P<day>\d{1,2})(?!\d)",
        rf"\b{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})\b",
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+(?P<year>\d{{4}})\b",
    )
)
_WORD = re.compile(r"[^\W_]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SENTENCE = re.compile(r"[.;\n]\s*")
_NO = frozenset({"no", "not", "without", "never"})

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Match:
    """A lookup that a question calls for.

    Attributes:
        score: between `THRESHOLD` and 1.
        call: with its arguments.
    """

    score: float
    call: LookupCall


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in a question; `whole` where it is an integer, `year` where it looks like one."""

    span: _Span
    value: float
    whole: bool
    year: bool


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a question offers to parameters, each with its place."""

    text: str
    entities: Sequence[LinkedEntity]
    numbers: Sequence[_Number]
    dates: Sequence[tuple[_Span, str]]


def choose(text: str, entities: Sequence[LinkedEntity], lookups: Iterable[StoredLookup]) -> list[Match]:
    """The lookups that a question calls for, best first, at most `MOST_CALLS`.

    Args:
        text: the question.
        entities: the names in it, linked.
        lookups: of the sources that it may ask.
    """
    facts: _Facts | None = None
    found: list[Match] = []
    for lookup in lookups:
        facts = facts or _facts(text, entities)
        match = _match(lookup, facts)
        if match is not None:
            found.append(match)
    # By name in the end, so that equals do not change places.
    found.sort(key=lambda match: (-match.score, match.call.source, match.call.name))
    return [match for match in found[:MOST_CALLS] if match.score >= BESIDE_THE_BEST * found[0].score]


def _match(lookup: StoredLookup, facts: _Facts) -> Match | None:
    filled = _fill(lookup, facts)
    if filled is None:
        return None
    arguments, spans, types = filled
    # What went into a parameter is no word of the question any more; what it is has become one.
    asked = _content(_without(facts.text, spans))
    also = _words(lookup.name).union(*(_words(parameter.name) for parameter in lookup.parameters))
    sentences = _sentences(lookup.description)
    # But a name alone, of whatever kind, asks for nothing.
    score = max((_agreement(asked | (types & words), words, also) for words in sentences if words & asked), default=0.0)
    if score < THRESHOLD:
        return None
    return Match(score, LookupCall(lookup.source, lookup.name, arguments))


def _agreement(asked: Set[str], words: Set[str], also: Set[str]) -> float:
    """Harmonic mean of two shares: of the question that the lookup knows, and of its description that is asked."""
    one, other = len(asked & (words | also)) / len(asked), len(asked & words) / len(words)
    return 2 * one * other / (one + other)


# --- parameters ------------------------------------------------------------------------------------------------------


def _fill(lookup: StoredLookup, facts: _Facts) -> tuple[tuple[tuple[str, Scalar], ...], list[_Span], set[str]] | None:
    """Arguments from the question, the places they come from, and the words for what they are; None if one lacks."""
    arguments: dict[str, Scalar] = {}
    spans: list[_Span] = []
    types: set[str] = set()
    # Those that take one column's values first, or another one might take its name away from it.
    for parameter in sorted(lookup.parameters, key=lambda parameter: not parameter.column):
        value, span, kinds = _argument(lookup, parameter, facts, spans)
        if value is None:
            if parameter.required:
                return None
            value = parameter.default
        if span is not None:
            spans.append(span)
            types |= kinds | _words(parameter.name)
        arguments[parameter.name] = value
    return tuple((parameter.name, arguments[parameter.name]) for parameter in lookup.parameters), spans, types


def _argument(
    lookup: StoredLookup, parameter: Parameter, facts: _Facts, taken: Sequence[_Span]
) -> tuple[Scalar, _Span | None, set[str]]:
    if parameter.type == "boolean":
        return _truth(parameter, facts.text), None, set()
    if parameter.type == "text" or parameter.column:
        return _named(lookup, parameter, facts.entities, taken)
    options: list[tuple[_Span, Scalar, int]]
    if parameter.type == "date":
        options = [(span, day, 0) for span, day in facts.dates]
    else:
        yearly = "year" in _words(parameter.name)
        whole = parameter.type == "integer"
        options = [
            (number.span, int(number.value) if whole else number.value, number.year is yearly)
            for number in facts.numbers
            if number.whole or not whole
        ]
    options = [option for option in options if option[0] not in taken]
    if not options:
        return None, None, set()
    words = _words(parameter.name) | _content(parameter.description)
    span, value, _ = max(options, key=lambda option: (option[2], _near(facts.text, option[0], words), -option[0][0]))
    return value, span, set()


def _named(
    lookup: StoredLookup, parameter: Parameter, entities: Sequence[LinkedEntity], taken: Sequence[_Span]
) -> tuple[Scalar, _Span | None, set[str]]:
    """The name in the question that fits a parameter best, as the source has it."""
    words = _words(parameter.name) | _content(parameter.description)
    best: tuple[int, LinkedEntity, Link] | None = None
    for entity in entities:
        if (entity.start, entity.end) in taken:
            continue
        for link in entity.links:
            if link.source != lookup.source or link.table is None or link.column is None or link.value is None:
                continue
            if parameter.column:
                if f"{link.table}.{link.column}".casefold() != parameter.column.casefold():
                    continue
                fit = 3
            else:
                fit = len(words & _kinds(link, entity))
            if best is None or fit > best[0]:
                best = (fit, entity, link)
    if best is None:
        return None, None, set()
    _, entity, link = best
    value: Scalar = link.value
    if parameter.type != "text":
        value = _number_in(link.value or "", parameter)
    return value, (entity.start, entity.end), set(_kinds(link, entity))


def _number_in(value: str, parameter: Parameter) -> Scalar:
    try:
        return int(value) if parameter.type == "integer" else float(value)
    except ValueError:
        return None


def _kinds(link: Link, entity: LinkedEntity) -> frozenset[str]:
    """Words for what a name is the name of: its table's, its label's."""
    return _words(link.table or "") | (_words(entity.label.lower()) if entity.label != "VALUE" else frozenset())


def _truth(parameter: Parameter, text: str) -> bool | None:
    words = _words(parameter.name)
    before = ""
    for found in _WORD.finditer(text):
        word = found.group().lower()
        if words & set(stems(word)):
            return before not in _NO
        before = word
    return None


def _near(text: str, span: _Span, words: Set[str]) -> int:
    """How near a place is to one of the words, counted in words; 0 where it is not."""
    start, end = span
    before = [found.group() for found in _WORD.finditer(text[:start])][:-4:-1]
    after = [found.group() for found in _WORD.finditer(text[end:])][:3]
    for distance, pair in enumerate(zip(_padded(before), _padded(after), strict=True)):
        if words & set(stems(" ".join(pair))):
            return 3 - distance
    return 0


def _padded(words: list[str]) -> list[str]:
    return [*words, "", "", ""][:3]


# --- what a question offers -------------------------------------------------------------------------------------------


def _facts(text: str, entities: Sequence[LinkedEntity]) -> _Facts:
    dates = _dates(text)
    names = [(entity.start, entity.end) for entity in entities if entity.links]
    return _Facts(text, entities, _numbers(text, [*names, *(span for span, _ in dates)]), dates)


def _numbers(text: str, elsewhere: Sequence[_Span]) -> list[_Number]:
    """Numbers that are no part of a name or a date, in order."""
    found = []
    for match in _NUMBER.finditer(text):
        if any(match.start() < end and start < match.end() for start, end in elsewhere):
            continue
        value = float(match.group().replace(",", ""))
        whole = "." not in match.group()
        found.append(_Number(match.span(), value, whole, whole and "," not in match.group() and 1000 <= value < 2200))
    for match in _WORD.finditer(text):
        count = _COUNTS.get(match.group().lower())
        # "one" is mostly no number: "which one", "one of".
        if count is not None and count > 1 and not any(s < match.end() and match.start() < e for s, e in elsewhere):
            found.append(_Number(match.span(), float(count), True, False))
    return sorted(found, key=lambda number: number.span)


def _dates(text: str) -> list[tuple[_Span, str]]:
    found: dict[_Span, str] = {}
    for pattern in _DATES:
        for match in pattern.finditer(text):
            parts: Mapping[str, str | None] = match.groupdict()
            number = parts.get("number")
            month = int(number) if number else 1 + _MONTHS.index(str(parts["month"]).lower()[:3])
            try:
                day = datetime.date(int(parts["year"] or 0), month, int(parts["day"] or 0))
            except ValueError:
                continue  # the 31st of February is no date
            found[match.span()] = day.isoformat()
    return sorted(found.items())


def _without(text: str, spans: Iterable[_Span]) -> str:
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


@functools.lru_cache(maxsize=REMEMBERED)
def _sentences(description: str) -> tuple[frozenset[str], ...]:
    return tuple(filter(None, map(_content, _SENTENCE.split(description))))


@functools.lru_cache(maxsize=REMEMBERED)
def _content(text: str) -> frozenset[str]:
    return frozenset(content_stems(text)) - FILLERS


@functools.lru_cache(maxsize=REMEMBERED)
def _words(name: str) -> frozenset[str]:
    """Stems of the words of an identifier, which may be in `snake_case` or `camelCase`."""
    parts = [part.lower() for part in _PART.findall(name)] or [name.lower()]
    return frozenset(stems(" ".join(part for part in parts if part not in STOP_WORDS)))
