"""BM25 where tantivy's own will not do: with statistics of several indexes together, or with another k1 and b.

tantivy's k1, b and statistics are those of the index at hand and cannot be set from Python. A weight on a term can:
it puts the frequency of a term right. What is left is the length that a text is held against, and the shape of the
curve. Both change a score by a factor that has a bound, so the entries that tantivy ranks first are scored again from
their counts until none that was not looked at can be among the best.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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

Scores = npt.NDArray[np.float64]


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


class Counts:
    """How often each term occurs in each entry, and how long it is: what a score is made of.

    `add`, `remove` and `commit` belong to one writing thread; the rest may run in others at the same time.

    Args:
        fields: names; an entry has each in one language.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        self._ends = np.zeros(1024, np.int64)
        self._lengths = np.zeros((1024, len(self._fields)), np.int32)
        self._keys = np.zeros(1024, np.uint32)
        self._times = np.zeros(1024, np.uint8)
        self._tongues: list[str] = []
        self._living: list[bool] = []
        self._count = 0
        self._size = 0
        self._longest = 0
        # As of the last commit, and what has come since.
        self.total = 0
        self.words: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()
        self._came = 0

    @property
    def longest(self) -> int:
        """Words of the longest field there was."""
        return self._longest

    def add(self, entry: int, tongue: str, stems: Mapping[str, Sequence[str]]) -> None:
        """Take an entry in, which is the next one.

        Args:
            entry: from 0.
            tongue: its language.
            stems: of each field, in any order.
        """
        while self._count < entry:
            # Of one whose indexing failed half-way.
            self._append(np.empty(0, np.uint32), np.empty(0, np.uint8), [0] * len(self._fields), "")
            self._living[-1] = False
        keys: list[int] = []
        times: list[int] = []
        for name in self._fields:
            counted = Counter(stems.get(name, ()))
            salt = _salt(f"{name}_{tongue}")
            keys += [zlib.crc32(term.encode(), salt) for term in counted]
            times += [min(number, 255) for number in counted.values()]
        unordered = np.array(keys, np.uint32)
        order = np.argsort(unordered, kind="stable")
        lengths = [len(stems.get(name, ())) for name in self._fields]
        self._append(unordered[order], np.array(times, np.uint8)[order], lengths, tongue)
        self._note(entry, 1)

    def remove(self, entries: Iterable[int]) -> None:
        """Count entries no more, as far as they are."""
        for entry in entries:
            if entry < self._count and self._living[entry]:
                self._living[entry] = False
                self._note(entry, -1)

    def commit(self) -> None:
        """Make the sums follow what has come and gone."""
        self.words = self.words + self._coming if self.words else +self._coming
        self.total += self._came
        self._coming, self._came = Counter(), 0

    def scores(self, entries: Sequence[int], weights: Mapping[Term, float], curves: Mapping[str, Curve]) -> Scores:
        """The score of each of some entries.

        Args:
            entries: which.
            weights: of terms, by their field and stem.
            curves: of the fields.
        """
        terms = sorted(weights)
        if not terms:
            return np.zeros(len(entries))
        keys = np.array([zlib.crc32(term.encode(), _salt(name)) for name, term in terms], np.uint32)
        times = self._times_of(entries, keys)
        column = [self._fields.index(name.partition("_")[0]) for name, _ in terms]
        lengths = floored(self._lengths[np.asarray(entries, np.int64)])[:, column].astype(np.float64)
        factors = np.array([weights[term] * (curves[term[0]].k1 + 1) for term in terms])
        fixed = np.array([curves[name].k1 * (1 - curves[name].b) for name, _ in terms])
        slope = np.array([curves[name].k1 * curves[name].b / curves[name].average for name, _ in terms])
        with np.errstate(invalid="ignore"):
            parts = np.where(times > 0, times / (times + fixed + slope * lengths), 0.0)
        # One after the other: a sum that is split differs in the last digit where a shard lacks some of the terms.
        summed: Scores = np.zeros(len(entries))
        for each in (parts * factors).T:
            summed += each
        return summed

    def length(self, entry: int, name: str) -> int:
        """Words in a field of an entry, as far as scores see."""
        return int(floored(self._lengths[entry : entry + 1])[0, self._fields.index(name.partition("_")[0])])

    def _times_of(self, entries: Sequence[int], keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        held, times, ends = self._keys, self._times, self._ends
        which = np.asarray(entries, np.int64)[:, None]
        last = np.broadcast_to(ends[which], (len(entries), len(keys)))
        low = np.broadcast_to(np.where(which > 0, ends[which - 1], 0), last.shape).copy()
        high = last.copy()
        # All entries and terms are looked up at once: one by one it took 5 us an entry, eight times as long.
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            less = (held[np.minimum(middle, len(held) - 1)] < keys) & (low < high)
            low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
        at = np.minimum(low, len(held) - 1)
        found: npt.NDArray[np.float64] = np.where((low < last) & (held[at] == keys), times[at], 0).astype(np.float64)
        return found

    def _append(
        self, keys: npt.NDArray[np.uint32], times: npt.NDArray[np.uint8], lengths: Sequence[int], tongue: str
    ) -> None:
        if self._count == len(self._ends):
            self._ends, self._lengths = _grown(self._ends), _grown(self._lengths)
        while self._size + len(keys) > len(self._keys):
            self._keys, self._times = _grown(self._keys), _grown(self._times)
        end = self._size + len(keys)
        self._keys[self._size : end] = keys
        self._times[self._size : end] = times
        self._lengths[self._count] = lengths
        self._longest = max(self._longest, *lengths)
        self._ends[self._count] = end
        self._tongues.append(tongue)
        self._living.append(True)
        self._count, self._size = self._count + 1, end

    def _note(self, entry: int, sign: int) -> None:
        tongue = self._tongues[entry]
        for name, length in zip(self._fields, self._lengths[entry].tolist(), strict=True):
            self._coming[f"{name}_{tongue}"] += sign * length
        self._came += sign

    # --- snapshots ---

    def save(self, file: Path) -> None:
        """Write what was last committed."""
        tongues = sorted(set(self._tongues))
        np.savez(
            file,
            ends=self._ends[: self._count],
            lengths=self._lengths[: self._count],
            keys=self._keys[: self._size],
            times=self._times[: self._size],
            tongues=np.array(tongues or [""]),
            tongue=np.array([tongues.index(tongue) for tongue in self._tongues], np.uint8),
        )

    @classmethod
    def load(cls, file: Path, fields: Sequence[str], living: Iterable[int]) -> Counts:
        """Go on from what was saved.

        Args:
            file: where.
            fields: as for a new one.
            living: entries that are still counted.

        Raises:
            ValueError, OSError, KeyError, IndexError: it is not what was saved.
        """
        counts = cls(fields)
        with np.load(file, allow_pickle=False) as saved:
            counts._ends, counts._lengths = saved["ends"], saved["lengths"]
            counts._keys, counts._times = saved["keys"], saved["times"]
            tongues = saved["tongues"].tolist()
            counts._tongues = [tongues[number] for number in saved["tongue"].tolist()]
        counts._count, counts._size = len(counts._ends), len(counts._keys)
        if len(counts._lengths) != counts._count or len(counts._tongues) != counts._count:
            raise ValueError("the counts of words are damaged")
        counts._longest = int(counts._lengths.max(initial=0))
        alive = np.fromiter(living, np.int64)
        counts._living = [False] * counts._count
        for entry in alive.tolist():
            counts._living[entry] = True
        spoken = np.array([tongues.index(counts._tongues[entry]) for entry in alive.tolist()], np.int64)
        for number, tongue in enumerate(tongues):
            sums = counts._lengths[alive[spoken == number]].sum(axis=0, dtype=np.int64).tolist()
            counts.words.update({f"{name}_{tongue}": total for name, total in zip(fields, sums, strict=True) if total})
        counts.total = len(alive)
        return counts


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


def _salt(name: str) -> int:
    return zlib.crc32(name.encode())


def _sum(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}


def _grown(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grown = np.zeros((max(1024, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
