"""How pages are dealt out to tasks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

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


def test_a_range_whose_task_died_is_cut_in_two() -> None:
    again = after_failure(Range((4, 5, 7), ("absent", "hidden", "mixed")), slow=False)
    assert again == [Range((4, 5), ("absent", "hidden"), retry=True), Range((7,), ("mixed",), retry=True)]
    assert after_failure(again[0], slow=False) == [Range((4,), ("absent",), True), Range((5,), ("hidden",), True)]
    assert after_failure(again[1], slow=False) == []


def test_a_range_that_ran_into_its_time_limit_is_tried_page_by_page() -> None:
    again = after_failure(Range((4, 5, 7)), slow=True)
    assert again == [Range((page,), retry=True) for page in (4, 5, 7)]
    assert after_failure(again[0], slow=True) == []


@pytest.mark.parametrize("slow", [True, False])
def test_a_single_page_gets_its_second_chance_too(slow: bool) -> None:
    assert after_failure(Range((4,), ("absent",)), slow=slow) == [Range((4,), ("absent",), retry=True)]


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
    """What reading a document took: tasks, those that failed, the pages given up, and how often each was tried."""

    tasks: int = 0
    failures: int = 0
    lost: tuple[int, ...] = ()
    tries: Counter[int] = field(default_factory=Counter)


def cost(pages: int, size: int, fails: Callable[[Range], bool], slow: Callable[[], bool]) -> Cost:
    """Read that many pages, and retry what fails."""
    waiting = split(range(1, pages + 1), size)
    spent = Cost()
    read: list[int] = []
    while waiting:
        part = waiting.pop()
        spent.tasks += 1
        spent.tries.update(part.pages)
        if not fails(part):
            read.extend(part.pages)
            continue
        spent.failures += 1
        again = after_failure(part, slow=slow())
        waiting.extend(again)
        spent.lost += () if again else part.pages
    # Each page is read or given up, and no page twice.
    assert sorted([*read, *spent.lost]) == list(range(1, pages + 1))
    return spent


def halvings(size: int) -> int:
    """How often a range must be cut in two until each page is alone."""
    return (size - 1).bit_length()


def holds(bad: set[int]) -> Callable[[Range], bool]:
    return lambda part: not bad.isdisjoint(part.pages)


sizes = st.integers(1, 64)
numbers = st.sets(st.integers(1, 64))


@given(sizes, numbers)
def test_crashes_cost_tasks_by_the_logarithm_of_the_range(size: int, bad: set[int]) -> None:
    bad &= set(range(1, size + 1))
    spent = cost(size, size, holds(bad), lambda: False)
    assert sorted(spent.lost) == sorted(bad)
    assert spent.tasks <= 1 + 2 * len(bad) * max(1, halvings(size))
    assert spent.failures <= 1 + len(bad) * max(1, halvings(size))
    assert all(tries <= 1 + max(1, halvings(size)) for tries in spent.tries.values())


@given(sizes, numbers)
def test_a_page_that_hangs_costs_one_more_time_limit_and_no_other_page(size: int, bad: set[int]) -> None:
    bad &= set(range(1, size + 1))
    spent = cost(size, size, holds(bad), lambda: True)
    assert sorted(spent.lost) == sorted(bad)
    assert spent.failures == (1 + len(bad) if bad else 0)
    assert all(tries <= 2 for tries in spent.tries.values())


@given(st.integers(1, 200), st.integers(1, 64), st.sets(st.integers(1, 200)), st.data())
def test_bad_pages_are_found_exactly_whatever_they_do(
    pages: int, size: int, bad: set[int], data: st.DataObject
) -> None:
    bad &= set(range(1, pages + 1))
    spent = cost(pages, size, holds(bad), lambda: data.draw(st.booleans()))
    assert sorted(spent.lost) == sorted(bad)
    assert all(spent.tries[page] >= 2 for page in bad)
    assert all(tries <= 1 + max(1, halvings(size)) for tries in spent.tries.values())


@given(sizes, st.data())
def test_a_page_is_given_up_only_when_its_process_died_each_time(size: int, data: st.DataObject) -> None:
    survived: set[int] = set()

    def killed(part: Range) -> bool:
        died: bool = data.draw(st.booleans())
        survived.update(() if died else part.pages)
        return died

    spent = cost(size, size, killed, lambda: False)
    assert survived.isdisjoint(spent.lost)
    # A range may be cut unevenly, so that a page is alone one step earlier.
    assert all(spent.tries[page] >= 1 + max(1, size.bit_length() - 1) for page in spent.lost)


def test_the_numbers_that_decided_between_the_two() -> None:
    one, every = holds({5}), holds(set(range(1, 17)))
    crash, hang = (lambda: False), (lambda: True)
    assert [(c.failures, c.tasks) for c in (cost(16, 16, one, crash), cost(16, 16, one, hang))] == [(5, 9), (2, 17)]
    assert [(c.failures, c.tasks) for c in (cost(16, 16, every, crash), cost(16, 16, every, hang))] == [
        (31, 31),
        (17, 17),
    ]
    # One bad page among a thousand, in ranges of 16: the 63 ranges, and one of them again.
    thousand = cost(1000, 16, holds({500}), crash)
    assert (thousand.tasks, thousand.failures, thousand.lost) == (63 + 8, 5, (500,))
    assert cost(1000, 16, holds({500}), hang).tasks == 63 + 16
