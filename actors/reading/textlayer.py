"""The text layer of a page: its words as MuPDF finds them, and the text that is made of them.

The two are apart because they are quicker so: MuPDF's code and numpy's push each other out of the processor's caches.
Pages that are extracted one after another and composed then take 3 % less than pages read one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from actors.messages import Box, Words
from actors.reading.layout import arrange
from actors.reading.mupdf import pymupdf
from actors.reading.text import assemble, clean

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
    """

    texts: tuple[str, ...]
    boxes: bytes
    starts: list[int]
    blocks: list[int]
    flags: int

    @property
    def array(self) -> Boxes:
        """The boxes, shape (4, words)."""
        return np.frombuffer(self.boxes, dtype=np.float32).reshape(4, -1)


def extract(source: pymupdf.Page, flags: int = FLAGS, *, mended: bool = False) -> Layer | None:
    """What MuPDF finds on a page; None if that is nothing.

    Args:
        source: the page.
        flags: `FLAGS` or `ONCE_FLAGS`.
        mended: whether the box of each letter is worked out anew from its font; that takes as long as all the rest.
    """
    content = source.get_textpage(flags=flags)
    pymupdf.TOOLS.unset_quad_corrections(not mended)
    try:
        found = content.extractWORDS()
    finally:
        pymupdf.TOOLS.unset_quad_corrections(False)
    if not found:
        return None
    x0, y0, x1, y1, texts, blocks, _, numbers = zip(*found, strict=True)
    starts = [index for index, number in enumerate(numbers) if not number]  # counted anew in each line
    # MuPDF's numbers are of single precision already. Packed they take a tenth of the room, and numpy takes twice as
    # long to turn tuples of them into an array.
    boxes = struct.pack(f"{4 * len(found)}f", *x0, *y0, *x1, *y1)
    return Layer(texts, boxes, starts, [blocks[index] for index in starts], flags)


def compose(source: pymupdf.Page, layer: Layer, tables: Sequence[Box] = ()) -> tuple[str, Words]:
    """The text of a page, clean and in reading order, and its words.

    Args:
        source: the page, for what must be looked at again.
        layer: extracted from it.
        tables: on it, as displayed, that are to be read whole.
    """
    texts, boxes = layer.texts, layer.array
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    if _flat(boxes, lengths) and (mended := extract(source, layer.flags, mended=True)):
        boxes = mended.array
    if source.rotation:
        boxes = _turned(boxes, source.rotation_matrix)
    starts, blocks = np.array((layer.starts, layer.blocks), dtype=np.int64)
    if layer.flags == FLAGS and _overprinted(boxes[:, starts]):
        once = extract(source, ONCE_FLAGS)
        return compose(source, once, tables) if once else ("", Words())
    joined = "\n".join(texts)
    if not joined.isascii():
        # A soft hyphen is seen at the end of a line only, and some fonts have it for every hyphen.
        # All at once: word by word costs a tenth of the reading. Normalisation does not reach across a newline.
        cleaned = clean(joined.replace("\u00ad\n", "-\n"))
        if cleaned != joined:
            texts = tuple(map(str.strip, cleaned.split("\n")))
            lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        if "" in texts:
            kept = lengths > 0
            texts = tuple(filter(None, texts))
            if not texts:
                return "", Words()
            # A line begins as many words earlier as are gone before it, and is gone itself if all of its words are.
            left = np.logical_or.reduceat(kept, starts)
            starts, blocks = (np.cumsum(kept) - kept)[starts[left]], blocks[left]
            boxes, lengths = boxes[:, kept], lengths[kept]
    arranged = arrange(boxes, texts, lengths, starts, blocks, tables)
    if arranged.order is not None:
        texts = tuple(texts[index] for index in arranged.order.tolist())
        boxes = boxes[:, arranged.order]
    return assemble(texts, arranged.gaps, boxes)


def _flat(boxes: Boxes, lengths: Ints) -> bool:
    """Whether a word is too low for its letters: its font tells a wrong height, often none."""
    width, height = boxes[2:] - boxes[:2]
    flat = np.minimum(width, height) * lengths < FLAT * np.maximum(width, height)
    return bool((flat & (lengths > 2)).any())  # a dash is as flat as it looks


def _overprinted(begins: Boxes) -> bool:
    """Whether two lines begin in the same place: some programs print bold, or all of a page, by printing it again.

    Args:
        begins: boxes of the first words of lines, shape (4, lines).
    """
    x0, y0, _, y1 = begins[:, np.lexsort(begins[:2])]
    near = OVERPRINT * (y1 - y0)[1:]
    # Ascending, so only the distances across can be negative.
    return bool(((y0[1:] - y0[:-1] < near) & (np.abs(x0[1:] - x0[:-1]) < near)).any())


def _turned(boxes: Boxes, matrix: Any) -> Boxes:
    """Boxes moved from the unrotated page, where MuPDF finds text, to the page as displayed."""
    x = boxes[0::2] * matrix.a + boxes[1::2] * matrix.c + matrix.e
    y = boxes[0::2] * matrix.b + boxes[1::2] * matrix.d + matrix.f
    return np.stack((x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))).astype(np.float32)
