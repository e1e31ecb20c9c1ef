"""Recognises what repeats at the top and bottom of a document's pages: running heads, feet, page numbers.

They stay in the text of a page but not in its chunks, where they would answer every question alike. A page alone cannot
tell, and pages are read in ranges by tasks that know nothing of each other; so the evidence is collected once, before,
from a sample that depends on nothing but the document. The same file has the same chunks whatever its ranges.
Recognised pages are less exact, so they and pages with text of their own are evidence for their own kind only.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.messages import Page

Span = tuple[int, int]

MARGIN: Final = 0.12  # of a page's height, at the top and at the bottom
MAX_ROWS: Final = 4  # of a margin that are looked at, from the edge inwards
MAX_ROW_CHARS: Final = 200
SAMPLE_RUN: Final = 4  # pages in a row: left and right pages have heads of their own, and so has each chapter
SAMPLE_RUNS: Final = 8
SCANNED_RUNS: Final = 3  # of pages to be recognised; the others wait for these
SAME_HEIGHT: Final = 4.0  # points
SCANNED_HEIGHT: Final = 10.0  # points; no page lies in a scanner like the one before
REPEATS: Final = 3  # pages that a row is on; two for a document of two or three
HEAD_WORDS: Final = 3  # besides a number: titles of fewer, such as `Exercise 12`, are numbered themselves
NUMBER: Final = "#"  # in place of any, in a pattern

_NUMBER: Final = re.compile(r"\d+")
# At an end of a row, where page numbers stand, and not before a sign that numbers a title or an item of a list.
_PAGE_NUMBER: Final = re.compile(r"^\W*(\d{1,5})(?![.):]\s|\d)|(?<!\d)(\d{1,5})\W*$")
_SIGNS: Final = re.compile(r"[^\w\s]+|_+")
_ROMAN: Final = re.compile(r"[ivxlc]+")


@dataclass(frozen=True, slots=True)
class Row:
    """The words of one height in a margin.

    Attributes:
        spans: of its words in the page's text, ascending.
        bottom: whether it stands in the lower margin.
        distance: of its middle from the edge of the page, points.
        text: from left to right.
    """

    spans: tuple[Span, ...]
    bottom: bool
    distance: float
    text: str


@dataclass(frozen=True, slots=True)
class Margins:
    """What one page tells of the furniture of its document.

    Attributes:
        number: of the page.
        rows: in its margins; none where nothing stands between them: what such pages have in common may be all that
            they say.
    """

    number: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Furniture:
    """What repeats in a document.

    Attributes:
        texts: (bottom, pattern, distance from the edge) of rows that say the same on several pages, but for numbers
            that are those of pages or chapters.
        numbers: (bottom, offset, distance) of rows that begin or end with a number that grows with the page: number
            less page.
        reach: by how much a row may stand higher or lower than they do, points.
    """

    texts: frozenset[tuple[bool, str, float]] = frozenset()
    numbers: frozenset[tuple[bool, int, float]] = frozenset()
    reach: float = SAME_HEIGHT

    def spans(self, page: Page) -> tuple[Span, ...]:
        """The parts of a page's text that are furniture: ascending, without overlap."""
        if not self.texts and not self.numbers:
            return ()
        found = [span for row in rows(page) if self._has(row, page.number) for span in row.spans]
        return tuple(sorted(found))

    def _has(self, row: Row, page: int) -> bool:
        pattern = _pattern(row.text)
        if any((row.bottom, pattern) == text[:2] and abs(row.distance - text[2]) <= self.reach for text in self.texts):
            return True
        offsets = {number - page for number in _page_numbers(row.text)}
        return any(
            row.bottom == bottom and offset in offsets and abs(row.distance - distance) <= self.reach
            for bottom, offset, distance in self.numbers
        )


def sample(count: int, runs: int = SAMPLE_RUNS) -> tuple[int, ...]:
    """Which of so many pages are looked at: all of a few, else short runs spread evenly. From 1, ascending."""
    if count <= SAMPLE_RUN * runs:
        return tuple(range(1, count + 1))
    starts = (1 + index * (count - SAMPLE_RUN) // (runs - 1) for index in range(runs))
    return tuple(start + step for start in starts for step in range(SAMPLE_RUN))


def margins(page: Page) -> Margins:
    """What a page tells of the furniture."""
    found = rows(page)
    alone = sum(len(row.text.split()) for row in found) >= len(page.words)
    return Margins(page.number, () if alone else tuple(found))


def collect(pages: Iterable[Margins], *, reach: float = SAME_HEIGHT, least: int = 0) -> Furniture:
    """What repeats over some pages.

    Args:
        pages: in ascending order.
        reach: by how much a row may stand higher or lower from page to page, points.
        least: pages that a row must be on, where they are not all of a short document.
    """
    texts: defaultdict[tuple[bool, str], list[_Place]] = defaultdict(list)
    numbers: defaultdict[tuple[bool, int], list[_Place]] = defaultdict(list)
    count = 0
    for page in pages:
        count += 1
        for row in page.rows:
            place = _Place(page.number, row.distance, tuple(map(int, _NUMBER.findall(row.text))))
            if pattern := _pattern(row.text):
                texts[row.bottom, pattern].append(place)
            for number in _page_numbers(row.text):
                numbers[row.bottom, number - page.number].append(place)
    need = max(least, REPEATS if count > REPEATS else 2)
    return Furniture(
        frozenset(
            (*key, _middle(group))
            for key, places in texts.items()
            for group in _level(places, reach)
            if _pages(group) >= need and (_steady(group, need) or _paginated(key[1], group))
        ),
        frozenset(
            (*key, _middle(group))
            for key, places in numbers.items()
            for group in _level(places, reach)
            if _pages(group) >= need
        ),
        reach,
    )


def rows(page: Page) -> list[Row]:
    """The rows in the margins of a page, from each edge inwards."""
    if not page.words:
        return []
    words = page.words.array
    middle = (words["y0"] + words["y1"]) / 2
    found: list[Row] = []
    for bottom in (False, True):
        distance = page.height - middle if bottom else middle
        inside = np.flatnonzero((distance >= 0) & (distance < MARGIN * page.height))
        inside = inside[np.argsort(distance[inside], kind="stable")]
        if len(inside) == 0:
            continue
        edges = np.flatnonzero(np.diff(distance[inside]) > SAME_HEIGHT) + 1
        for group in np.split(inside, edges)[:MAX_ROWS]:
            ordered = np.sort(group)
            # Words that follow each other in the text are one span.
            spans = tuple(
                (int(words["start"][run[0]]), int(words["end"][run[-1]]))
                for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
            )
            # Where columns are read one after the other, a row's words stand in the text in another order each time.
            level = words[ordered[np.argsort(words["x0"][ordered], kind="stable")]]
            text = " ".join(page.text[start:end] for start, end in zip(level["start"], level["end"], strict=True))
            if len(text) <= MAX_ROW_CHARS:
                found.append(Row(spans, bottom, round(float(distance[group].mean()), 1), text))
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands: its page, its distance from the edge in points, and the numbers that it says there."""

    page: int
    distance: float
    numbers: tuple[int, ...]


def _level(places: list[_Place], reach: float) -> Iterator[list[_Place]]:
    """Those of about the same distance from the edge, together."""
    places = sorted(places, key=lambda place: place.distance)
    cuts = [i for i in range(1, len(places)) if places[i].distance - places[i - 1].distance > reach]
    for first, end in itertools.pairwise([0, *cuts, len(places)]):
        yield places[first:end]


def _middle(group: Sequence[_Place]) -> float:
    """The distance of a level."""
    return group[len(group) // 2].distance


def _pages(group: Iterable[_Place]) -> int:
    """How many pages they are on."""
    return len({place.page for place in group})


def _steady(group: Sequence[_Place], need: int) -> bool:
    """Whether the numbers of rows that are alike but for them are those of pages or chapters.

    Those stay from one page to another, or grow with it; those of a body's lines (`Step 4`, `Sample 17: passed`) do
    neither, and without this such a line would be taken for a head wherever several pages begin with one. Numbers that
    recognition got wrong may be as many as those it got right.
    """
    said: defaultdict[Hashable, set[int]] = defaultdict(set)
    for place in group:
        said["stays", place.numbers].add(place.page)
        for position, number in enumerate(place.numbers):
            said["grows", position, number - place.page].add(place.page)
    steady = set().union(*(pages for pages in said.values() if len(pages) > 1))
    steady.update(place.page for place in group if not place.numbers)
    return len(steady) >= max(need, _pages(group) / 2)


def _paginated(pattern: str, group: Sequence[_Place]) -> bool:
    """Whether they are a head of some words with a number at its end that goes up with the pages, if not one by one.

    So it is where some pages of a book were scanned and others were not. Somewhere two follow each other all the same;
    years and volumes in the titles of tables do not.
    """
    words = pattern.split()
    if len(words) <= HEAD_WORDS:
        return False
    for end in (0, -1):
        if words[end] == NUMBER:
            run = sorted((place.page, place.numbers[end]) for place in group)
            steps = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(run)]
            if all(number >= page > 0 for page, number in steps) and any(number == page for page, number in steps):
                return True
    return False


def _pattern(text: str) -> str:
    """A row's letters with its numbers blanked out; signs are what recognition gets wrong most."""
    folded = " ".join(_SIGNS.sub(" ", text.casefold()).split())
    return NUMBER if _ROMAN.fullmatch(folded) else _NUMBER.sub(NUMBER, folded)


def _page_numbers(text: str) -> set[int]:
    return {int(first or last) for first, last in _PAGE_NUMBER.findall(text)}
