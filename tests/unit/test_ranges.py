"""How pages are dealt out to tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.reading.ranges import QUICK, Range, after_failure, ingest_width, quick_size, split, split_scanned


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


@given(st.integers(0, 5_000), st.integers(1, 64), st.integers(1, 64))
def test_text_is_read_in_long_ranges_if_there_is_one_for_each_task(pages: int, size: int, tasks: int) -> None:
    quick = quick_size(pages, size, tasks)
    assert size <= quick <= QUICK * size
    assert quick == size or len(split(range(pages), quick)) >= min(tasks, pages // quick)
    assert quick == QUICK * size or quick * tasks >= pages


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


@dataclass
class Cost:
    """What reading a document took: tasks, those of them that failed, and the pages given up."""

    tasks: int = 0
    failures: int = 0
    lost: tuple[int, ...] = ()


def cost(pages: int, size: int, bad: set[int], retry: Callable[[Range], list[Range]] = after_failure) -> Cost:
    """Read that many pages, with a task failing that has a bad one."""
    waiting = split(range(1, pages + 1), size)
    spent = Cost()
    read: list[int] = []
    while waiting:
        part = waiting.pop()
        spent.tasks += 1
        if not bad.intersection(part.pages):
            read.extend(part.pages)
            continue
        spent.failures += 1
        again = retry(part)
        waiting.extend(again)
        spent.lost += () if again else part.pages
    assert sorted([*read, *spent.lost]) == list(range(1, pages + 1))
    return spent


def halves(failed: Range) -> list[Range]:
    """The other way: the range cut in two, and a page alone tried once more."""
    if len(failed.pages) == 1:
        return [] if failed.retry else [Range(failed.pages, retry=True)]
    middle = len(failed.pages) // 2
    return [Range(failed.pages[:middle]), Range(failed.pages[middle:])]


@given(st.integers(1, 64), st.sets(st.integers(1, 64)))
def test_a_bad_page_costs_one_more_failure_and_no_other_page(size: int, bad: set[int]) -> None:
    found = bad.intersection(range(1, size + 1))
    spent = cost(size, size, bad)
    assert sorted(spent.lost) == sorted(found)
    assert spent.failures == (1 + len(found) if found else 0)
    assert spent.tasks == (1 + size if found else 1)


@given(st.integers(1, 200), st.integers(1, 32), st.sets(st.integers(1, 200)))
def test_halving_never_fails_less_often(pages: int, size: int, bad: set[int]) -> None:
    alone, halved = cost(pages, size, bad), cost(pages, size, bad, halves)
    assert sorted(alone.lost) == sorted(halved.lost)
    assert alone.failures <= halved.failures


def test_the_numbers_that_decided_between_the_two() -> None:
    every = set(range(1, 17))
    assert (cost(16, 16, {5}).failures, cost(16, 16, {5}, halves).failures) == (2, 6)
    assert (cost(16, 16, every).failures, cost(16, 16, every, halves).failures) == (17, 47)
    assert (cost(16, 16, {5}).tasks, cost(16, 16, {5}, halves).tasks) == (17, 10)
    # One bad page among a thousand, in ranges of 16: the 63 ranges, and one of them page by page.
    assert cost(1000, 16, {500}) == Cost(tasks=63 + 16, failures=2, lost=(500,))
    assert cost(1000, 16, {500}, halves) == Cost(tasks=63 + 9, failures=6, lost=(500,))
