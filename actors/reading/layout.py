"""Puts the lines of a page in the order a person reads them.

MuPDF gives lines in the order the file draws them. Most programs draw column by column; some draw row by row across the
columns, or the title last. Only pages where lines stand side by side are looked at closely, and only what reads as
running text is taken for a column: the cells of a table stay in rows. Where the drawn order is right it is kept.

The method is the recursive X-Y cut (Nagy and Seth, 1984), with lines that cross a gutter, such as titles, as horizontal
cuts, and with text in place of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from actors.messages import Box

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

MIN_COLUMN_LINES: Final = 3  # fewer side by side are a header, a signature, an address
MIN_OVERLAP: Final = 0.3  # of the lower height: the lines of two columns need not be level
MIN_BESIDE: Final = 0.2  # of a page's lines that stand beside the next one down; of columns alone it is half
MIN_LINE_CHARS: Final = 12  # half of a column's lines are longer; half of a table's cells are shorter
MIN_FILL: Final = 0.25  # of its side's width that the middle line fills; a side may be three columns
MAX_CROSSING: Final = 0.5  # of a page's lines that may cross a gutter: titles, abstracts, captions
MIN_GUTTER: Final = 0.5  # times the height of a line
MIN_SIDE: Final = 0.12  # of the width: what is narrower is a margin note or a line number
SPANNING_SHARE: Final = 0.2  # of a line that lies on either side of a gutter if it belongs to neither
MAX_LINE_HEIGHT: Final = 40.0  # points; a taller line that is narrow runs up or down the page
MAX_DEPTH: Final = 4  # cuts one inside the other: up to 16 columns
MAX_LINES: Final = 5_000  # of a page; a page of print has 60 to 300

# Nothing else: `3 Methods` and `References` begin columns, and `Table 3` is the head of one.
_PAGE_NUMBER: Final = re.compile(
    r"[\W_]*(?:(?:page|seite|pagina|página|p|s)\b\W*)?(?:\d{1,5}|[ivxlc]{1,8})[\W_]*", re.I
)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where each word of a page belongs.

    Attributes:
        order: positions of the words in reading order, shape (words,); None if they are in it already.
        gaps: what lies between each word and the next in that order, as `text.assemble` takes it, shape (words - 1,).
    """

    order: Ints | None
    gaps: Ints


def arrange(
    boxes: Floats, texts: Sequence[str], lengths: Ints, starts: Ints, blocks: Ints, tables: Sequence[Box] = ()
) -> Arrangement:
    """`arrange_all` of one page, which has at least one word."""
    lines = np.array([0, len(starts)])
    orders, gaps = arrange_all(boxes, texts, lengths, starts, blocks, lines, {0: tables} if tables else {})
    return Arrangement(orders.get(0), gaps[:-1])


def arrange_all(
    boxes: Floats,
    texts: Sequence[str],
    lengths: Ints,
    starts: Ints,
    blocks: Ints,
    pages: Ints,
    tables: Mapping[int, Sequence[Box]],
) -> tuple[dict[int, Ints], Ints]:
    """Order the words of pages by columns, and make one line of what stands in one row.

    Args:
        boxes: x0, y0, x1, y1 of each word as displayed, one page after the other, shape (4, words), points.
        texts: the words.
        lengths: characters of each word, shape (words,).
        starts: position of the first word of each line as drawn, shape (lines,); the first is 0.
        blocks: block of each line as drawn, shape (lines,).
        pages: position of the first line of each page, each of which has one, and behind the last, shape (pages + 1,).
        tables: that are known of a page, and are read whole where they stand across columns.

    Returns:
        For each page that is not in reading order, the positions of its words in that order, counted on the page; and
        what lies between each word and the next in reading order, as `text.assemble_all` takes it, shape (words,),
        which means nothing for the last word of a page.
    """
    # Every text page passes here, and what an operation costs is mostly its call: so there is one for many pages.
    words = len(lengths)
    ends = np.append(starts[1:], words)
    outlines = np.empty((4, len(starts)), dtype=boxes.dtype)
    np.minimum.reduceat(boxes[:2], starts, axis=1, out=outlines[:2])
    np.maximum.reduceat(boxes[2:], starts, axis=1, out=outlines[2:])
    gaps = np.zeros(words, dtype=np.int64)
    gaps[ends[:-1] - 1] = np.where(_continues(outlines), 0, (blocks[1:] != blocks[:-1]) + 1)
    orders: dict[int, Ints] = {}
    for page in side_by_side(outlines, pages).nonzero()[0].tolist():
        first, last = int(pages[page]), int(pages[page + 1])
        start, end = int(starts[first]), int(ends[last - 1])
        found = _columns(
            outlines[:, first:last],
            texts[start:end],
            lengths[start:end],
            starts[first:last] - start,
            blocks[first:last],
            tables.get(page, ()),
        )
        if found is not None:
            orders[page], gaps[start : end - 1] = found
    return orders, gaps


def _columns(
    outlines: Floats, texts: Sequence[str], lengths: Ints, starts: Ints, blocks: Ints, tables: Sequence[Box]
) -> tuple[Ints, Ints] | None:
    """The order of the words of one page, and the gaps in that order; None if they are in order as they are."""
    words = len(lengths)
    # Words and the spaces between them.
    counts = np.append(starts[1:], words) - starts

    def numbers(line: int) -> bool:
        return is_page_number(" ".join(texts[starts[line] : starts[line] + counts[line]]))

    columns = reading_order(outlines, np.add.reduceat(lengths, starts) + counts, numbers, tables)
    if columns is None:
        return None
    outlines, counts = outlines[:, columns], counts[columns]
    # Each word stands as many places further on as its line moves.
    moved = np.cumsum(counts) - counts
    order = np.arange(words) + np.repeat(starts[columns] - moved, counts)
    # What was drawn one after the other MuPDF has parted, by more than boxes tell.
    together = columns[1:] == columns[:-1] + 1
    new_block = np.append(blocks[1:] != blocks[:-1], True)[columns[:-1]]
    new_block = np.where(together, new_block, _paragraphs(outlines))
    gaps = np.zeros(words - 1, dtype=np.int64)
    gaps[np.cumsum(counts[:-1]) - 1] = np.where(_continues(outlines), 0, new_block + 1)
    return order, gaps


def side_by_side(lines: Floats, pages: Ints) -> npt.NDArray[np.bool_]:
    """Whether enough lines of a page stand beside one another to make columns: a cheap test that most pages fail.

    Args:
        lines: boxes, one page after the other, shape (4, lines).
        pages: position of the first line of each page, each of which has one, and behind the last, shape (pages + 1,).

    Returns:
        Shape (pages,).
    """
    counts = pages[1:] - pages[:-1]
    page = np.repeat(np.arange(len(counts)), counts)
    x0, y0, x1, y1 = lines[:, np.lexsort((lines[1], page))]
    overlap = np.minimum(y1[1:], y1[:-1]) - np.maximum(y0[1:], y0[:-1])
    heights = y1 - y0
    least = MIN_OVERLAP * np.minimum(heights[1:], heights[:-1])
    beside = (overlap > least) & ((x0[1:] >= x1[:-1]) | (x1[1:] <= x0[:-1])) & (page[1:] == page[:-1])
    found = np.bincount(page[1:][beside], minlength=len(counts))
    enough: npt.NDArray[np.bool_] = found >= np.maximum(MIN_COLUMN_LINES, MIN_BESIDE * counts)
    return enough & (counts >= 2 * MIN_COLUMN_LINES) & (counts <= MAX_LINES)


def is_page_number(text: str) -> bool:
    """Whether a line says nothing but the number of a page: `12`, `- 12 -`, `xiv`, `Page 12`."""
    return _PAGE_NUMBER.fullmatch(text) is not None


def reading_order(
    lines: Floats, chars: Ints, numbers: Callable[[int], bool], tables: Sequence[Box] = ()
) -> Ints | None:
    """The order of lines by columns.

    Args:
        lines: boxes in the order drawn, shape (4, lines), points.
        chars: characters of each line, shape (lines,).
        numbers: whether the line of a position is a page number; asked of two at most.
        tables: boxes, points; one that a gutter runs through parts the columns as a line across them does.

    Returns:
        A permutation, shape (lines,): for each band between lines that cross the gutter, the left column, then the
        right one, each in the order drawn unless it has columns itself; before and behind all, a page number that
        stands alone above or below everything. None if that is the order drawn.
    """
    drawn = np.arange(lines.shape[1])
    order = _cut(lines, chars, drawn, MAX_DEPTH, tables)
    if order is None:
        return None
    head, foot = _ends(lines, numbers)
    inner = order[(order != head) & (order != foot)]
    if np.array_equal(inner, np.sort(inner)) and int(inner[-1] - inner[0]) < len(inner) and head < inner[-1]:
        # Drawn before all others, or below and behind them, as many programs do, a number parts nothing.
        return None
    ends = np.array([head, foot])
    return np.concatenate((ends[:1][ends[:1] >= 0], inner, ends[1:][ends[1:] >= 0]))


def _ends(lines: Floats, numbers: Callable[[int], bool]) -> tuple[int, int]:
    """The page numbers that stand above and below all other lines, and at least their own height apart; or -1."""
    _, y0, _, y1 = lines
    top, low = int(y0.argmin()), int(y1.argmax())
    head = foot = -1
    if np.partition(y0, 1)[1] - y1[top] >= y1[top] - y0[top] and numbers(top):
        head = top
    if y0[low] - np.partition(y1, -2)[-2] >= y1[low] - y0[low] and numbers(low):
        foot = low
    return head, foot


def _cut(lines: Floats, chars: Ints, members: Ints, depth: int, tables: Sequence[Box]) -> Ints | None:
    """Order some lines of a page; None if they make no columns.

    Args:
        lines: boxes of all, shape (4, lines).
        chars: of all, shape (lines,).
        members: which are to be ordered, ascending.
        depth: cuts that may follow one inside the other.
        tables: see `reading_order`.
    """
    if depth == 0 or len(members) < 2 * MIN_COLUMN_LINES:
        return None
    x0, y0, x1, y1 = lines[:, members]
    gutter = _gutter(x0, x1, y1 - y0)
    if gutter is None:
        return None
    left, right = _sides(x0, x1, gutter)
    middle = (y0 + y1) / 2
    for table in tables:
        if table[0] < gutter < table[2]:
            cells = within(table, (x0 + x1) / 2, middle)
            left, right = left & ~cells, right & ~cells
            middle[cells] = (table[1] + table[3]) / 2  # of one line, as it were
    length = chars[members]
    if not (_is_column(x0, x1, length, left) and _is_column(x0, x1, length, right) and _beside(y0, y1, left, right)):
        return None
    crossing = ~(left | right)
    cuts = np.sort(middle[crossing])
    # The number of crossing lines above each line; a crossing line does not count itself, so it closes its band.
    band = np.searchsorted(cuts, middle)
    parts: list[Ints] = []
    for number in np.unique(band):
        inside = band == number
        beside = inside & ~crossing
        if beside.any() and _middle(length[beside]) < MIN_LINE_CHARS:
            # A table across the columns: its rows stay whole.
            parts.append(members[beside])
        else:
            for side in (left, right):
                column = members[inside & side]
                ordered = _cut(lines, chars, column, depth - 1, tables)
                parts.append(column if ordered is None else ordered)
        parts.append(members[inside & crossing])
    return np.concatenate(parts)


def _gutter(x0: Floats, x1: Floats, heights: Floats) -> float | None:
    """Where the fewest lines cross: the middle of the widest such strip, away from the edges; None if too many do."""
    low, high = float(x0.min()), float(x1.max())
    width = int(high - low) + 1
    # Lines over each point of the width, from where they begin and end.
    begins = np.bincount((x0 - low).astype(np.int64), minlength=width + 1)
    ends = np.bincount(np.ceil(x1 - low).astype(np.int64), minlength=width + 1)
    begins = begins[: width + 1] - ends[: width + 1]
    over = np.cumsum(begins)
    margin = int(width * MIN_SIDE)
    inner = over[margin : width - margin]
    if len(inner) == 0:
        return None
    fewest = inner.min()
    if fewest > MAX_CROSSING * len(x0):
        return None
    # A strip lies between two points that more lines cross.
    edges = np.concatenate(([-1], (inner > fewest).nonzero()[0], [len(inner)]))
    widths = edges[1:] - edges[:-1]
    widest = int(widths.argmax())
    if widths[widest] - 1 < MIN_GUTTER * _middle(heights):
        return None
    return low + margin + float(edges[widest] + 1 + edges[widest + 1]) / 2


def _sides(x0: Floats, x1: Floats, gutter: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which lines stand left and right of a gutter; one that only reaches over it stands where most of it is."""
    to_left, to_right = gutter - x0, x1 - gutter
    spanning = np.minimum(to_left, to_right) > SPANNING_SHARE * (x1 - x0)
    left = ~spanning & (to_left >= to_right)
    return left, ~spanning & ~left


def within(box: Box, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """Which of some points lie in a box."""
    inside: npt.NDArray[np.bool_] = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    return inside


def _middle(values: Floats | Ints) -> float:
    """The upper median: an eighth of the time of `np.median`."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _is_column(x0: Floats, x1: Floats, chars: Ints, side: npt.NDArray[np.bool_]) -> bool:
    """Whether the lines of one side read as running text."""
    if np.count_nonzero(side) < MIN_COLUMN_LINES or _middle(chars[side]) < MIN_LINE_CHARS:
        return False
    width = x1[side].max() - x0[side].min()
    return bool(_middle(x1[side] - x0[side]) >= MIN_FILL * width)


def _beside(y0: Floats, y1: Floats, left: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> bool:
    """Whether the two sides stand beside and not below each other."""
    overlap = min(y1[left].max(), y1[right].max()) - max(y0[left].min(), y0[right].min())
    lower = min(y1[left].max() - y0[left].min(), y1[right].max() - y0[right].min())
    return bool(overlap > 0.5 * lower)


def _paragraphs(lines: Floats) -> npt.NDArray[np.bool_]:
    """Which lines after the first, in reading order, begin a block: below a gap, in another size, atop a column."""
    x0, y0, x1, y1 = lines
    heights = y1 - y0
    gap = y0[1:] - y1[:-1]
    lower, higher = np.minimum(heights[1:], heights[:-1]), np.maximum(heights[1:], heights[:-1])
    same_row = (np.minimum(y1[1:], y1[:-1]) - np.maximum(y0[1:], y0[:-1])) > 0.5 * lower
    apart = (x0[1:] >= x1[:-1]) | (x1[1:] <= x0[:-1])
    parted = (gap > 0.6 * higher) | (gap < -lower) | (higher > 1.25 * lower)
    begins: npt.NDArray[np.bool_] = parted | (apart & ~same_row)
    return begins


def _continues(lines: Floats) -> npt.NDArray[np.bool_]:
    """Which lines go on in the row of the line before, to its right: cells of a row, a label and its value."""
    x0, y0, x1, y1 = lines
    overlap = np.minimum(y1[1:], y1[:-1]) - np.maximum(y0[1:], y0[:-1])
    heights = y1 - y0
    lower = np.minimum(heights[1:], heights[:-1])
    # Text that runs up or down the page stands beside its next line as the cells of a row do.
    flat = heights <= np.maximum(MAX_LINE_HEIGHT, 2 * (x1 - x0))
    result: npt.NDArray[np.bool_] = (overlap > 0.5 * lower) & (x0[1:] >= x1[:-1]) & flat[1:] & flat[:-1]
    return result
