"""The wording of a question: its words and phrases in a language, and what is known of each word.

How a text is read is the same for every index; how rare its words are is told by each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from actors.search.bags import Counted
from actors.search.bm25 import Statistics
from actors.search.language import Language

MAX_PHRASES: Final = 8
"""Phrases of a query that are looked up as such; the words of further ones are looked up like others."""

_TERM_CHARS = 64
"""Characters of a query that are read per term wanted: what a term and its share of stop words takes, amply."""

_PHRASE = re.compile(r"[\"“”]([^\"“”]+)[\"“”]")
_OPEN = re.compile(r"(?<![^\W_])([^\W_]+)\*")
_TEXT: Final = "text_"


@dataclass(frozen=True, slots=True)
class Wording:
    """A query in one language.

    Attributes:
        terms: stems and how often each occurs, those of phrases included.
        phrases: each as stems, in order.
        only: there is nothing beside the phrases, so they must be held to.
        prefixes: words whose ends are open.
    """

    terms: dict[str, int]
    phrases: tuple[list[str], ...]
    only: bool
    prefixes: tuple[str, ...]

    @property
    def spoken(self) -> list[list[str]]:
        """The phrases of more than a word; one of a word is a term like others."""
        return [phrase for phrase in self.phrases if len(phrase) > 1]


class Known(NamedTuple):
    """What is known of a word in a field, as of the last commit.

    Attributes:
        frequency: entries that hold it; some that were deleted may count too.
        field: with the language.
        stem: or, of an open end, the word itself.
        key: what bags know it by.
        number: of the field in bags.
        rarity: how much it says by how few entries hold it.
        average: words that the field has on the average.
    """

    frequency: int
    field: str
    stem: str
    key: int
    number: int
    rarity: float
    average: float


class Word(NamedTuple):
    """A word of a query as it is looked up.

    Attributes:
        known: what does not depend on the query.
        weight: times it counts, with the field's boost.
    """

    known: Known
    weight: float


def parse(text: str, words: Language, *, max_terms: int) -> Wording:
    """Read a question in a language.

    Args:
        text: anything; stop words are dropped unless there is nothing else.
        words: of the language.
        max_terms: terms that are taken; the rest are ignored.
    """
    head = text[: max_terms * _TERM_CHARS]
    phrases: list[list[str]] = []
    if '"' in head or "“" in head:
        stems = (words.stems(match.group(1)) for match in _PHRASE.finditer(head))
        phrases = [phrase[:max_terms] for phrase in stems if phrase][:MAX_PHRASES]
    prefixes: dict[str, None] = {}
    if "*" in head:
        prefixes = dict.fromkeys(match.group(1).lower() for match in _OPEN.finditer(head))
    found = words.content_stems(head) or list(dict.fromkeys(words.stems(head)))
    terms: dict[str, int] = {}
    for term in found:
        if term in terms or len(terms) < max_terms:
            terms[term] = terms.get(term, 0) + 1
    only = bool(phrases) and not words.stems(_PHRASE.sub(" ", head))
    return Wording(terms, tuple(phrases), only, tuple(prefixes)[:max_terms])


def parted(words: Sequence[Word], *, least: float, most: float) -> tuple[list[Word], list[Word]]:
    """The words to find entries by, and the others: the rarest of the text, and the same in other fields.

    What a title or a heading holds, the text holds too.

    Args:
        words: of a query.
        least: entries that those to find by are in, if all words together are in as many.
        most: entries beyond `least` that no further word may bring them to.
    """
    held = 0
    common = set[str]()
    for known, _ in sorted(words):
        if known.field.startswith(_TEXT):
            if held >= least and held + known.frequency > most:
                common.add(known.stem)
            else:
                held += known.frequency
    if not common:
        return list(words), []
    # A word with an open end may stand for some in a title that it does not stand for in the text.
    left = [word for word in words if word.known.stem in common]
    return [word for word in words if word.known.stem not in common], left


def counted(words: Sequence[Word], statistics: Statistics | None = None) -> list[Counted]:
    """Words as bags take them; how rare they are is told by statistics, or else by what is here."""
    if statistics is None:
        return [Counted(known.key, known.number, weight * known.rarity, known.average) for known, weight in words]
    return [
        Counted(
            known.key,
            known.number,
            weight * statistics.rarity((known.field, known.stem)),
            statistics.average(known.field),
        )
        for known, weight in words
    ]
