"""Looks a document over once before its pages are dealt out: what repeats in its margins, and where sections begin.

Every range of pages is cut into chunks with the same survey, so chunks do not depend on how the pages were dealt out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from actors.messages import Page
from actors.reading import furniture, pages, structure
from actors.reading.mupdf import pymupdf


@dataclass(frozen=True, slots=True)
class Survey:
    """What the chunks of a page need to know of the rest of the document.

    Attributes:
        furniture: what repeats in the margins.
        sections: page and title of each entry of the table of contents that leads to a page, by page.
    """

    furniture: furniture.Furniture = field(default_factory=furniture.Furniture)
    sections: tuple[tuple[int, str], ...] = ()

    def heading(self, page: int) -> str:
        """Title of the section that a page begins in: the last one to begin on a page before."""
        before = bisect_left(self.sections, page, key=lambda section: section[0])
        return self.sections[before - 1][1] if before else ""


def survey(document: pymupdf.Document) -> Survey:
    """Look a document over: 2 ms for each of up to 32 pages, and the table of contents."""
    outline = [(item.page, item.title) for item in structure.outline(document) if item.page > 0]
    # By page only: of two sections that begin on a page, the one listed last is open at its end.
    outline.sort(key=lambda section: section[0])
    return Survey(furniture.collect(_sampled(document)), tuple(outline))


def _sampled(document: pymupdf.Document) -> Iterator[Page]:
    for number in furniture.sample(document.page_count):
        yield pages.text_of(document, number)
