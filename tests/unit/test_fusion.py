"""Fusion: the formula, the properties that make it safe to rely on, merging shards, and what repeats what."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import fusion
from actors.search.fusion import Hit, distinct, merge, repeats

Signals = list[tuple[float, dict[int, float]]]

scores = st.dictionaries(st.integers(0, 30), st.floats(-1, 100), max_size=12)
signal = st.tuples(st.floats(0.1, 10), scores)
signals = st.lists(signal, max_size=5)


def fuse(lists: Signals, *beside: Signals) -> list[Hit]:
    """The ranking of one query, fused together with others."""
    queries = (lists, *beside)
    candidates = [
        (query, entry) for query, of in enumerate(queries) for entry in sorted({entry for _, by in of for entry in by})
    ]
    signals = []
    for number in range(max(map(len, queries))):
        given = [of[number] if number < len(of) else (1.0, {}) for of in queries]
        scores = [given[query][1].get(entry, np.nan) for query, entry in candidates]
        signals.append((np.array([weight for weight, _ in given]), np.array(scores)))
    totals = fusion.fuse(np.array([query for query, _ in candidates], np.int64), signals)
    hits = [(entry, total) for (query, entry), total in zip(candidates, totals.tolist(), strict=True) if query == 0]
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))


def test_adds_up_shares_of_the_best_score() -> None:
    fused = fuse([(1.0, {7: 8.0, 8: 2.0}), (0.5, {8: 0.4, 9: 0.1})])
    assert [entry for entry, _ in fused] == [7, 8, 9]
    assert [score for _, score in fused] == pytest.approx([1.0, 0.25 + 0.5, 0.125])


def test_what_is_not_above_nothing_counts_as_nothing() -> None:
    assert fuse([(1.0, {1: -0.2, 2: 0.0, 3: -0.1})]) == [(1, 0.0), (2, 0.0), (3, 0.0)]
    assert fuse([(1.0, {1: 2.0, 2: -1.0})]) == [(1, 1.0), (2, 0.0)]


def test_nothing_fuses_to_nothing() -> None:
    assert fuse([]) == []
    assert fuse([(1.0, {})]) == []


@given(signals, st.randoms())
def test_the_order_of_the_signals_does_not_matter(lists: Signals, random: Random) -> None:
    shuffled = lists.copy()
    random.shuffle(shuffled)
    assert fuse(shuffled) == fuse(lists)


@given(signals, signals)
def test_queries_do_not_see_each_other(lists: Signals, others: Signals) -> None:
    assert fuse(lists, others) == fuse(lists)


@given(signals)
def test_every_entry_comes_once_best_first(lists: Signals) -> None:
    fused = fuse(lists)
    assert {entry for entry, _ in fused} == {entry for _, given in lists for entry in given}
    assert fused == sorted(fused, key=lambda hit: (-hit[1], hit[0]))
    assert len({entry for entry, _ in fused}) == len(fused)


@given(signals, scores.filter(lambda given: max(given.values(), default=0) > 0), st.data())
def test_a_score_that_rises_never_costs_an_entry(lists: Signals, last: dict[int, float], data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(sorted(last)))
    risen = data.draw(st.floats(last[entry], max(last.values())))
    old, new = (fuse([*lists, (1.0, by)]) for by in (last, {**last, entry: risen}))
    assert dict(new)[entry] >= dict(old)[entry]
    assert [found for found, _ in new].index(entry) <= [found for found, _ in old].index(entry)


@given(signals, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_of_a_signal_does_not_matter(lists: Signals, unit: float) -> None:
    scaled = [(weight, {entry: score * unit for entry, score in by.items()}) for weight, by in lists]
    assert [entry for entry, _ in fuse(scaled)] == [entry for entry, _ in fuse(lists)]


@given(scores, st.integers(1, 4), st.integers(1, 8))
def test_shards_merge_to_the_ranking_of_the_whole(by: dict[int, float], shards: int, limit: int) -> None:
    def ranked(part: dict[int, float]) -> list[Hit]:
        return sorted(part.items(), key=lambda hit: (-hit[1], hit[0]))[:limit]

    parts = [{entry: score for entry, score in by.items() if entry % shards == shard} for shard in range(shards)]
    assert merge(map(ranked, parts), limit=limit) == ranked(by)


@given(scores, scores, st.integers(1, 4), st.integers(1, 8))
def test_fusing_merged_shards_is_fusing_the_whole(
    lexical: dict[int, float], dense: dict[int, float], shards: int, limit: int
) -> None:
    def ranked(part: dict[int, float]) -> list[Hit]:
        return sorted(part.items(), key=lambda hit: (-hit[1], hit[0]))[:limit]

    def sharded(by: dict[int, float]) -> dict[int, float]:
        parts = ({entry: score for entry, score in by.items() if entry % shards == shard} for shard in range(shards))
        return dict(merge(map(ranked, parts), limit=limit))

    whole = fuse([(1.0, dict(ranked(lexical))), (0.7, dict(ranked(dense)))])
    assert fuse([(1.0, sharded(lexical)), (0.7, sharded(dense))]) == whole


ABSTRACT = "The flow over a flat plate at high speed was measured, and the boundary layer was found to be laminar."


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (ABSTRACT, True),
        (ABSTRACT.upper(), True),
        (ABSTRACT.replace("laminar.", "turbulent."), True),
        (ABSTRACT.replace("flat", "curved").replace("high", "low"), False),
        ("", False),
    ],
    ids=["same", "case", "last word", "two words", "empty"],
)
def test_repetitions_are_told_by_their_words(other: str, same: bool) -> None:
    assert repeats(ABSTRACT, other) is same


def test_short_texts_repeat_only_if_equal() -> None:
    assert repeats("Algorithm 17", "algorithm 17")
    assert not repeats("Algorithm 17", "Algorithm 18")
    assert not repeats("", "")


def test_of_repetitions_the_first_stays_and_the_next_ones_move_up() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]]
    texts = ["one and the same", "one and the same", "another", "a third", "a fourth"]
    assert distinct(vectors, texts.__getitem__, limit=3) == [0, 2, 3]
    assert distinct(vectors, texts.__getitem__, limit=10) == [0, 2, 3, 4]
    assert distinct(vectors[1:], texts[1:].__getitem__, limit=2) == [0, 1]


def test_close_vectors_of_different_words_both_stay() -> None:
    vectors = np.ones((2, 1), np.float32)
    assert distinct(vectors, ["Algorithm 17", "Algorithm 18"].__getitem__, limit=2) == [0, 1]
