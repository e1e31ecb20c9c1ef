"""The text layer of pages: their words as MuPDF finds them, and the text that is made of them.

The two are apart because they are quicker so. A page has 235 words, of which numpy's work takes less time than its
calls; so pages are extracted one after another, and many of them are composed at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from actors.messages import Box, Words
from actors.reading.layout import arrange_all
from actors.reading.mupdf import pymupdf
from actors.reading.text import assemble_all, clean

Boxes = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FLAT: Final = 0.8  # of the width of one of its letters; half of that is as high as print has it
OVERPRINT: Final = 0.1  # of a line's height

# Without the flag for ligatures MuPDF expands those it knows; without the one for CIDs it writes U+FFFD for a glyph of
# unknown meaning instead of an arbitrary character, which is what tells garbage from text.
FLAGS: Final = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
# MuPDF leaves out letters that were drawn in their place before; that takes five times as long as all the rest.
ONCE_FLAGS: Final = FLAGS | pymupdf.TEXT_COLLECT_STYLES


@dataclass(frozen=True, slots=True)
class Layer:
    """The words of a page in the order drawn; at least one.

    Attributes:
        texts: as they are, so they may have odd characters, or nothing else.
        boxes: x0 of each word, then y0, x1 and y1, single precision, points of the page without its rotation.
        starts: position of the first word of each line.
        blocks: that each line is in.
        flags: MuPDF's, that they were found with.
        content: the `TextPage` they are from, to look at again.
    """

    texts: tuple[str, ...]
    boxes: bytes
    starts: list[int]
    blocks: list[int]
    flags: int
    content: Any = field(default=None, repr=False, compare=False)

    @property
    def array(self) -> Boxes:
        """The boxes, shape (4, words)."""
        return np.frombuffer(self.boxes, dtype=np.float32).reshape(4, -1)


def extract(source: pymupdf.Page, flags: int = FLAGS) -> Layer | None:
    """What MuPDF finds on a page; None if that is nothing.

    Args:
        source: the page.
        flags: `FLAGS` or `ONCE_FLAGS`.
    """
    content = source.get_textpage(flags=flags)
    found = _words(content)
    if not found:
        return None
    x0, y0, x1, y1, texts, blocks, _, numbers = zip(*found, strict=True)
    starts = [index for index, number in enumerate(numbers) if not number]  # counted anew in each line
    boxes = _packed(x0, y0, x1, y1)
    return Layer(texts, boxes, starts, [blocks[index] for index in starts], flags, content)


def _words(content: Any, *, measured: bool = False) -> list[Any]:
    """MuPDF's words.

    Args:
        content: a `TextPage`.
        measured: whether the box of each letter is worked out anew from its font; that takes as long as all the rest.
    """
    pymupdf.TOOLS.unset_quad_corrections(not measured)
    try:
        found: list[Any] = content.extractWORDS()
    finally:
        pymupdf.TOOLS.unset_quad_corrections(False)
    return found


def _packed(*sides: Sequence[float]) -> bytes:
    # MuPDF's numbers are of single precision already. Packed they take a tenth of the room, and numpy takes twice as
    # long to turn tuples of them into an array.
    return struct.pack(f"{4 * len(sides[0])}f", *sides[0], *sides[1], *sides[2], *sides[3])


def doubtful(layers: Sequence[Layer]) -> list[bool]:
    """Which layers must be `mended`: a font tells a wrong height, or lines are printed twice.

    Args:
        layers: of pages that are not rotated, as extracted with `FLAGS`; at least one.
    """
    boxes = np.concatenate([layer.array for layer in layers], axis=1)
    counts = [len(layer.texts) for layer in layers]
    lengths = np.fromiter(map(len, chain.from_iterable(layer.texts for layer in layers)), np.int64, sum(counts))
    flat = np.logical_or.reduceat(_flat(boxes, lengths), list(accumulate(counts[:-1], initial=0)))
    starts, pages = _lines(layers)
    return (flat | _overprinted(boxes[:, starts], pages)).tolist()  # type: ignore[no-any-return]


def mended(source: pymupdf.Page, layer: Layer) -> Layer | None:
    """A layer as it should be, with the boxes of the page as displayed; None if nothing of it is left."""
    boxes = layer.array
    lengths = np.fromiter(map(len, layer.texts), np.int64, len(layer.texts))
    if layer.content and _flat(boxes, lengths).any():
        x0, y0, x1, y1, *_ = zip(*_words(layer.content, measured=True), strict=True)
        boxes = np.array((x0, y0, x1, y1), dtype=np.float32)
    if source.rotation:
        boxes = _turned(boxes, source.rotation_matrix)
    starts, pages = _lines([layer])
    if layer.flags == FLAGS and _overprinted(boxes[:, starts], pages).any():
        once = extract(source, ONCE_FLAGS)
        return mended(source, once) if once else None
    return replace(layer, boxes=boxes.tobytes())


def compose(source: pymupdf.Page, layer: Layer, tables: Sequence[Box] = ()) -> tuple[str, Words]:
    """The text of one page and its words.

    Args:
        source: the page, for what must be looked at again.
        layer: extracted from it.
        tables: on it, as displayed, that are to be read whole.
    """
    whole = mended(source, layer)
    return compose_all([whole], {0: tables})[0] if whole else ("", Words())


def compose_all(layers: Sequence[Layer], tables: Mapping[int, Sequence[Box]] | None = None) -> list[tuple[str, Words]]:
    """The text of pages, clean and in reading order, and their words.

    Args:
        layers: of each page; mended where they need it.
        tables: on some of them, as displayed, that are to be read whole.
    """
    found = [("", Words()) for _ in layers]
    kept = [(number, whole) for number, layer in enumerate(layers) if (whole := _cleaned(layer))]
    if not kept:
        return found
    layers = [layer for _, layer in kept]
    counts = [len(layer.texts) for layer in layers]
    texts = [text for layer in layers for text in layer.texts]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    boxes = np.concatenate([layer.array for layer in layers], axis=1)
    starts, lines = _lines(layers)
    blocks = np.fromiter(chain.from_iterable(layer.blocks for layer in layers), np.int64, len(starts))
    known = {place: tables[number] for place, (number, _) in enumerate(kept) if number in tables} if tables else {}
    orders, gaps = arrange_all(boxes, texts, lengths, starts, blocks, lines, known)
    pages: list[Sequence[str]] = [layer.texts for layer in layers]
    edges = list(accumulate(counts, initial=0))
    for place, order in orders.items():
        pages[place] = [pages[place][index] for index in order.tolist()]
        first, last = edges[place : place + 2]
        boxes[:, first:last] = boxes[:, first:last][:, order]
    for (number, _), composed in zip(kept, assemble_all(pages, gaps, boxes), strict=True):
        found[number] = composed
    return found


def _lines(layers: Sequence[Layer]) -> tuple[Ints, Ints]:
    """Positions of the first words of lines, shape (lines,), and of the first lines of pages, shape (pages + 1,)."""
    counts = [len(layer.starts) for layer in layers]
    words = list(accumulate((len(layer.texts) for layer in layers[:-1]), initial=0))
    starts = np.fromiter(chain.from_iterable(layer.starts for layer in layers), np.int64, sum(counts))
    return starts + np.repeat(words, counts), np.array(list(accumulate(counts, initial=0)))


def _cleaned(layer: Layer) -> Layer | None:
    """A layer with clean texts, without words of which nothing is left; None if nothing is."""
    joined = "\n".join(layer.texts)
    if joined.isascii():
        return layer
    # A soft hyphen is seen at the end of a line only, and some fonts have it for every hyphen.
    # All at once: word by word costs a tenth of the reading. Normalisation does not reach across a newline.
    cleaned = clean(joined.replace("\u00ad\n", "-\n"))
    texts = layer.texts if cleaned == joined else tuple(map(str.strip, cleaned.split("\n")))
    if "" not in texts:
        return replace(layer, texts=texts)
    kept = np.fromiter(map(bool, texts), np.bool_, len(texts))
    if not kept.any():
        return None
    # A line begins as many words earlier as are gone before it, and is gone itself if all of its words are.
    starts, blocks = np.array((layer.starts, layer.blocks), dtype=np.int64)
    left = np.logical_or.reduceat(kept, starts)
    return replace(
        layer,
        texts=tuple(filter(None, texts)),
        boxes=layer.array[:, kept].tobytes(),
        starts=(np.cumsum(kept) - kept)[starts[left]].tolist(),
        blocks=blocks[left].tolist(),
    )


def _flat(boxes: Boxes, lengths: Ints) -> npt.NDArray[np.bool_]:
    """Which words are too low for their letters: their font tells a wrong height, often none."""
    width, height = boxes[2:] - boxes[:2]
    flat: npt.NDArray[np.bool_] = np.minimum(width, height) * lengths < FLAT * np.maximum(width, height)
    return flat & (lengths > 2)  # a dash is as flat as it looks


def _overprinted(begins: Boxes, pages: Ints) -> npt.NDArray[np.bool_]:
    """On which pages two lines begin in the same place: some programs print bold, or all of a page, by printing again.

    Args:
        begins: boxes of the first words of lines, one page after the other, shape (4, lines).
        pages: position of the first line of each page, and behind the last, shape (pages + 1,).
    """
    counts = pages[1:] - pages[:-1]
    page = np.repeat(np.arange(len(counts)), counts)
    x0, y0, _, y1 = begins[:, np.lexsort((*begins[:2], page))]
    near = OVERPRINT * (y1 - y0)[1:]
    # Ascending on each page, so only the distances across can be negative.
    again = (y0[1:] - y0[:-1] < near) & (np.abs(x0[1:] - x0[:-1]) < near) & (page[1:] == page[:-1])
    found = np.zeros(len(counts), dtype=np.bool_)
    found[page[1:][again]] = True
    return found


def _turned(boxes: Boxes, matrix: Any) -> Boxes:
    """Boxes moved from the unrotated page, where MuPDF finds text, to the page as displayed."""
    x = boxes[0::2] * matrix.a + boxes[1::2] * matrix.c + matrix.e
    y = boxes[0::2] * matrix.b + boxes[1::2] * matrix.d + matrix.f
    return np.stack((x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))).astype(np.float32)
