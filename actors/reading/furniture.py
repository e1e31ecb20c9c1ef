"""Recognises what repeats at the top and bottom of a document's pages: running heads, feet, page numbers.

They stay in the text of a page but not in its chunks, where they would answer every question alike. A page alone cannot
tell, and pages are read in ranges by tasks that know nothing of each other; so the evidence is collected once, before,
from a sample that depends on nothing but the number of pages. The same file has the same chunks whatever its ranges.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
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
SAME_HEIGHT: Final = 4.0  # points
REPEATS: Final = 3  # pages that a row is on; two for a document of two or three

_NUMBER: Final = re.compile(r"\d+")
_ROMAN: Final = re.compile(r"[ivxlc]+")


@dataclass(frozen=True, slots=True)
class Row:
    """The words of one height in a margin.

    Attributes:
        spans: of its words in the page's text, ascending.
        bottom: whether it stands in the lower margin.
        distance: of its middle from the edge of the page, points.
        text: as it stands.
    """

    spans: tuple[Span, ...]
    bottom: bool
    distance: float
    text: str


@dataclass(frozen=True, slots=True)
class Furniture:
    """What repeats in a document.

    Attributes:
        texts: (bottom, pattern, distance from the edge) of rows that say the same on several pages, but for numbers.
        numbers: (bottom, offset, distance) of rows with a number that grows with the page: number less page.
    """

    texts: frozenset[tuple[bool, str, float]] = frozenset()
    numbers: frozenset[tuple[bool, int, float]] = frozenset()

    def spans(self, page: Page) -> tuple[Span, ...]:
        """The parts of a page's text that are furniture: ascending, without overlap."""
        if not self.texts and not self.numbers:
            return ()
        found = [span for row in rows(page) if self._has(row, page.number) for span in row.spans]
        return tuple(sorted(found))

    def _has(self, row: Row, page: int) -> bool:
        pattern = _pattern(row.text)
        if any((row.bottom, pattern) == text[:2] and _near(row.distance, text[2]) for text in self.texts):
            return True
        offsets = {number - page for number in _numbers(row.text)}
        return any(
            row.bottom == bottom and offset in offsets and _near(row.distance, distance)
            for bottom, offset, distance in self.numbers
        )


def sample(pages: int) -> tuple[int, ...]:
    """Which pages of a document are looked at: all of a short one, else short runs spread evenly. From 1, ascending."""
    if pages <= SAMPLE_RUN * SAMPLE_RUNS:
        return tuple(range(1, pages + 1))
    starts = (1 + index * (pages - SAMPLE_RUN) // (SAMPLE_RUNS - 1) for index in range(SAMPLE_RUNS))
    return tuple(start + step for start in starts for step in range(SAMPLE_RUN))


def collect(pages: Iterable[Page]) -> Furniture:
    """What repeats over some pages, given in ascending order."""
    texts: defaultdict[tuple[bool, str], list[tuple[int, float]]] = defaultdict(list)
    numbers: defaultdict[tuple[bool, int], list[tuple[int, float]]] = defaultdict(list)
    count = 0
    for page in pages:
        count += 1
        found = rows(page)
        if sum(len(row.text.split()) for row in found) >= len(page.words):
            # Nothing stands between them: what such pages have in common may be all that they say.
            continue
        for row in found:
            place = (page.number, row.distance)
            texts[row.bottom, _pattern(row.text)].append(place)
            for number in _numbers(row.text):
                numbers[row.bottom, number - page.number].append(place)
    need = REPEATS if count > REPEATS else 2
    return Furniture(
        frozenset((*key, distance) for key, places in texts.items() for distance in _repeated(places, need)),
        frozenset((*key, distance) for key, places in numbers.items() for distance in _repeated(places, need)),
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
            text = " ".join(page.text[start:end] for start, end in spans)
            if len(text) <= MAX_ROW_CHARS:
                found.append(Row(spans, bottom, round(float(distance[group].mean()), 1), text))
    return found


def _repeated(places: list[tuple[int, float]], need: int) -> list[float]:
    """The distances from the edge at which enough pages have it."""
    places = sorted(places, key=lambda place: place[1])
    found: list[float] = []
    first = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index][1] - places[index - 1][1] > SAME_HEIGHT:
            group = places[first:index]
            if len({page for page, _ in group}) >= need:
                found.append(group[len(group) // 2][1])
            first = index
    return found


def _near(distance: float, other: float) -> bool:
    return abs(distance - other) <= SAME_HEIGHT


def _pattern(text: str) -> str:
    """A row's text with its numbers blanked out."""
    folded = " ".join(text.casefold().split())
    return "#" if _ROMAN.fullmatch(folded) else _NUMBER.sub("#", folded)


def _numbers(text: str) -> set[int]:
    return {int(number) for number in _NUMBER.findall(text) if len(number) <= 5}
