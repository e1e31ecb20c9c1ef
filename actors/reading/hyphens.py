"""Decides what a hyphen at the end of a line is: a divided word, or a compound that happened to break there.

Nothing but the page itself is asked, so that a page reads the same whichever task reads it. Most hyphens at line ends
divide a word; without a sign of a compound it is joined.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final


class Join(Enum):
    """What becomes of a hyphen at the end of a line when the line after it is joined on."""

    DROP = "drop"
    KEEP = "keep"


_FIRST: Final = re.compile(r"((?:[^\W\d_]+[-\u2010'’])*)([^\W\d_]+)[-\u2010]$")
_SECOND: Final = re.compile(r"[^\W\d_]+")
_WORD: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")

# "pre- and post-war": the hyphen stands for the rest of another word.
_SUSPENDED: Final = frozenset(("and", "or", "to", "nor", "but", "und", "oder", "bis", "et", "ou", "y", "o", "e", "en"))
# Begin compounds far more often than divided words.
_COMPOUND: Final = frozenset(("all", "cross", "half", "high", "long", "low", "non", "quasi", "self", "well"))
MIN_WORD_CHARS: Final = 4  # two free words of this length beside a hyphen are a compound, not the halves of a word


def decide(texts: Sequence[str], ends: Iterable[int]) -> dict[int, Join]:
    """Which words go on in the next line.

    A hyphen divides a word if the next line begins in lower case, unless the page shows a compound: it writes the word
    with the hyphen elsewhere and not without, the first part has a hyphen already or one letter only, it is one that
    begins compounds, or both parts are words of the page.

    Args:
        texts: the words of a page in reading order, none empty.
        ends: positions of the last word of each line; a next word must follow.

    Returns:
        Position of the first part to what becomes of its hyphen.
    """
    divided: dict[int, tuple[str, str, str]] = {}
    for index in ends:
        if texts[index][-1] not in "-\u2010":
            continue
        first, second = _FIRST.search(texts[index]), _SECOND.match(texts[index + 1])
        if first is None or second is None:
            continue
        if not second[0][0].islower() or second[0] in _SUSPENDED:
            continue
        divided[index] = first[1], first[2].casefold(), second[0].casefold()
    if not divided:
        return {}
    # Counted only on pages that have such a hyphen. A divided word is seen as its two parts, which are no words of the
    # page for that: what is divided alike on two lines would be a compound.
    seen = Counter(_WORD.findall("\n".join(texts).casefold().replace("\u2010", "-")))
    seen.subtract(part for parts in divided.values() for part in parts[1:])
    return {index: _judge(*parts, seen) for index, parts in divided.items()}


def _judge(before: str, first: str, second: str, seen: Counter[str]) -> Join:
    if seen[first + second] > 0:
        return Join.DROP
    compound = before or len(first) == 1 or first in _COMPOUND or seen[f"{first}-{second}"] > 0
    free = len(first) >= MIN_WORD_CHARS <= len(second) and seen[first] > 0 and seen[second] > 0
    return Join.KEEP if compound or free else Join.DROP
