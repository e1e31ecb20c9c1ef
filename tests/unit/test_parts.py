"""The merge of shards, as a function: many parts give the ranking of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search.bm25 import Statistics
from actors.search.parts import ChunkName, Part, Survey, join

Scores = dict[ChunkName, tuple[float | None, float | None]]

names = st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3))
# Whole numbers, so that many are equal and none is rounded.
some = st.none() | st.integers(0, 5).map(float)
corpora = st.dictionaries(names, st.tuples(some, some), max_size=20)


def head(scores: Scores, which: int, limit: int) -> set[ChunkName]:
    """The best by one signal."""
    held = [(name, both[which]) for name, both in scores.items() if both[which] is not None]
    return {name for name, _ in sorted(held, key=lambda item: (-(item[1] or 0.0), item[0]))[:limit]}


def cut(scores: Scores, limit: int) -> Part:
    """What a shard that holds these gives: the best by words and the closest, with both scores of each."""

    lexical, near = head(scores, 0, limit), head(scores, 1, limit)
    chosen = sorted(lexical | near, reverse=True)
    return Part(
        tuple(chosen),
        np.array([np.nan if scores[name][0] is None else scores[name][0] for name in chosen], np.float64),
        np.array([np.nan if scores[name][1] is None else scores[name][1] for name in chosen], np.float64),
        np.array([name in lexical for name in chosen], np.bool_),
        np.array([name in near for name in chosen], np.bool_),
    )


@given(corpora, st.integers(1, 5), st.integers(1, 8))
def test_shards_join_to_the_ranking_of_the_whole(scores: Scores, shards: int, limit: int) -> None:
    parts = [
        cut({name: both for name, both in scores.items() if hash(name) % shards == shard}, limit)
        for shard in range(shards)
    ]
    weights = {"lexical_weight": 1.0, "dense_weight": 1.5}
    assert join(parts, limit=limit, **weights) == join([cut(scores, limit)], limit=limit, **weights)


@given(corpora, st.integers(1, 8))
def test_each_signal_gives_no_more_than_its_best(scores: Scores, limit: int) -> None:
    ranked = join([cut(scores, 20)], limit=limit, lexical_weight=1.0, dense_weight=1.0)
    assert {hit.chunk for hit in ranked} == head(scores, 0, limit) | head(scores, 1, limit)
    assert [hit.score for hit in ranked] == sorted((hit.score for hit in ranked), reverse=True)


def test_what_is_cut_off_weighs_on_nothing() -> None:
    # A graph may miss what is closest of all, and words find it.
    part = Part(
        (("a", 0), ("b", 0), ("c", 0)),
        np.array([2.0, 1.0, np.nan]),
        np.array([0.1, 0.9, 0.5]),
        np.array([True, True, False]),
        np.array([False, False, True]),
    )
    first, second = join([part], limit=1, lexical_weight=1.0, dense_weight=1.0)
    assert first.chunk == ("a", 0)
    assert first.score == pytest.approx(1.2)
    assert (second.chunk, second.score, second.scores) == (("c", 0), 1.0, {"dense": 0.5})


def test_surveys_add_up() -> None:
    one = Survey(Statistics(2, {("text", "moon"): 1}, {}, 2, {"text": 8}), {"year": frozenset({"number"})})
    other = Survey(Statistics(3, {("text", "icy"): 2}, {}, 3, {"text": 6}), {"year": frozenset({"text"})})
    whole = one + other
    assert whole.kinds == {"year": {"number", "text"}}
    assert whole.statistics == Statistics(5, {("text", "moon"): 1, ("text", "icy"): 2}, {}, 5, {"text": 14})
    assert whole.statistics.average("text") == 2.8


def test_of_many_open_ends_the_first_in_the_alphabet_stay() -> None:
    many = [Statistics(open={("text", "a"): tuple(f"a{10 * number + at}" for number in range(40))}) for at in (1, 2)]
    joined = (many[0] + many[1]).open["text", "a"]
    assert joined == tuple(sorted({*many[0].open["text", "a"], *many[1].open["text", "a"]})[:50])
