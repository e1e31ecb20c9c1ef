"""How pages are dealt out to tasks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.reading.ranges import Range, after_failure, ingest_width, split, split_scanned


def test_ranges_are_consecutive_and_bounded() -> None:
    assert split([9, 1, 2, 3, 3, 4, 7, 8], 3) == [Range((1, 2, 3)), Range((4,)), Range((7, 8, 9))]
    assert split([], 3) == []


@given(st.lists(st.integers(1, 200)), st.integers(1, 20))
def test_every_page_is_in_one_range(pages: list[int], size: int) -> None:
    ranges = split(pages, size)
    assert [page for part in ranges for page in part.pages] == sorted(set(pages))
    for part in ranges:
        assert len(part.pages) <= size
        assert part.pages == tuple(range(part.pages[0], part.pages[-1] + 1))
    # No two ranges could have been one.
    for one, two in itertools.pairwise(ranges):
        assert one.pages[-1] + 1 < two.pages[0] or len(one.pages) == size


def test_scanned_pages_keep_their_reasons() -> None:
    parts = split_scanned([(3, "absent"), (5, "hidden"), (6, "garbage")], 2)
    assert parts == [Range((3, 5), ("absent", "hidden")), Range((6,), ("garbage",))]


def test_a_failed_range_is_tried_page_by_page_once() -> None:
    again = after_failure(Range((4, 5)))
    assert again == [Range((4,), retry=True), Range((5,), retry=True)]
    assert after_failure(again[0]) == []


def test_a_single_page_gets_its_second_chance_too() -> None:
    assert after_failure(Range((4,), ("absent",))) == [Range((4,), ("absent",), retry=True)]


@pytest.mark.parametrize(
    ("total", "wanted", "task_cpus", "replicas", "width"),
    [
        (8, 0, 1, 1, 7),  # one is left to questions
        (2, 0, 1, 1, 2),  # a core of two would be half the speed
        (8, 3, 1, 1, 3),
        (2, 6, 1, 1, 2),
        (8, 0, 0.5, 2, 7),
        (1, 0.5, 1, 4, 1),  # never none
    ],
)
def test_ingestion_leaves_cpus_to_questions(
    total: float, wanted: float, task_cpus: float, replicas: int, width: int
) -> None:
    assert ingest_width(total, wanted, task_cpus, replicas) == width


@given(st.integers(2, 64), st.sets(st.integers(1, 64)))
def test_a_bad_page_costs_one_more_failure_and_no_other_page(size: int, bad: set[int]) -> None:
    waiting = split(range(1, size + 1), size)
    read: list[int] = []
    lost: list[int] = []
    failures = 0
    while waiting:
        part = waiting.pop()
        if not bad.intersection(part.pages):
            read.extend(part.pages)
            continue
        failures += 1
        again = after_failure(part)
        waiting.extend(again)
        lost.extend(() if again else part.pages)
    found = bad.intersection(range(1, size + 1))
    assert sorted(lost) == sorted(found)
    assert sorted(read + lost) == list(range(1, size + 1))
    assert failures == (1 + len(found) if found else 0)
