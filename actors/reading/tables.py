"""Finds the tables of a page by their lines.

PyMuPDF's table finder takes 5 to 200 ms a page, so only pages on which lines cross are given to it: of 404 pages of
real PDFs 197, of which 97 have a table. What it finds is checked again: a frame around a paragraph is a table to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from actors.messages import Box, Page, Table
from actors.reading import textlayer
from actors.reading.layout import within
from actors.reading.mupdf import pymupdf

MAX_PATHS: Final = 3_000  # drawn on a page; beyond lies a map or a plot, and minutes of looking for cells
MAX_STROKES: Final = 10_000  # lines and boxes of those paths: one path may have a hundred thousand
MAX_CONTENT_BYTES: Final = 4_000_000  # of a page's content, inflated
INFLATION: Final = 20  # times that content may grow by inflating, but for a bomb
MAX_TABLES: Final = 50
MAX_CELL_CHARS: Final = 400  # on average; longer ones are boxes with running text
MIN_FILLED: Final = 0.4  # of the cells
MIN_WORD_CHARS: Final = 3  # shorter ones may be higher than wide wherever they lead
NEAR: Final = 3.0  # points: lines that come so close meet, and a rectangle of this height is a line
MIN_CROSSINGS: Final = 6  # two rows of two cells have 9, but some tables have no lines at their sides
MAX_PAIRS: Final = 4_000_000  # of lines that may cross


def with_tables(document: pymupdf.Document, page: Page) -> Page:
    """A page with its tables; as it is where none are drawn, or they are damaged, or its words were recognised."""
    if (page.ocr and page.ocr.used) or not page.words:
        return page
    try:
        source = document[page.number - 1]
        if not suspected(source):
            return page
        found = find(source, page)
        parted = [table.box for table in found if _parted(page, table.box)]
        if parted and (layer := textlayer.extract(source)):
            # Columns are told before tables are known, and the cells of one across them look like lines of both.
            text, words = textlayer.compose(source, layer, parted)
            page = replace(page, text=text, words=words)
            found = find(source, page)
        return replace(page, tables=found)
    # The finder follows whatever is drawn, and has no error of its own.
    except Exception:  # noqa: BLE001
        return page


def suspected(source: pymupdf.Page) -> bool:
    """Whether lines or the sides of boxes cross on a page as a table's do; costs a pass over its content."""
    if _drawn_at_length(source):
        return False
    drawings = source.get_cdrawings()
    if len(drawings) > MAX_PATHS or sum(len(drawing["items"]) for drawing in drawings) > MAX_STROKES:
        return False
    lines = np.array([line for drawing in drawings for line in _lines(drawing)], dtype=np.float32).reshape(-1, 4)
    flat = lines[:, 3] - lines[:, 1] <= NEAR
    across, down = lines[flat], lines[~flat]
    if min(len(across), len(down)) < 2 or len(across) * len(down) > MAX_PAIRS:
        return min(len(across), len(down)) >= 2
    level, upright = _meeting(across, down).nonzero()
    # Lines drawn twice, or side by side as a thick one, meet others once.
    rows, row = np.unique(np.rint(across[:, 1] / NEAR), return_inverse=True)
    columns, column = np.unique(np.rint(down[:, 0] / NEAR), return_inverse=True)
    crossings = np.zeros((len(rows), len(columns)), dtype=bool)
    crossings[row[level], column[upright]] = True
    ways = min(np.count_nonzero(crossings.any(axis=axis)) for axis in (0, 1))
    return bool(ways >= 2 and np.count_nonzero(crossings) >= MIN_CROSSINGS)


def _drawn_at_length(source: pymupdf.Page) -> bool:
    """Whether the content is that of a map or a plan: to list what it draws would take gigabytes, and lose the page."""
    document = source.parent
    contents = source.get_contents()
    if sum(len(document.xref_stream_raw(xref) or b"") for xref in contents) <= MAX_CONTENT_BYTES // INFLATION:
        return False
    return sum(len(document.xref_stream(xref) or b"") for xref in contents) > MAX_CONTENT_BYTES


def _lines(drawing: Mapping[str, Any]) -> Iterator[Box]:
    """The level and upright lines of a drawing, the sides of boxes among them, as the flat boxes that they are."""
    for kind, *shape in drawing["items"]:
        if kind == "l":
            (ax, ay), (bx, by) = shape
            x0, y0, x1, y1 = min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
            if min(x1 - x0, y1 - y0) <= NEAR < max(x1 - x0, y1 - y0):
                yield x0, y0, x1, y1
            continue
        if kind == "re":
            x0, y0, x1, y1 = shape[0]
        elif kind == "qu":
            xs, ys = zip(*shape[0], strict=True)
            x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
        else:
            continue
        if x1 - x0 > NEAR:
            yield x0, y0, x1, y0
            yield x0, y1, x1, y1
        if y1 - y0 > NEAR:
            yield x0, y0, x0, y1
            yield x1, y0, x1, y1


def _meeting(across: npt.NDArray[np.float32], down: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which level lines meet which upright ones, shape (level, upright)."""
    x0, y, x1, _ = (side[:, None] for side in across.T)
    x, y0, _, y1 = down.T
    found: npt.NDArray[np.bool_] = (x >= x0 - NEAR) & (x <= x1 + NEAR) & (y >= y0 - NEAR) & (y <= y1 + NEAR)
    return found


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
    if sum(filled) > MAX_CELL_CHARS * len(filled) or _lies(page, raw.bbox):
        return None
    lines = [(float(row.bbox[1]), float(row.bbox[3])) for row in raw.rows]
    x0, y0, x1, y1 = (float(value) for value in raw.bbox)
    header: tuple[str, ...] = ()
    if raw.header.external:
        header = _cells(page, raw.header.cells)
    elif _names(cells[0]):
        header, cells, lines = cells[0], cells[1:], lines[1:]
    return Table((round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)), header, tuple(cells), tuple(lines))


def _parted(page: Page, box: Box) -> bool:
    """Whether other words are read between those of a table."""
    (inside,) = _inside(page, box).nonzero()
    return len(inside) > 0 and int(inside[-1] - inside[0]) >= len(inside)


def _inside(page: Page, box: Box) -> npt.NDArray[np.bool_]:
    """Which words of a page stand in a box."""
    words = page.words.array
    return within(box, (words["x0"] + words["x1"]) / 2, (words["y0"] + words["y1"]) / 2)


def _lies(page: Page, box: Box) -> bool:
    """Whether the words in a box run up or down the page, so that what looks like a row of cells is a column."""
    inside = page.words.array[_inside(page, box)]
    long = inside[inside["end"] - inside["start"] >= MIN_WORD_CHARS]
    return bool(2 * np.count_nonzero(long["y1"] - long["y0"] > long["x1"] - long["x0"]) > len(long))


def _cells(page: Page, boxes: Iterable[Box | None]) -> tuple[str, ...]:
    """The words inside each box, one line a cell. PyMuPDF's own text of cells loses spaces and is not normalised."""
    texts: list[str] = []
    for box in boxes:
        if box is None:
            # Part of a merged cell, whose text stands in its first.
            texts.append("")
            continue
        inside = page.words.array[_inside(page, box)]
        texts.append(" ".join(page.text[start:end] for start, end in zip(inside["start"], inside["end"], strict=True)))
    return tuple(texts)


def _names(row: tuple[str, ...]) -> bool:
    """Whether a row holds names of columns: most of its cells are filled, and few begin with a number."""
    filled = [cell for cell in row if cell]
    numbers = sum(cell.lstrip("-+±≈~$€£ (")[:1].isdigit() for cell in filled)
    return 2 * len(filled) > len(row) and 2 * numbers < len(filled)
