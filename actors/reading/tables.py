"""Finds the tables of a page by their lines.

PyMuPDF's table finder takes 5 to 100 ms a page, so only pages on which something like a grid is drawn are given to it.
What it finds is checked again: a frame around a paragraph is a table to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from actors.messages import Box, Page, Table
from actors.reading.mupdf import pymupdf

MAX_PATHS: Final = 3_000  # drawn on a page; beyond lies a map or a plot, and minutes of looking for cells
MAX_TABLES: Final = 50
MAX_CELL_CHARS: Final = 400  # on average; longer ones are boxes with running text
MIN_FILLED: Final = 0.4  # of the cells
THIN: Final = 3.0  # points: a filled rectangle of this height is a line
LONG: Final = 20.0
ROW_HEIGHT: Final = 6.0


def with_tables(document: pymupdf.Document, page: Page) -> Page:
    """A page with its tables; as it is where none are drawn, or they are damaged, or its words were recognised."""
    if page.ocr or not page.words:
        return page
    try:
        source = document[page.number - 1]
        return replace(page, tables=find(source, page)) if suspected(source) else page
    # The finder follows whatever is drawn, and has no error of its own.
    except Exception:  # noqa: BLE001
        return page


def suspected(source: pymupdf.Page) -> bool:
    """Whether lines or boxes that could be a table's are drawn on a page; costs a pass over its content."""
    across = down = boxes = paths = 0
    for kind, (x0, y0, x1, y1) in source.get_bboxlog():
        if not kind.endswith("-path"):
            continue
        paths += 1
        width, height = x1 - x0, y1 - y0
        if height <= THIN:
            across += width >= LONG
        elif width <= THIN:
            down += height >= ROW_HEIGHT
        elif width >= LONG and height >= ROW_HEIGHT:
            # A grid that is stroked in one go has a single box, around all of it.
            boxes += 2 if kind == "stroke-path" else 1
    return paths <= MAX_PATHS and ((across >= 2 and down >= 2) or boxes >= 2)


def find(source: pymupdf.Page, page: Page) -> tuple[Table, ...]:
    """The tables of a page as read, from top to bottom. Slow: see `suspected`."""
    found = [table for raw in source.find_tables(use_layout=False).tables[:MAX_TABLES] if (table := _table(page, raw))]
    return tuple(sorted(found, key=lambda table: (table.box[1], table.box[0])))


def _table(page: Page, raw: Any) -> Table | None:
    """A table as found, if it is one: at least two rows and columns, mostly filled, of cells and not of paragraphs."""
    cells = [_cells(page, row.cells) for row in raw.rows]
    lengths = [len(cell) for row in cells for cell in row]
    filled = [length for length in lengths if length]
    if len(cells) < 2 or len(cells[0]) < 2 or len(filled) < MIN_FILLED * len(lengths):
        return None
    if sum(filled) > MAX_CELL_CHARS * len(filled):
        return None
    lines = [(float(row.bbox[1]), float(row.bbox[3])) for row in raw.rows]
    x0, y0, x1, y1 = (float(value) for value in raw.bbox)
    header: tuple[str, ...] = ()
    if raw.header.external:
        header = _cells(page, raw.header.cells)
    elif _names(cells[0]):
        header, cells, lines = cells[0], cells[1:], lines[1:]
    return Table((round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)), header, tuple(cells), tuple(lines))


def _cells(page: Page, boxes: Iterable[Box | None]) -> tuple[str, ...]:
    """The words inside each box, one line a cell. PyMuPDF's own text of cells loses spaces and is not normalised."""
    words = page.words.array
    x, y = (words["x0"] + words["x1"]) / 2, (words["y0"] + words["y1"]) / 2
    texts: list[str] = []
    for box in boxes:
        if box is None:
            # Part of a merged cell, whose text stands in its first.
            texts.append("")
            continue
        inside = words[(x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])]
        texts.append(" ".join(page.text[start:end] for start, end in zip(inside["start"], inside["end"], strict=True)))
    return tuple(texts)


def _names(row: tuple[str, ...]) -> bool:
    """Whether a row holds names of columns: most of its cells are filled, and few begin with a number."""
    filled = [cell for cell in row if cell]
    numbers = sum(cell.lstrip("-+±≈~$€£ (")[:1].isdigit() for cell in filled)
    return 2 * len(filled) > len(row) and 2 * numbers < len(filled)
