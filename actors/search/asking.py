"""What a question asks for: a person, a time, a length …, as far as its words tell, and whether a sentence has one.

Words in common find the sentences that are about what a question is about; of those, one that has what is asked for is
the answer. The kinds are few and coarse, since they only decide between sentences that fit otherwise. The patterns are
of English, like the stems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from functools import partial
from typing import Final

Fits = Callable[[str], bool]
"""Whether a sentence has what is asked for."""

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve dozen hundred thousand million"
_MONTHS = "january february march april may june july august september october november december"
_FIGURE = rf"(?:\d|\b(?:{'|'.join(_NUMBERS.split())})\b)"
_LONG = r"(?:(?:kilo|centi|milli)?met(?:er|re)s?|km|cm|mm|m|miles?|feet|foot|inch(?:es)?|yards?|light[ -]years?|au)\b"
_LASTING = r"(?:second|minute|hour|day|week|month|year|decade|centur)"
_HEAVY = r"(?:kg|kilograms?|tons?|tonnes?|grams?|pounds?)\b"

_PATTERNS = (
    # A point in time.
    (
        r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century)\b",
        rf"\b(?:1\d|20)\d\d\b|\b(?:{'|'.join(_MONTHS.split())})\b|\bcentury\b|\d (?:bc|ad)\b",
    ),
    # A span of it.
    (
        r"\bhow long\b.*\b(?:take|last|need|live|stay)|\bhow old\b|\b(?:period|duration|age) of\b"
        rf"|\bhow many (?:\w+ )?{_LASTING}",
        rf"{_FIGURE}.*\b{_LASTING}",
    ),
    # A length, or several.
    (
        r"\bhow (?:far|large|big|wide|tall|high|long|deep|thick|small)\b"
        r"|\b(?:distance|diameter|radius|height|length|width|depth|size) of\b",
        rf"{_FIGURE}.*\b{_LONG}",
    ),
    (r"\bhow (?:hot|cold|warm)\b|\btemperature\b", rf"{_FIGURE}.*(?:°|\bdegrees?\b|\bkelvin\b)"),
    (r"\bhow (?:heavy|massive)\b|\b(?:mass|weight) of\b", rf"{_FIGURE}.*\b{_HEAVY}"),
    (r"\bhow fast\b|\b(?:speed|velocity) of\b", rf"{_FIGURE}.*(?:/s|/h|\bper (?:second|hour)\b|\bmph\b|\bknots?\b)"),
    (r"\bhow (?:many|much|often)\b|\b(?:number|population|percentage|price|cost) of\b", _FIGURE),
    # A reason.
    (r"^why\b|\bfor what reason\b", r"\b(?:because|since|due to|owing to|so that|in order to|therefore|reason)\b"),
)
_KINDS: Final = tuple(
    (re.compile(asked, re.IGNORECASE), re.compile(has, re.IGNORECASE | re.DOTALL)) for asked, has in _PATTERNS
)
"""Of what a question looks like, and of what a sentence has then; the first that a question matches counts."""

_WHO = re.compile(r"\b(?:who|whom|whose)\b", re.IGNORECASE)
_NAME = re.compile(r"(?<=[\w,;)] )[^\W\d_a-z][^\W\d_A-Z]+")
_CAPITAL = re.compile(r"(?<=[^.?!:] )[^\W\d_a-z][\w'-]*")


def asked_for(question: str) -> Fits | None:
    """A test for sentences that have what the question asks for; None where its words do not tell what that is."""
    for asked, has in _KINDS:
        if asked.search(question):
            return partial(_matches, has)
    if _WHO.search(question):
        known = {word.casefold() for word in re.findall(r"\w+", question)}
        return partial(_has_other_name, known)
    return None


def named(question: str) -> str:
    """The words that a question writes with a capital within a sentence; empty where it writes all words so."""
    return " ".join(_CAPITAL.findall(question)) if any(map(str.islower, question.split())) else ""


def _matches(pattern: re.Pattern[str], sentence: str) -> bool:
    return pattern.search(sentence) is not None


def _has_other_name(known: Set[str], sentence: str) -> bool:
    return any(word.casefold() not in known for word in _NAME.findall(" ".join(sentence.split())))
