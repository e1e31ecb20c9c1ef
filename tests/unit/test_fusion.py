"""Reciprocal rank fusion: the formula, and the properties that make it safe to rely on."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search.fusion import fuse

Rankings = list[tuple[float, list[int]]]

ranking = st.tuples(st.floats(0.1, 10), st.lists(st.integers(0, 30), unique=True, max_size=12))
rankings = st.lists(ranking, max_size=5)


def test_adds_up_reciprocal_ranks() -> None:
    fused = dict(fuse([(1.0, [7, 8]), (0.5, [8, 9])]))
    assert fused == pytest.approx({8: 1 / 62 + 0.5 / 61, 7: 1 / 61, 9: 0.5 / 62})


def test_a_smaller_constant_favours_the_first_places() -> None:
    lists: Rankings = [(1.0, [1, 2]), (1.0, [3, 2])]
    assert [item for item, _ in fuse(lists, k=60)] == [2, 1, 3]
    assert [item for item, _ in fuse(lists, k=0)] == [1, 2, 3]


def test_a_repeated_id_counts_where_it_comes_first() -> None:
    assert fuse([(1.0, [5, 5, 6, 5])]) == fuse([(1.0, [5, 6])])


def test_nothing_fuses_to_nothing() -> None:
    assert fuse([]) == []
    assert fuse([(1.0, [])]) == []


@given(rankings, st.randoms())
def test_the_order_of_the_rankings_does_not_matter(lists: Rankings, random: Random) -> None:
    shuffled = lists.copy()
    random.shuffle(shuffled)
    assert fuse(shuffled) == fuse(lists)


@given(rankings)
def test_every_id_comes_once_best_first(lists: Rankings) -> None:
    fused = fuse(lists)
    assert {item for item, _ in fused} == {item for _, ids in lists for item in ids}
    assert len({item for item, _ in fused}) == len(fused)
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


@given(rankings, ranking, st.data())
def test_moving_up_in_a_ranking_never_costs_an_id(
    lists: Rankings, last: tuple[float, list[int]], data: st.DataObject
) -> None:
    weight, ids = last
    if len(ids) < 2:
        return
    before = data.draw(st.integers(1, len(ids) - 1))
    after = data.draw(st.integers(0, before - 1))
    item = ids[before]
    others = [other for other in ids if other != item]
    moved = [*others[:after], item, *others[after:]]
    old, new = (fuse([*lists, (weight, order)]) for order in (ids, moved))
    assert dict(new)[item] > dict(old)[item]
    assert [i for i, _ in new].index(item) <= [i for i, _ in old].index(item)


@given(st.lists(st.lists(st.integers(), unique=True, max_size=8), max_size=4))
def test_disjoint_rankings_of_equal_weight_are_merged_in_turn(lists: list[list[int]]) -> None:
    apart = [(1.0, [number * 1000 + rank for rank, _ in enumerate(ids)]) for number, ids in enumerate(lists)]
    merged = [item for item, _ in fuse(apart)]
    for _, ids in apart:
        assert [item for item in merged if item in ids] == ids
    assert [item % 1000 for item in merged] == sorted(item % 1000 for item in merged)
