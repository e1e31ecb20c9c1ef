"""Puts words together to the text of a page, clean and with the place of every word known.

Offsets are exact by construction: the text is joined from its cleaned words, so every word's span is known when the
text is. Text layers and optical recognition both end here, so both are normalised and joined alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from actors.messages import WORD, Words
from actors.reading import hyphens

SEPARATORS: Final = (" ", "\n", "\n\n", "")
"""What stands between two words by their gap: in the same line, before the next line, before the next block, ..."""
JOINED: Final = 3  # ... and between the parts of a divided word
SEPARATOR_CHARS: Final = np.array([1, 1, 2, 0], dtype=np.int32)

_CLEAN: Final = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\ufb06": "st",
        "\u00ad": "",  # soft hyphen
        "\u200b": "",  # zero-width space
        "\ufeff": "",  # byte order mark
        **dict.fromkeys("\u1680\u2028\u2029\u202f\u205f\u3000\x85\xa0", " "),
        **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),
        # PostgreSQL stores no NUL, and no control character is text.
        **dict.fromkeys((chr(code) for code in range(0x20) if code != ord("\n")), ""),
    }
)
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_ODD: Final = re.compile(f"[{''.join(re.escape(chr(code)) for code in _CLEAN)}\ud800-\udfff]")


def assemble(texts: Sequence[str], gaps: npt.NDArray[np.int64], boxes: npt.NDArray[np.float32]) -> tuple[str, Words]:
    """`assemble_all` of one page, with no gap behind its last word; it may have none."""
    return assemble_all([texts], np.append(gaps, 0), boxes)[0] if texts else ("", Words())


def assemble_all(
    pages: Sequence[Sequence[str]], gaps: npt.NDArray[np.int64], boxes: npt.NDArray[np.float32]
) -> list[tuple[str, Words]]:
    """Join words into the text of each page and note where each one went.

    Args:
        pages: the words of each in reading order, none empty; at least one on each page.
        gaps: between each word and the next, 0: they stand in the same line, 1: the next begins a line, 2: it begins
            a block; shape (words,), one page after the other; that behind the last word of a page is of no account.
        boxes: x0, y0, x1, y1 of each word, shape (4, words), points.

    Returns:
        For each page its text (a space between words, a newline between lines, a blank line between blocks; words
        divided at the end of a line joined) and its words.
    """
    edges = list(accumulate(map(len, pages), initial=0))
    pages, gaps = list(pages), gaps.copy()
    gaps[np.array(edges[1:]) - 1] = 0
    (broken,) = gaps.nonzero()
    parted = np.searchsorted(broken, edges).tolist()
    breaks, steps = broken.tolist(), gaps[broken].tolist()
    joined: list[str] = []
    for number, texts in enumerate(pages):
        first, last = edges[number : number + 2]
        here = slice(*parted[number : number + 2])
        ends, kinds = [end - first for end in breaks[here]], steps[here]
        if divided := hyphens.decide(texts, ends):
            pages[number], own = _joined(texts, gaps[first : last - 1], divided)
            gaps[first : last - 1] = own
            ends = own.nonzero()[0].tolist()
            kinds = own[ends].tolist()
        parts = [SEPARATORS[0]] * (2 * len(texts) - 1)
        parts[::2] = pages[number]
        for end, kind in zip(ends, kinds, strict=True):
            parts[2 * end + 1] = SEPARATORS[kind]
        joined.append("".join(parts))
    counts = [last - first for first, last in pairwise(edges)]
    lengths = np.fromiter(map(len, chain.from_iterable(pages)), np.int32, edges[-1])
    records = np.empty(edges[-1], dtype=WORD)
    # As the table of numbers that it is, the boxes go in at once.
    table = records.view(np.int32).reshape(edges[-1], -1)
    taken = lengths + SEPARATOR_CHARS[gaps]
    starts = np.cumsum(taken) - taken
    starts -= np.repeat(starts[edges[:-1]], counts)
    table[:, 0] = starts
    np.add(table[:, 0], lengths, out=table[:, 1])
    table[:, 2:].view(np.float32)[:] = boxes.T
    packed = records.tobytes()
    places = pairwise(edge * WORD.itemsize for edge in edges)
    return [(text, Words(packed[start:end])) for text, (start, end) in zip(joined, places, strict=True)]


def gaps(blocks: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The gaps that `assemble` takes, from the block of each word and its line, unique within the block."""
    return np.where(np.diff(blocks) != 0, 2, (np.diff(lines) != 0).astype(np.int64))


def _joined(
    texts: Sequence[str], gaps: npt.NDArray[np.int64], divided: Mapping[int, hyphens.Join]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Close the gap inside divided words, and break the line, or the block, behind them instead."""
    texts, gaps = list(texts), gaps.copy()
    for index, join in divided.items():
        if join is hyphens.Join.DROP:
            texts[index] = texts[index][:-1]
        # A paragraph that goes on in the next column is one block.
        moved = min(int(gaps[index]), 1)
        gaps[index] = JOINED
        if index + 1 < len(gaps):
            gaps[index + 1] = max(int(gaps[index + 1]), moved)
    return texts, gaps


def clean(text: str) -> str:
    """NFC without ligatures, odd spaces, invisible characters, and what no database or encoder takes."""
    # Looking is three times as fast as translating, and most texts need nothing.
    if _ODD.search(text):
        text = _SURROGATES.sub("\ufffd", text.translate(_CLEAN))
    return unicodedata.normalize("NFC", text)
