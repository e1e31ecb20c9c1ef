"""How pages are dealt out to tasks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.reading.ranges import Range, after_failure, split, split_scanned


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
