"""Choosing what to say: sentences quoted from passages, and rows told as sentences, each with its citation.

Nothing is generated. A sentence is a candidate if it shares a meaningful word with the question; of a table it is a row
that is quoted, for nobody finds a figure in a whole one. Candidates are ranked by how much of the question they cover,
rare words counting more (idf over the candidate passages themselves: it needs nothing from the index and adapts to what
was found), and by whether they have what is asked for (`asking.py`). What does not speak of what the question names,
what covers too little of it, and near repetitions are dropped. Pure and cheap: it runs for every question.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from actors.messages import LinkedEntity, PageCitation, Passage, Row, Sentence, Words
from actors.reading import chunking
from actors.search.asking import asked_for, named
from actors.search.language import content_stems, stems
from actors.search.telling import tell_rows

NOTHING_FOUND = "No answer was found in the documents."

NAME_WEIGHT = 1.5
"""How much more a word of a name counts than another one as rare."""

MOST_NAMES = 0.5
"""Share, by weight, of the names in a question that a sentence or its context must have."""

CONTEXT_WEIGHT = 0.5
"""What a word counts that stands in the title or before the sentence in its passage: there `it` gets its meaning."""

RANK_WEIGHT = 0.1
"""Advantage of the first passage over the last; enough to decide between equals."""

KIND_BONUS = 0.3
"""For a sentence that has what is asked for: a year, a length, somebody's name."""

MEAGRE = 0.6
"""Factor for headings and fragments, which name the subject but say little of it."""

SHORT = 6
"""Different words below which a sentence without a full stop counts as such."""

LEAST_COVERAGE = 0.25
"""Share of the question's weight that a sentence must cover to be quoted. Measured (`benchmarks/answers.py`, and the
same over the public sets): nothing is quoted for 98 % of cranfield's questions asked of a library about other things,
for 97 % of scifact's over cranfield and 60 % of cranfield's over scifact, whose subjects are nearer; each over its own,
92 % and 86 % are answered. At 0.22 these were 94, 94, 48, 94 and 88 %, at 0.30 99, 99, 77, 80 and 79 %."""

BESIDE_THE_BEST = 0.85
"""Share of the best score that a further sentence must reach. With 0.5, as before, 2.1 sentences were quoted instead of
1.7, and held the known one in one question more of 200."""

SAME = 0.7
"""Jaccard similarity of stems from which two sentences say the same."""

LONG = 40
"""Different words beyond which a sentence loses score: it covers words by its size."""

FILLERS = frozenset(stems("tell give list name find show explain describe please many much kind type call know mean"))
"""Words of asking, as stems: passages are searched for them too, but no sentence is quoted on their account."""

REMEMBERED_PASSAGES = 8192
"""Passages whose sentences are kept, about 5.5 KB each: cutting and stemming the five of an answer takes 0.5 ms, more
than all the rest."""

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
    fits: bool = False


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
    names = {stem for name in [named(question), *(entity.text for entity in entities)] for stem in stems(name)}
    names &= wanted
    weights = _weights(wanted, candidates, total, names)
    full = sum(weights.values())
    named_weight = sum(weights[term] for term in names)
    fits = asked_for(question)
    fit = []
    for candidate in candidates:
        own = sum(weights[term] for term in candidate.hits)
        around = sum(weights[term] for term in candidate.context)
        coverage = (own + CONTEXT_WEIGHT * around) / full
        # What is said of others, in the same words, is no answer about what the question names.
        about = sum(weights[term] for term in names & (candidate.hits | candidate.context)) >= MOST_NAMES * named_weight
        if about and coverage >= LEAST_COVERAGE:
            candidate.score = coverage * _form(candidate) + candidate.advantage
            candidate.fits = fits is not None and fits(candidate.passage.text[candidate.start : candidate.end])
            if candidate.fits:
                candidate.score += KIND_BONUS
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


def _weights(wanted: frozenset[str], candidates: Sequence[_Candidate], total: int, names: Set[str]) -> dict[str, float]:
    """Each term's idf over the candidate passages' sentences (as in BM25), names counting more."""
    counts = dict.fromkeys(wanted, 0)
    for candidate in candidates:
        for term in candidate.hits:
            counts[term] += 1
    return {
        term: math.log1p((total - count + 0.5) / (count + 0.5)) * (NAME_WEIGHT if term in names else 1.0)
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
        # Beside one that has what is asked for, one that has not is noise.
        if candidate.fits < ranked[0].fits:
            continue
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
