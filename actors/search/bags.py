"""Bags: the words of each entry, counted, so that its score can be told without a look at any posting list.

An inverted index says which entries hold a word, and to ask it for a common word costs as much as there are entries
that hold it. Asked for the rare words of a query alone, it names the few entries that may be best; what common words
add to these is looked up here. That also leaves BM25's k1 and b to us.

A word is known by a hash of 32 bits over field and stem: of 100 entries of 80 words, a query of ten words takes one in
50,000 times a word for another.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LOW: Final = 1 << 16
"""A table of so many bytes stays in a core's nearest cache; what it lets through wrongly is sorted out afterwards."""

_AT_ONCE: Final = 255
"""Words of a query that have a number in such a table."""

Entries = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a query in a field.

    Attributes:
        key: as `key` gives it.
        field: number of the field.
        weight: of the word in the score: how rare it is, and how much it counts in this field and query.
    """

    key: int
    field: int
    weight: float


class Bags:
    """The words of entries. See the module's docstring.

    `add` and `remove` belong to one writing thread; scores may be told in others at the same time.

    Args:
        fields: their names.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = {name: number for number, name in enumerate(fields)}
        # The words of an entry are from its bound to the next one's, in no order.
        self._bounds = np.zeros(1024, np.int64)
        self._lengths = np.zeros((1024, len(fields)), np.int32)
        self._keys = np.zeros(1024, np.uint32)
        self._times = np.zeros(1024, np.uint8)
        self._count = 0
        self._size = 0
        # Over all entries that are not removed: words by field, and entries that have any there.
        self._words = np.zeros(len(fields), np.int64)
        self._holders = np.zeros(len(fields), np.int64)

    def field(self, name: str) -> int:
        """Number of a field."""
        return self._fields[name]

    def add(self, entry: int, stems: Mapping[str, Sequence[str]]) -> None:
        """Take the words of an entry in.

        Args:
            entry: greater than all before.
            stems: of each field that has any, repeats included.
        """
        if entry < self._count:
            raise ValueError(f"entry {entry} is there, or before one that is")
        keys: list[int] = []
        times: list[int] = []
        lengths = [0] * len(self._fields)
        for name, found in stems.items():
            lengths[self._fields[name]] = len(found)
            counted = Counter(found)
            keys += [key(name, stem) for stem in counted]
            times += [min(number, 255) for number in counted.values()]
        if entry + 1 >= len(self._bounds):
            self._bounds, self._lengths = _grown(self._bounds, entry + 2), _grown(self._lengths, entry + 2)
        end = self._size + len(keys)
        if end > len(self._keys):
            self._keys, self._times = _grown(self._keys, end), _grown(self._times, end)
        if keys:
            self._keys[self._size : end] = keys
            self._times[self._size : end] = times
        self._lengths[entry] = lengths
        self._bounds[self._count : entry + 1] = self._size
        self._bounds[entry + 1] = end
        self._count, self._size = entry + 1, end
        self._note(self._lengths[entry : entry + 1], 1)

    def remove(self, entries: range) -> None:
        """Let entries count no more in what fields have on the average."""
        self._note(self._lengths[entries.start : entries.stop], -1)

    def scores(self, entries: Entries, terms: Sequence[Term], *, k1: float, b: float) -> Scores:
        """BM25 of entries (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).

        Args:
            entries: any that were added.
            terms: of the query, each once.
            k1: 0 for no difference between once and often.
            b: 0 for no difference between long and short.
        """
        starts, ends = self._bounds[entries], self._bounds[entries + 1]
        sizes = ends - starts
        rows = np.repeat(np.arange(len(entries)), sizes)
        places = np.arange(len(rows)) + (ends - np.cumsum(sizes))[rows]
        held = self._keys[places]
        lower = held % _LOW
        average = self._words / np.maximum(self._holders, 1)
        scores = np.zeros(len(entries))
        for first in range(0, len(terms), _AT_ONCE):
            part = terms[first : first + _AT_ONCE]
            at, of = _found(held, lower, np.array([term.key for term in part], np.uint32))
            weights = np.array([term.weight * (k1 + 1) for term in part])
            fields = np.array([term.field for term in part])
            row, field = rows[at], fields[of]
            times = self._times[places[at]].astype(np.float64)
            length = self._lengths[entries[row], field] / average[field]
            parts = weights[of] * times / (times + k1 * (1 - b + b * length))
            scores += np.bincount(row, parts, len(entries))
        return scores

    def _note(self, lengths: npt.NDArray[np.int32], sign: int) -> None:
        self._words = self._words + sign * lengths.sum(axis=0, dtype=np.int64)
        self._holders = self._holders + sign * np.count_nonzero(lengths, axis=0)

    # --- snapshots ---

    def save(self, folder: Path) -> None:
        """Write all entries into a folder, which is made."""
        folder.mkdir()
        np.save(folder / "bounds.npy", self._bounds[: self._count + 1])
        np.save(folder / "lengths.npy", self._lengths[: self._count + 1])
        np.save(folder / "keys.npy", self._keys[: self._size])
        np.save(folder / "times.npy", self._times[: self._size])
        np.save(folder / "sums.npy", np.stack([self._words, self._holders]))

    @classmethod
    def load(cls, folder: Path, fields: Sequence[str]) -> Bags:
        """Map what was saved; the first entry that is added copies it.

        Raises:
            ValueError, OSError: it is not what was saved.
        """
        bags = cls(fields)
        bounds, lengths, keys, times, sums = (
            # As plain arrays: numpy's own class for what is mapped makes every access slower.
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("bounds", "lengths", "keys", "times", "sums")
        )
        shapes = (lengths.shape, keys.shape, times.shape, sums.shape)
        size = int(bounds[-1]) if len(bounds) else -1
        if shapes != ((len(bounds), len(fields)), (size,), (size,), (2, len(fields))):
            raise ValueError("the words of the entries are damaged")
        bags._bounds, bags._lengths, bags._keys, bags._times = bounds, lengths, keys, times
        bags._count, bags._size = len(bounds) - 1, size
        bags._words, bags._holders = sums
        return bags


def key(field: str, stem: str) -> int:
    """What a stem in a field is known by."""
    return zlib.crc32(stem.encode("utf-8", "surrogatepass"), _salt(field))


@functools.cache
def _salt(field: str) -> int:
    return zlib.crc32(field.encode())


def _found(
    held: npt.NDArray[np.uint32], lower: npt.NDArray[np.uint32], wanted: npt.NDArray[np.uint32]
) -> tuple[Entries, Entries]:
    """Where wanted keys are, and which of them is there."""
    numbers = np.arange(1, len(wanted) + 1)
    table = np.zeros(_LOW, np.uint8)
    table[wanted % _LOW] = numbers
    number = table[lower]
    near = np.flatnonzero(number)
    of = number[near].astype(np.int64) - 1
    same = wanted[of] == held[near]
    at, of = near[same], of[same]
    # Of several with the same lower half the table knows only one.
    for hidden in np.flatnonzero(table[wanted % _LOW] != numbers).tolist():
        also = np.flatnonzero(held == wanted[hidden])
        at, of = np.append(at, also), np.append(of, np.full(len(also), hidden))
    return at, of


def _grown(array: npt.NDArray[Any], least: int) -> npt.NDArray[Any]:
    grown = np.zeros((max(least, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
