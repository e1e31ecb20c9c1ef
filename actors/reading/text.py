"""Puts words together to the text of a page, clean and with the place of every word known.

Offsets are exact by construction: the text is joined from its cleaned words, so every word's span is known when the
text is. Text layers and optical recognition both end here, so both are normalised and joined alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
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
    """Join words into a page's text and note where each one went.

    Args:
        texts: the words in reading order, none empty.
        gaps: between each word and the next, 0: they stand in the same line, 1: the next begins a line, 2: it begins
            a block; shape (words - 1,).
        boxes: x0, y0, x1, y1 of each word, shape (4, words), points.

    Returns:
        The text (a space between words, a newline between lines, a blank line between blocks; words divided at the end
        of a line joined) and the words.
    """
    if not texts:
        return "", Words()
    (breaks,) = gaps.nonzero()
    if divided := hyphens.decide(texts, breaks.tolist()):
        texts, gaps = _joined(texts, gaps, divided)
        (breaks,) = gaps.nonzero()
    parts = [SEPARATORS[0]] * (2 * len(texts) - 1)
    parts[::2] = texts
    for index, gap in zip(breaks.tolist(), gaps[breaks].tolist(), strict=True):
        parts[2 * index + 1] = SEPARATORS[gap]
    lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    records = np.empty(len(texts), dtype=WORD)
    # As the table of numbers that it is, the boxes go in at once.
    table = records.view(np.int32).reshape(len(texts), -1)
    starts, ends = table[:, 0], table[:, 1]
    np.cumsum(lengths[:-1] + SEPARATOR_CHARS[gaps], out=starts[1:])
    starts[0] = 0
    np.add(starts, lengths, out=ends)
    table[:, 2:].view(np.float32)[:] = boxes.T
    return "".join(parts), Words(records.tobytes())


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
