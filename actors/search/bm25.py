"""BM25 where tantivy's own will not do: with statistics of several indexes together, or with another k1 and b.

tantivy's k1, b and statistics are those of the index at hand and cannot be set from Python. A weight on a term can:
it puts the frequency of a term right. What is left is the length that a text is held against, and the shape of the
curve. Both change a score by a factor that has a bound, so the entries that tantivy ranks first are scored again from
their counts until none that was not looked at can be among the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

K1: Final = 1.2
B: Final = 0.75
"""As tantivy has them."""

MAX_EXPANSIONS: Final = 50
"""Words that one open end stands for: the ones that come first in the alphabet."""

Term = tuple[str, str]
"""A field of a language, and a stem."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What scores depend on besides the text at hand. Those of several indexes add up.

    Attributes:
        chunks: in the collections that are searched.
        holding: of these, how many hold a term.
        open: the terms that an open end stands for, by field and beginning, in order.
        total: chunks of all collections.
        lengths: their words, by field.
    """

    chunks: int = 0
    holding: Mapping[Term, int] = field(default_factory=dict)
    open: Mapping[Term, tuple[str, ...]] = field(default_factory=dict)
    total: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.chunks + other.chunks,
            _sum(self.holding, other.holding),
            {
                key: tuple(sorted({*self.open.get(key, ()), *other.open.get(key, ())})[:MAX_EXPANSIONS])
                for key in self.open.keys() | other.open.keys()
            },
            self.total + other.total,
            _sum(self.lengths, other.lengths),
        )

    def rarity(self, term: Term) -> float:
        """The weight of a term by how few chunks hold it."""
        return idf(self.holding.get(term, 0), self.chunks)

    def average(self, name: str) -> float:
        """Words that a field has on the average."""
        return max(self.lengths.get(name, 0) / max(self.total, 1), 1e-9)


def idf(holding: int, chunks: int) -> float:
    """Inverse document frequency, as tantivy and Lucene have it."""
    return math.log1p((max(chunks, holding) - holding + 0.5) / (holding + 0.5))


@dataclass(frozen=True, slots=True)
class Curve:
    """How a score grows with how often a term occurs, and falls with the length of the text.

    Attributes:
        k1: 0 for no difference between once and often.
        b: 0 for no difference between long and short.
        average: length that others are held against.
    """

    k1: float
    b: float
    average: float

    def damping(self, length: Any) -> Any:
        """What the frequency is held against in a text of this length."""
        return self.k1 * (1 - self.b + self.b * length / self.average)

    def part(self, frequency: Any, length: Any) -> Any:
        """From 0 to `k1 + 1`."""
        return (self.k1 + 1) * frequency / (frequency + self.damping(length))

    def frequency(self, part: float, length: float) -> int:
        """How often a term occurs that has this part in the score."""
        left = self.k1 + 1 - part
        return max(1, round(part * self.damping(length) / left)) if left > 1e-6 else 1

    def most(self, other: Curve, longest: int) -> float:
        """The most that this one gives, as a multiple of what another gives, for any text of up to so many words."""
        # Monotone in either, so it is at a corner; for a frequency without end it is the quotient of the limits.
        limit = (self.k1 + 1) / (other.k1 + 1)
        corners = (self.part(1, length) / other.part(1, length) for length in (0, longest))
        return float(max(limit, *corners))


def floored(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Lengths as tantivy keeps them, in one byte: exact to 40, then with three bits behind the first."""
    steps: npt.NDArray[np.int64] = _STEPS[np.searchsorted(_STEPS, lengths, side="right") - 1]
    return steps


def _step(number: int) -> int:
    """The length that a byte stands for; Lucene's `SmallFloat.byte4ToInt`, which tantivy's table is."""
    if number < 24:
        return number
    bits, shift = (number - 24) & 7, ((number - 24) >> 3) - 1
    return 24 + (bits if shift < 0 else (bits | 8) << shift)


_STEPS: Final = np.array([_step(number) for number in range(256)], np.int64)


def _sum(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
