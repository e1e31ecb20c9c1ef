"""BM25 by statistics of our own: held against the plain formula, and many indexes against one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.search.bm25 import K1, B, Curve, Statistics, floored
from actors.search.language import content_stems, stems
from actors.search.lexical import HEADING_BOOST, TITLE_BOOST, LexicalIndex

WORDS = ("moon", "probe", "wing", "flow", "bread", "oven", "icy", "haze")
Entry = tuple[str, str]  # title, text

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)
titles = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
corpora = st.lists(st.tuples(titles, texts), min_size=1, max_size=12)
queries = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


def index_of(
    entries: Sequence[Entry], collections: Sequence[str] = (), *, k1: float = K1, b: float = B, shared: bool = True
) -> LexicalIndex:
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=64, k1=k1, b=b, shared=shared)
    for number, (title, text) in enumerate(entries):
        collection = collections[number] if collections else "c"
        index.add(number, document_id=f"d{number}", collection=collection, title=title, text=text)
    index.commit()
    return index


def plain(entries: Sequence[Entry], text: str, k1: float, b: float) -> dict[int, float]:
    """BM25 as it is written down, over title, heading and text with their weights."""
    fields: dict[str, tuple[list[list[str]], float]] = {
        "title": ([stems(title) for title, _ in entries], TITLE_BOOST),
        "heading": ([[] for _ in entries], HEADING_BOOST),
        "text": ([stems(f"{title}\n{body}") for title, body in entries], 1.0),
    }
    scores: dict[int, float] = {}
    for held, boost in fields.values():
        average = sum(map(len, held)) / len(entries)
        for term in content_repeated(text):
            holding = sum(term in words for words in held)
            rarity = math.log(1 + (len(entries) - holding + 0.5) / (holding + 0.5))
            for number, words in enumerate(held):
                times = words.count(term)
                if times:
                    length = int(floored(np.array([len(words)], np.int32))[0])
                    part = times * (k1 + 1) / (times + k1 * (1 - b + b * length / average))
                    scores[number] = scores.get(number, 0.0) + boost * rarity * part
    return scores


def content_repeated(text: str) -> list[str]:
    assert set(content_stems(text)) == set(stems(text))
    return stems(text)


def best(scores: dict[int, float], limit: int) -> list[tuple[int, float]]:
    return sorted(scores.items(), key=lambda hit: (-round(hit[1], 9), hit[0]))[:limit]


def rounded(hits: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    return sorted(((entry, round(score, 9)) for entry, score in hits), key=lambda hit: (-hit[1], hit[0]))


@settings(max_examples=25, deadline=None)
@given(corpora, queries, st.sampled_from([0.0, 0.6, 1.2, 2.5]), st.sampled_from([0.0, 0.4, 0.75, 1.0]))
def test_any_k1_and_b_give_what_the_formula_gives(entries: list[Entry], text: str, k1: float, b: float) -> None:
    index = index_of(entries, k1=k1, b=b)
    found = index.search(text, limit=5, statistics=index.statistics(text))
    wanted = best(plain(entries, text, k1, b), 5)
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted])
    assert rounded(found) == rounded((entry, round(score, 9)) for entry, score in wanted) or {
        entry for entry, _ in found
    } <= {entry for entry, score in plain(entries, text, k1, b).items() if score >= wanted[-1][1] - 1e-9}


@settings(max_examples=20, deadline=None)
@given(corpora, queries)
def test_with_its_own_constants_it_gives_what_tantivy_gives(entries: list[Entry], text: str) -> None:
    scored, simple = index_of(entries), index_of(entries, shared=False)
    ours = dict(scored.search(text, limit=20, statistics=scored.statistics(text)))
    theirs = dict(simple.search(text, limit=20))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert dict(simple.search(text, limit=20, statistics=simple.statistics(text))) == pytest.approx(theirs, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(corpora, queries, st.integers(2, 3), st.booleans(), st.integers(1, 6))
def test_the_best_of_shards_are_the_best_of_the_whole(
    entries: list[Entry], text: str, shards: int, quoted: bool, limit: int
) -> None:
    if quoted:
        # A phrase that is there.
        text = f'{text} "{" ".join(entries[0][1].split()[:2])}" mo*'
    whole = index_of(entries)
    parts = [[(at, entry) for at, entry in enumerate(entries) if at % shards == shard] for shard in range(shards)]
    indexes = [index_of([entry for _, entry in part]) for part in parts]
    statistics = reduce(add, (index.statistics(text) for index in indexes), Statistics())
    assert statistics == whole.statistics(text)
    merged: dict[int, float] = {}
    for part, index in zip(parts, indexes, strict=True):
        hits = index.search(text, limit=limit, statistics=statistics)
        merged.update((part[entry][0], score) for entry, score in hits)
    wanted = whole.search(text, limit=len(entries), statistics=statistics)
    scores = sorted((score for _, score in wanted), reverse=True)[:limit]
    assert sorted(merged.values(), reverse=True)[:limit] == scores
    assert all(dict(wanted)[entry] == score for entry, score in merged.items())


def test_a_collection_knows_nothing_of_the_others() -> None:
    own = [("", "the moon is icy"), ("", "the probe saw the moon moon")]
    others = [("", "moon moon haze"), ("", "probe"), ("", "icy icy probe flow wing bread oven")]
    alone = index_of(own, shared=False)
    mixed = index_of([*own, *others], ["c", "c", "x", "x", "x"], shared=False)
    statistics = mixed.statistics("icy moon", collections=["c"])
    assert statistics.chunks == 2
    assert statistics.holding == alone.statistics("icy moon").holding
    assert statistics.rarity(("text_english", "moon")) == alone.statistics("moon").rarity(("text_english", "moon"))
    everything = dict(mixed.search("icy moon", collections=["c"], limit=5))
    by_its_own = dict(mixed.search("icy moon", collections=["c"], limit=5, statistics=statistics))
    assert everything.keys() == by_its_own.keys() == {0, 1}
    # One in two holds "icy" here, one in three holds it there: so it weighs less.
    assert by_its_own[0] != pytest.approx(everything[0])


def test_what_was_deleted_counts_no_more() -> None:
    entries = [("", "moon moon"), ("", "moon haze"), ("", "icy moon probe flow")]
    index = index_of(entries, k1=0.9, b=0.4)
    index.delete("d0", range(1))
    index.add(3, document_id="d3", collection="c", title="", text="haze")
    index.commit()
    again = index_of([*entries[1:], ("", "haze")], k1=0.9, b=0.4)
    assert index.statistics("moon haze") == again.statistics("moon haze")
    found = index.search("moon haze", limit=9, statistics=index.statistics("moon haze"))
    wanted = again.search("moon haze", limit=9, statistics=again.statistics("moon haze"))
    assert [(entry - 1, score) for entry, score in found] == wanted


def test_lengths_are_kept_in_few_steps() -> None:
    given_lengths = np.array([0, 1, 39, 40, 41, 55, 57, 100, 1000], np.int32)
    assert floored(given_lengths).tolist() == [0, 1, 39, 40, 40, 54, 56, 96, 984]


@given(
    st.floats(0.1, 3), st.floats(0, 1), st.floats(1, 300), st.floats(1, 300), st.integers(1, 50), st.integers(0, 500)
)
def test_a_curve_exceeds_another_by_no_more_than_it_says(
    k1: float, b: float, average: float, other: float, times: int, length: int
) -> None:
    ours, theirs = Curve(k1, b, average), Curve(K1, B, other)
    assert ours.part(times, length) <= ours.most(theirs, 500) * theirs.part(times, length) * (1 + 1e-9)
    if times < 9:
        assert theirs.frequency(theirs.part(times, length), length) == times


def test_more_are_scored_until_none_can_be_missing() -> None:
    # Held against its own average length the last one is far behind; against the other it is the best.
    entries = [("", f"moon {'haze ' * number}") for number in range(1, 200)]
    index = index_of(entries, b=0.0)
    found = index.search("haze moon", limit=3, statistics=index.statistics("haze moon"))
    assert [entry for entry, _ in found] == [198, 197, 196]
