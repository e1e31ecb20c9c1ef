"""Looks a document over once before its pages are dealt out: what repeats in its margins, and where sections begin.

Every range of pages is cut into chunks with the same survey, so chunks do not depend on how the pages were dealt out.
What the margins of scanned pages say is known only when some of them have been recognised; the survey says which.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from actors.messages import Page
from actors.reading import furniture, limits, pages, structure
from actors.reading.furniture import Furniture, Margins
from config import logs

if TYPE_CHECKING:
    from pymupdf import Document

    from actors.reading.triage import Why


@dataclass(frozen=True, slots=True)
class Survey:
    """What the chunks of a page need to know of the rest of the document.

    Attributes:
        furniture: what repeats in the margins of pages with text of their own.
        scanned: pages to be recognised before the others, each with what is wrong with its text; none where there are
            too few to repeat anything.
        scanned_furniture: what repeats in the margins of recognised pages.
        sections: page and title of each entry of the table of contents that leads to a page, by page.
        title: what the document calls itself; empty if it does not.
    """

    furniture: Furniture = field(default_factory=Furniture)
    scanned: tuple[tuple[int, Why], ...] = ()
    scanned_furniture: Furniture = field(default_factory=Furniture)
    sections: tuple[tuple[int, str], ...] = ()
    title: str = ""

    def with_scans(self, margins: Iterable[Margins]) -> Survey:
        """The survey when the pages it named have been recognised, with what their margins say, in any order."""
        ordered = sorted(margins, key=lambda page: page.number)
        return replace(self, scanned_furniture=furniture.collect(ordered, reach=furniture.SCANNED_HEIGHT))

    def furniture_of(self, page: Page) -> Furniture:
        """What may stand in the margins of a page."""
        recognised = page.ocr is not None and page.ocr.used and page.ocr.why != "mixed"
        return self.scanned_furniture if recognised else self.furniture

    def heading(self, page: int) -> str:
        """Title of the section that a page begins in: the last one to begin on a page before."""
        before = bisect_left(self.sections, page, key=lambda section: section[0])
        return self.sections[before - 1][1] if before else ""


def survey(document: Document, page_timeout_s: float) -> Survey:
    """Look a document over: 2 ms for each of up to 32 pages, and the table of contents.

    Args:
        document: open.
        page_timeout_s: of this process's CPU, after which no further page is looked at, and what was seen until then
            must do: how busy the machine is must not decide on chunks. On the wall, the kernel ends this process when
            one page, or the table of contents, takes longer.
    """
    ends = time.process_time() + page_timeout_s
    least = 0
    with limits.clock(page_timeout_s):
        title = pages.title(document)
        outline = [(item.page, item.title) for item in structure.outline(document) if item.page > 0]
    # By page only: of two sections that begin on a page, the one listed last is open at its end.
    outline.sort(key=lambda section: section[0])
    margins: list[Margins] = []
    scanned: list[tuple[int, Why]] = []
    for number in furniture.sample(document.page_count):
        # Slow pages must cost the document neither all of its time nor its headings.
        if time.process_time() >= ends:
            logs.get().warning("survey_cut_short", page=number)
            least = furniture.REPEATS  # of two pages out of many nothing is known yet
            break
        with limits.clock(page_timeout_s):
            page, why = pages.read(document, number, pictures=False)
        if why is None:
            margins.append(furniture.margins(page))
        else:
            scanned.append((number, why))
    first = [scanned[position - 1] for position in furniture.sample(len(scanned), furniture.SCANNED_RUNS)]
    enough = len(first) >= furniture.REPEATS
    found = furniture.collect(margins, least=least)
    return Survey(found, tuple(first) if enough else (), sections=tuple(outline), title=title)
