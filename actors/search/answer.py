"""Choosing what to say: sentences quoted from passages, and rows told as sentences, each with its citation.

Nothing is generated. A sentence is a candidate if it shares a meaningful word with the question; of a table it is a row
that is quoted, for nobody finds a figure in a whole one. Candidates are ranked
by how much of the question they cover, rare words counting more (idf over the candidate passages themselves: it needs
nothing from the index and adapts to what was found), and near repetitions are dropped. Pure and cheap: it runs for
every question.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from actors.messages import LinkedEntity, PageCitation, Passage, Row, Sentence, Words
from actors.reading import chunking
from actors.search.language import content_stems, stems
from actors.search.telling import tell_rows

NOTHING_FOUND = "No answer was found in the documents."

ENTITY_WEIGHT = 1.5
"""How much more a word of a known name counts than another one as rare."""

CONTEXT_WEIGHT = 0.5
"""What a word counts that stands in the title or before the sentence in its passage: there `it` gets its meaning."""

RANK_WEIGHT = 0.1
"""Advantage of the first passage over the last; enough to decide between equals."""

QUANTITY_BONUS = 0.15
"""For a figure in the sentence where the question asks for one."""

MEAGRE = 0.6
"""Factor for headings and fragments, which name the subject but say little of it."""

SHORT = 6
"""Different words below which a sentence without a full stop counts as such."""

LEAST_COVERAGE = 0.22
"""Share of the question's weight that a sentence must cover to be quoted. Measured: over cranfield, 97 % of its own
questions are answered, and 8 % of scifact's, which it cannot answer; over scifact, 95 % of its own."""

BESIDE_THE_BEST = 0.5
"""Share of the best score that a further sentence must reach."""

SAME = 0.7
"""Jaccard similarity of stems from which two sentences say the same."""

LONG = 40
"""Different words beyond which a sentence loses score: it covers words by its size."""

FILLERS = frozenset(stems("tell give list name find show explain describe please many much kind type call know mean"))
"""Words of asking, as stems: passages are searched for them too, but no sentence is quoted on their account."""

REMEMBERED_PASSAGES = 1024
"""Passages whose sentences are kept, about 8 KB each: the passages that people ask for are few, and cutting and
stemming five of them takes 0.3 ms, more than all the rest."""

_QUANTITY = re.compile(
    r"\b(how (many|much|far|long|large|big|old|tall|high|wide|deep|fast|heavy|hot|cold|often)|when"
    r"|(what|which) (year|date|time)|distance|radius|diameter|mass|temperature|speed|length|height"
    r"|population|number)\b",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_ENDS = ".!?…:;”\"')]"


Statement = tuple[int, int, frozenset[str]]
"""A span of a passage that can be quoted, and its stems."""


@dataclass(slots=True)
class _Candidate:
    """A sentence that shares a word with the question."""

    passage: Passage
    start: int
    end: int
    stems: frozenset[str]
    hits: frozenset[str]
    context: frozenset[str]
    advantage: float
    score: float = 0.0


def choose(
    question: str, passages: Sequence[Passage], rows: Sequence[Row], entities: Sequence[LinkedEntity], *, limit: int
) -> tuple[Sentence, ...]:
    """Choose what answers the question.

    Rows of which the question asks for a column come first, then sentences from the passages, then the other rows.

    Args:
        question: as asked.
        passages: best first.
        rows: found by the names in the question.
        entities: the names in the question, with what they are linked to.
        limit: most sentences, rows included.

    Returns:
        Best first; empty if nothing fits.
    """
    terms = content_stems(question)
    asked, beside = tell_rows(frozenset(terms), rows, entities)
    quoted = _quote(question, terms, passages, entities, limit)
    # A long list of rows must not push out the documents altogether.
    first = asked[: max(1, limit - 1)] if quoted else asked
    return tuple([*first, *quoted, *beside][:limit])


def text_of(sentences: Sequence[Sentence]) -> str:
    """The sentences as one running text, or the plain statement that there is none."""
    parts = [" ".join(sentence.text.split()) for sentence in sentences]
    # Rows and fragments have no full stop of their own, and would run into what follows.
    return " ".join(part if part[-1:] in _ENDS else f"{part}." for part in parts) or NOTHING_FOUND


def _quote(
    question: str, terms: Sequence[str], passages: Sequence[Passage], entities: Sequence[LinkedEntity], limit: int
) -> list[Sentence]:
    wanted = frozenset(terms) - FILLERS
    if not wanted:
        return []
    candidates, total = _candidates(wanted, passages)
    if not candidates:
        return []
    weights = _weights(wanted, candidates, total, entities)
    full = sum(weights.values())
    quantity = _QUANTITY.search(question) is not None
    fit = []
    for candidate in candidates:
        own = sum(weights[term] for term in candidate.hits)
        around = sum(weights[term] for term in candidate.context)
        coverage = (own + CONTEXT_WEIGHT * around) / full
        if coverage >= LEAST_COVERAGE:
            candidate.score = coverage * _form(candidate) + candidate.advantage
            if quantity and _DIGIT.search(candidate.passage.text, candidate.start, candidate.end):
                candidate.score += QUANTITY_BONUS
            fit.append(candidate)
    fit.sort(key=lambda candidate: -candidate.score)
    return [_cited(candidate) for candidate in _distinct(fit, limit)]


def _candidates(wanted: frozenset[str], passages: Sequence[Passage]) -> tuple[list[_Candidate], int]:
    """The sentences that share a word with the question, and how many sentences there are in all."""
    found: list[_Candidate] = []
    seen: set[tuple[str, int, int]] = set()
    titles: dict[str, frozenset[str]] = {}
    total = 0
    for rank, passage in enumerate(passages):
        title = titles.get(passage.title)
        if title is None:
            title = titles[passage.title] = wanted.intersection(stems(passage.title))
        before = title
        advantage = RANK_WEIGHT * (1 - rank / len(passages))
        for start, end, words in _statements(passage):
            # Chunks of one page may overlap.
            place = (passage.document_id, passage.page, passage.start + start)
            if place in seen:
                continue
            seen.add(place)
            total += 1
            hits = wanted & words
            # A question answers nothing, and a heading that only repeats the question's words tells nothing new.
            if hits and not words <= wanted and passage.text[end - 1] != "?":
                found.append(_Candidate(passage, start, end, words, hits, before - hits, advantage))
            before |= hits
    return found, total


def _statements(passage: Passage) -> tuple[Statement, ...]:
    """What can be quoted of a passage: the sentences of prose, the rows of a table."""
    return _rows(passage.text, passage.words) if passage.kind == "table" else _sentences(passage.text)


@functools.lru_cache(maxsize=REMEMBERED_PASSAGES)
def _sentences(text: str) -> tuple[Statement, ...]:
    return _stemmed(text, chunking.sentences(text))


@functools.lru_cache(maxsize=REMEMBERED_PASSAGES)
def _rows(text: str, words: Words) -> tuple[Statement, ...]:
    return _stemmed(text, chunking.rows(text, words))


def _stemmed(text: str, spans: Sequence[chunking.Span]) -> tuple[Statement, ...]:
    return tuple((start, end, frozenset(stems(text[start:end]))) for start, end in spans)


def _weights(
    wanted: frozenset[str], candidates: Sequence[_Candidate], total: int, entities: Sequence[LinkedEntity]
) -> dict[str, float]:
    """Each term's idf over the candidate passages' sentences (as in BM25), names counting more."""
    names = {stem for entity in entities for stem in stems(entity.text)}
    counts = dict.fromkeys(wanted, 0)
    for candidate in candidates:
        for term in candidate.hits:
            counts[term] += 1
    return {
        term: math.log1p((total - count + 0.5) / (count + 0.5)) * (ENTITY_WEIGHT if term in names else 1.0)
        for term, count in counts.items()
    }


def _form(candidate: _Candidate) -> float:
    """Factor for how much a sentence looks like a statement of a readable length."""
    words = len(candidate.stems)
    if words > LONG:
        return LONG / words
    return MEAGRE if words < SHORT and candidate.passage.text[candidate.end - 1] not in _ENDS else 1.0


def _distinct(ranked: Sequence[_Candidate], limit: int) -> list[_Candidate]:
    """The first few that say something different."""
    chosen: list[_Candidate] = []
    for candidate in ranked:
        if len(chosen) == limit or candidate.score < BESIDE_THE_BEST * ranked[0].score:
            break
        if not any(_similar(candidate.stems, other.stems) for other in chosen):
            chosen.append(candidate)
    return chosen


def _similar(one: frozenset[str], other: frozenset[str]) -> bool:
    shared = len(one & other)
    return shared >= SAME * (len(one) + len(other) - shared)


def _cited(candidate: _Candidate) -> Sentence:
    passage, start, end = candidate.passage, candidate.start, candidate.end
    return Sentence(
        text=passage.text[start:end],
        citation=PageCitation(
            document_id=passage.document_id,
            title=passage.title,
            page=passage.page,
            boxes=passage.words.boxes(start, end),
            start=passage.start + start,
            end=passage.start + end,
        ),
    )
