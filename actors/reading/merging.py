"""Joins what was recognised on a page's pictures with the text that the page has of its own, in reading order.

The page's own text is never changed, only parted between its blocks: it is exact, and what is recognised is not. So
its spans stay what they were, moved by what now stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.messages import WORD, Box, Words

BLANK_LINE: Final = "\n\n"
OVERLAP: Final = 0.3  # of the smaller of two words; beyond it they are the same ink


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph: its text, and its words with spans into that text."""

    text: str
    words: Words

    @property
    def box(self) -> Box:
        """Around its words."""
        words = self.words.array
        return (
            float(words["x0"].min()),
            float(words["y0"].min()),
            float(words["x1"].max()),
            float(words["y1"].max()),
        )


def blocks(text: str, words: Words) -> list[Block]:
    """A page's text parted at its blank lines."""
    parts: list[Block] = []
    start = 0
    for part in text.split(BLANK_LINE):
        if part:
            parts.append(Block(part, words.within(start, start + len(part))))
        start += len(part) + len(BLANK_LINE)
    return parts


def join(parts: Sequence[Block]) -> tuple[str, Words]:
    """Blocks as one text with blank lines between them, and its words."""
    moved = []
    start = 0
    for part in parts:
        words = part.words.array.copy()
        words["start"] += start
        words["end"] += start
        moved.append(words)
        start += len(part.text) + len(BLANK_LINE)
    packed = np.concatenate(moved) if moved else np.empty(0, dtype=WORD)
    return BLANK_LINE.join(part.text for part in parts), Words(packed.tobytes())


def merge(own: Sequence[Block], recognised: Sequence[Block]) -> list[Block]:
    """All blocks in reading order.

    Args:
        own: of the page's text layer, in reading order.
        recognised: in reading order.

    Returns:
        Each recognised block stands before the first of the page's own that begins below its middle, or else behind the
        last one above it; only those in the same column count, if there are any.
    """
    if not own:
        return list(recognised)
    boxes = np.array([block.box for block in own])
    before: list[list[Block]] = [[] for _ in range(len(own) + 1)]
    for block in recognised:
        x0, y0, x1, y1 = block.box
        column = (boxes[:, 0] < x1) & (boxes[:, 2] > x0)
        if not column.any():
            column[:] = True
        lower = boxes[:, 1] >= (y0 + y1) / 2
        below, above = np.flatnonzero(column & lower), np.flatnonzero(column & ~lower)
        before[int(below[0] if len(below) else above[-1] + 1)].append(block)
    merged = []
    for index, block in enumerate(own):
        merged += [*before[index], block]
    return merged + before[-1]


def covered(
    words: Words, boxes: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which boxes lie over words that are there already.

    Args:
        words: of the page's own text.
        boxes: x0, y0, x1, y1, shape (4, boxes), points.

    Returns:
        Shape (boxes,).
    """
    own = words.array
    x0, y0, x1, y1 = (side[:, None] for side in boxes)
    width = np.minimum(x1, own["x1"]) - np.maximum(x0, own["x0"])
    height = np.minimum(y1, own["y1"]) - np.maximum(y0, own["y0"])
    shared = width.clip(0) * height.clip(0)
    smaller = np.minimum((x1 - x0) * (y1 - y0), (own["x1"] - own["x0"]) * (own["y1"] - own["y0"]))
    return np.asarray((shared > OVERLAP * smaller).any(axis=1))
