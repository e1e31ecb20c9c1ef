"""Bags: the words of each entry, counted, so that its score can be told without a look at any posting list.

An inverted index says which entries hold a word, and to ask it for a common word costs as much as there are entries
that hold it. Asked for the rare words of a query alone, it names the few entries that may be best; what common words
add to these is looked up here. That also leaves BM25's k1 and b to us.

An entry's words are in rows of eight, and a hash over field and stem says in which row a word would be: so a score
takes a look at one row for each word of the query, however long the text. In a row it is known by 24 bits of the hash,
and taken for another once in some four million looks.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.search.bm25 import floored

ROW: Final = 8
"""Words in a row, 32 bytes of which numpy copies at once."""

FILLED: Final = 5
"""Words that a row holds on the average, before some prove too full and there are more of them: 550 bytes an entry."""

MOST: Final = 8
"""Rows of an entry, as a multiple of those it would have without chance; one in 300 texts of 200 words needs over 4."""

TOGETHER: Final = 256
"""Entries that are put into their rows at once."""

REMEMBERED: Final = 1 << 15
"""Stems of a field whose keys are kept, some 4 MB."""

TIMES: Final = 0xFF
"""Of what is in a row, the bits that say how often the word occurs; the others are the hash's."""

AT_ONCE: Final = 1 << 15
"""Looks for a word in an entry that are taken together: their rows are 1 MB, which fits into the cache of a core."""

Rows = npt.NDArray[np.uint32]
Entries = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Counted(NamedTuple):
    """A word of a query in a field.

    Attributes:
        key: as `key` gives it.
        field: number of the field.
        weight: in the score: how rare it is, and how much it counts in this field and query.
        average: words that the field has on the average.
    """

    key: int
    field: int
    weight: float
    average: float


Words = Sequence[Counted]


@dataclass(slots=True)
class _Coming:
    """What was added and is not in its rows yet: by entry, and by word of each entry."""

    entries: list[int] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)


class Bags:
    """The words of entries. See the module's docstring.

    `add`, `settle` and `remove` belong to one writing thread; scores may be told in others at the same time.

    Args:
        fields: their names.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = {name: number for number, name in enumerate(fields)}
        # The rows of an entry are from its bound to the next one's, at least one.
        self._bounds = np.zeros(1024, np.int64)
        self._lengths = np.zeros((1024, len(fields)), np.int32)
        self._rows: Rows = np.zeros((1024, ROW), np.uint32)
        self._count = 0
        self._size = 0
        # By field: the words of all entries that are not removed, and of the longest there was.
        self._words = np.zeros(len(fields), np.int64)
        self._longest = np.zeros(len(fields), np.int64)
        self._coming = _Coming()

    def field(self, name: str) -> int:
        """Number of a field."""
        return self._fields[name]

    def words(self) -> dict[str, int]:
        """Words of all entries that are not removed, by field; fields without any are left out."""
        return {name: total for name, total in zip(self._fields, self._words.tolist(), strict=True) if total}

    def longest(self) -> int:
        """Words of the longest field there was."""
        return int(self._longest.max(initial=0))

    def length(self, entry: int, field: int) -> int:
        """Words in a field of an entry, as far as scores see."""
        return int(floored(self._lengths[entry, field]))

    def add(self, entry: int, stems: Mapping[str, Sequence[str]]) -> None:
        """Take the words of an entry in. Scores tell of it after the next `settle`.

        Args:
            entry: greater than all before.
            stems: of each field that has any, repeats included.
        """
        coming = self._coming
        if entry < (coming.entries[-1] + 1 if coming.entries else self._count):
            raise ValueError(f"entry {entry} is there, or before one that is")
        lengths = [0] * len(self._fields)
        before = len(coming.keys)
        for name, found in stems.items():
            lengths[self._fields[name]] = len(found)
            counted = Counter(found)
            coming.keys += map(_keys(name).__getitem__, counted)
            coming.times += counted.values()
        coming.entries.append(entry)
        coming.lengths.append(lengths)
        coming.sizes.append(len(coming.keys) - before)
        if len(coming.entries) >= TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Put what was added into its rows, all together: entry by entry numpy's calls cost five times as much."""
        coming, self._coming = self._coming, _Coming()
        if not coming.entries:
            return
        rows, counts = _in_rows(
            np.array(coming.keys, np.uint32), np.minimum(coming.times, TIMES).astype(np.uint32), np.array(coming.sizes)
        )
        entries, lengths = np.array(coming.entries), np.array(coming.lengths, np.int32)
        count = int(entries[-1]) + 1
        if count >= len(self._bounds):
            self._bounds, self._lengths = _grown(self._bounds, count + 1), _grown(self._lengths, count + 1)
        # Numbers that are left out have an empty row each.
        taken = np.ones(count - self._count, np.int64)
        taken[entries - self._count] = counts
        ends = self._size + np.cumsum(taken)
        size = int(ends[-1])
        if size > len(self._rows):
            self._rows = _grown(self._rows, size)
        firsts = ends[entries - self._count] - counts
        self._rows[np.repeat(firsts, counts) + _ordinals(counts)] = rows
        self._lengths[entries] = lengths
        self._bounds[self._count : count + 1] = np.concatenate(([self._size], ends))
        self._count, self._size = count, size
        self._words = self._words + lengths.sum(axis=0, dtype=np.int64)
        self._longest = np.maximum(self._longest, lengths.max(axis=0))

    def remove(self, entries: range) -> None:
        """Count the words of entries no more, as far as these were added. No entry may come twice."""
        self.settle()
        self._words = self._words - self._lengths[entries.start : entries.stop].sum(axis=0, dtype=np.int64)

    def scores(
        self, entries: Entries, of: Entries, queries: Sequence[Sequence[Counted]], *, k1: float, b: float
    ) -> Scores:
        """BM25 of entries (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).

        Args:
            entries: any that were added.
            of: per entry the place of its query, ascending.
            queries: the words of each, each once.
            k1: 0 for no difference between once and often.
            b: 0 for no difference between long and short.
        """
        scores: Scores = np.zeros(len(entries))
        sizes = np.array([len(query) for query in queries], np.int64)
        done = np.cumsum(sizes[of]) if len(entries) else np.zeros(0, np.int64)
        first = 0
        while first < len(entries):
            before = int(done[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(done, before + AT_ONCE, side="right")))
            part = slice(first, last)
            low = int(of[first])
            asked = queries[low : int(of[last - 1]) + 1]
            scores[part] = self._scores(entries[part], of[part] - low, asked, k1=k1, b=b)
            first = last
        return scores

    def _scores(
        self, entries: Entries, of: Entries, queries: Sequence[Sequence[Counted]], *, k1: float, b: float
    ) -> Scores:
        words = [word for query in queries for word in query]
        columns = tuple(zip(*words, strict=True)) or ((), (), (), ())
        keys, fields = np.array(columns[0], np.int64), np.array(columns[1], np.int64)
        weights, averages = np.array(columns[2], np.float64), np.array(columns[3], np.float64)
        sizes = np.array([len(query) for query in queries], np.int64)
        # Per entry its terms, one after the other: summed in another order an entry's score would differ in the last
        # digit from shard to shard.
        times = sizes[of]
        ends = np.cumsum(times)
        place = np.repeat(np.arange(len(entries)), times)
        term = np.arange(len(place)) + np.repeat((np.cumsum(sizes) - sizes)[of] - ends + times, times)
        first = self._bounds[entries]
        # The row where an entry would have a term.
        at = (keys[term] * (self._bounds[entries + 1] - first)[place] >> 32) + first[place]
        slots = self._rows.take(at, axis=0)
        # What is the same but for the times is wanted; an empty slot is like a word that never occurs.
        slots ^= (keys & ~TIMES).astype(np.uint32)[term, None]
        slots = slots.ravel()
        found = np.flatnonzero(slots - np.uint32(1) < TIMES)
        pair = found // ROW
        term, place = term[pair], place[pair]
        often = slots[found].astype(np.float64)
        length = floored(self._lengths[entries[place], fields[term]]) / averages[term]
        parts = weights[term] * (k1 + 1) * often / (often + k1 * (1 - b + b * length))
        scores: Scores = np.bincount(place, parts, len(entries)).astype(np.float64)
        return scores

    # --- snapshots ---

    def save(self, folder: Path) -> None:
        """Write all entries into a folder, which is made."""
        self.settle()
        folder.mkdir()
        np.save(folder / "bounds.npy", self._bounds[: self._count + 1])
        np.save(folder / "lengths.npy", self._lengths[: self._count + 1])
        np.save(folder / "rows.npy", self._rows[: self._size])
        np.save(folder / "sums.npy", np.stack([self._words, self._longest]))

    @classmethod
    def load(cls, folder: Path, fields: Sequence[str]) -> Bags:
        """Map what was saved; the first entry that is added copies it.

        Raises:
            ValueError, OSError: it is not what was saved.
        """
        bags = cls(fields)
        bounds, lengths, rows, sums = (
            # As plain arrays: numpy's own class for what is mapped makes every access slower.
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("bounds", "lengths", "rows", "sums")
        )
        size = int(bounds[-1]) if len(bounds) else -1
        if (lengths.shape, rows.shape, sums.shape) != ((len(bounds), len(fields)), (size, ROW), (2, len(fields))):
            raise ValueError("the words of the entries are damaged")
        bags._bounds, bags._lengths, bags._rows = bounds, lengths, rows
        bags._count, bags._size = len(bounds) - 1, size
        bags._words, bags._longest = sums
        return bags


def key(field: str, stem: str) -> int:
    """What a stem in a field is known by."""
    return _keys(field)[stem]


class _Keys(dict[str, int]):
    """The keys of stems in a field, those met lately: to look one up takes a tenth of making it."""

    def __init__(self, field: str) -> None:
        self._salt = zlib.crc32(field.encode())

    def __missing__(self, stem: str) -> int:
        if len(self) >= REMEMBERED:
            self.clear()
        made = self[stem] = zlib.crc32(stem.encode("utf-8", "surrogatepass"), self._salt)
        return made


@functools.cache
def _keys(field: str) -> _Keys:
    return _Keys(field)


def _in_rows(
    keys: npt.NDArray[np.uint32], times: npt.NDArray[np.uint32], sizes: npt.NDArray[np.int64]
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Words of entries, each in as few rows as it takes for none to be too full, at most `MOST` times the least.

    Words whose keys are alike stay in one row however many there are, and whoever writes a document can choose them so.
    Then those of a row that come last are left out: the score of the entry for these words is a little less.

    Args:
        keys: of all entries, one after the other.
        times: how often each word occurs.
        sizes: words of each entry.

    Returns:
        The rows of all entries, one after the other, and how many each has.
    """
    counts = np.maximum(1, -(-sizes // FILLED))
    most = MOST * counts
    wide = keys.astype(np.int64)
    row = np.empty(len(keys), np.int64)  # within the entry
    left = np.arange(len(sizes))
    words = np.arange(len(keys))
    while len(left):
        of = np.repeat(np.arange(len(left)), sizes[left])
        bounds = np.cumsum(counts[left])
        row[words] = wide[words] * counts[left][of] >> 32
        filled = np.bincount(row[words] + (bounds - counts[left])[of], minlength=int(bounds[-1]))
        full = np.zeros(len(left), np.bool_)
        full[np.searchsorted(bounds, np.flatnonzero(filled > ROW), side="right")] = True
        full &= counts[left] < most[left]
        left, words = left[full], words[full[of]]
        counts[left] = np.minimum(counts[left] + 1 + counts[left] // 8, most[left])
    firsts = np.cumsum(counts) - counts
    row += np.repeat(firsts, sizes)
    order = np.argsort(row, kind="stable")
    rows = np.zeros((int(counts.sum()), ROW), np.uint32)
    places = _ordinals(np.bincount(row, minlength=len(rows)))
    order, places = order[places < ROW], places[places < ROW]
    rows[row[order], places] = (keys[order] & np.uint32(~TIMES & 0xFFFFFFFF)) | times[order]
    return rows, counts


def _ordinals(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, … anew for each size, one after the other."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _grown(array: npt.NDArray[Any], least: int) -> npt.NDArray[Any]:
    grown = np.zeros((max(least, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
