"""The dense index: unit vectors by entry, searched by cosine.

Below `EXACT_BELOW` entries every vector is compared: one matrix product answers a whole batch, and nothing is missed.
Above, usearch's graph (HNSW; Malkov and Yashunin, 2018) is asked. It walks over vectors of 8 bits, and the cosines of
what it finds are computed again from those of 16. Over 100,000 chunks its search took 155 us a query, where that of a
graph of 16 bits took 272 for the same recall, and it is built in a third of the time.

A snapshot is a folder that is mapped, not read: a replica is up at once, and replicas on one machine share its memory.
The first change after that copies it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime  # noqa: F401 - see below
from usearch.index import Index

from actors.search.encoder import Vectors

# usearch puts the symbols of a library of its own (numkong, RTLD_GLOBAL) before those of all that is loaded later, and
# onnxruntime (1.32) loaded after it takes the process down at once. Loaded before it, both work.

Entries = npt.NDArray[np.int64]
Cosines = npt.NDArray[np.float32]

EXACT_BELOW: Final = 50_000

CONNECTIVITY: Final = 16
EXPANSION_ADD: Final = 96
EXPANSION_SEARCH: Final = 64
"""Of the graph: what a search costs against what it misses. Over 100,000 chunks, of the first ten passages that hybrid
fast gives 99.6 % are those that a graph searched for 400 gives, where a question costs 1.6 times as much."""

BLOCK: Final = 64
"""Entries whose greatest cosine is found first, when the best of many are chosen."""

SLICE: Final = 64
"""Vectors added to the graph at a time, some 10 ms: so long searches wait, and no longer."""

STEPS: Final = 32_767
"""Of a number from 0 to 1, as it is kept. More exact than a float of 16 bits, and turned into one of 32 bits in a third
of the time or less (20 against 70 us for the 70 vectors that a query looks at)."""

FORMAT: Final = 3
_MANIFEST: Final = "dense.json"
_READ: Final = 1 << 22


class CorruptSnapshot(Exception):
    """The folder is no whole snapshot, or one of another encoder; the index is to be built from the store."""


class DenseIndex:
    """Unit vectors by entry. See the module's docstring.

    `add`, `remove`, `commit` and `save` belong to one writing thread; the searches may run in others at the same time
    and see the last commit.

    Args:
        dimension: of the vectors.
        identity: of the encoder that makes them.
        exact_below: entries from which the graph is used.
    """

    def __init__(self, dimension: int, identity: str, *, exact_below: int = EXACT_BELOW) -> None:
        self._dimension = dimension
        self._identity = identity
        self._exact_below = exact_below
        self._entries: Entries = np.empty(0, np.int64)
        self._vectors: npt.NDArray[np.int16] = np.empty((0, dimension), np.int16)  # in steps of 1 / STEPS
        self._alive = np.empty(0, np.bool_)
        self._size = 0  # slots in use, the dead ones included
        self._count = 0  # of the living
        self._whole: Vectors | None = None  # the vectors once more, as the matrix product wants them
        self._graph: Index | None = None
        self._mapped = False
        self._coming: list[tuple[Entries, Vectors]] = []
        self._leaving: list[Entries] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Entries that searches see."""
        return self._count

    @property
    def identity(self) -> str:
        """Of the encoder whose vectors these are."""
        return self._identity

    def add(self, entries: Sequence[int] | Entries, vectors: npt.NDArray[Any]) -> None:
        """Add entries, each greater than all before. They are found after the next commit.

        Args:
            entries: one a vector.
            vectors: shape (entries, dimension), of length 1 or 0; one of length 0 is like nothing.
        """
        added = np.asarray(entries, np.int64)
        if vectors.shape != (len(added), self._dimension):
            raise ValueError(f"{len(added)} entries of dimension {self._dimension} have vectors {vectors.shape}")
        if len(added):
            self._coming.append((added, np.array(vectors, np.float32)))

    def remove(self, entries: Sequence[int] | range | Entries) -> None:
        """Drop those of the entries that are held. They are missed after the next commit."""
        self._leaving.append(np.asarray(entries, np.int64))

    def commit(self) -> None:
        """Make everything since the last commit visible at once. Searches go on meanwhile, but for moments."""
        if not self._coming and not self._leaving:
            return
        self._own()
        coming, self._coming = self._coming, []
        leaving, self._leaving = self._leaving, []
        size = self._size
        for entries, vectors in coming:
            size = self._append(size, entries, vectors)
        with self._lock:
            self._size = size
            for entries in leaving:
                self._kill(entries)
            self._count = int(np.count_nonzero(self._alive[:size]))
        self._tidy()

    def search(self, queries: Vectors, *, limit: int, allowed: Entries | None = None) -> list[tuple[Entries, Cosines]]:
        """The closest entries for each query.

        Args:
            queries: shape (queries, dimension), of length 1 or 0.
            limit: entries wanted, at least 1.
            allowed: entries that may be found, ascending; None means all.

        Returns:
            Per query the entries and their cosines, best first, equal ones by ascending entry. Fewer than `limit` where
            there are no more; none for a query of length 0.
        """
        with self._lock:
            slots = self._slots(allowed) if allowed is not None else None
            living = self._count if slots is None else len(slots)
            limit = min(limit, living)
            if limit == 0:
                return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
            graph = self._graph
            if graph is None or (slots is not None and len(slots) <= self._exact_below):
                found = self._compare_all(queries, limit, slots)
            else:
                found = self._ask(graph, queries, limit, slots)
            blank = [not query.any() for query in queries]
            return [
                (self._entries[at[:0]], near[:0]) if nothing else (self._entries[at], near)
                for (at, near), nothing in zip(found, blank, strict=True)
            ]

    def cosines(self, queries: Vectors, of: Entries, entries: Entries) -> Cosines:
        """The cosines of entries, each with a query of its own; 0 for those that are not held.

        Args:
            queries: shape (queries, dimension).
            of: per entry its query, ascending.
            entries: any.
        """
        bounds = np.searchsorted(of, np.arange(len(queries) + 1)).tolist()
        with self._lock:
            at, held = self._find(entries)
            near = np.zeros(len(at), np.float32)
            for query, (start, end) in zip(queries, itertools.pairwise(bounds), strict=True):
                if start < end:
                    near[start:end] = self._rows(at[start:end]) @ query
        near[~held] = 0
        return near

    def vectors(self, entries: Entries) -> Vectors:
        """The vectors of entries, as far as they are held; zeros for the others."""
        with self._lock:
            at, held = self._find(entries)
            vectors = np.zeros((len(entries), self._dimension), np.float32)
            vectors[held] = self._rows(at[held])
            return vectors

    # --- snapshots ---

    def save(self, folder: Path) -> None:
        """Write a snapshot of the last commit. The folder is new or empty; it counts once its manifest is there."""
        folder.mkdir(parents=True, exist_ok=True)
        # No lock: only the thread that is here changes anything.
        alive = np.flatnonzero(self._alive[: self._size])
        np.save(folder / "entries.npy", self._entries[alive])
        np.save(folder / "vectors.npy", self._vectors[alive])
        if self._graph is not None:
            self._graph.save(folder / "graph.usearch")
        files = sorted(file.name for file in folder.iterdir() if file.suffix in (".npy", ".usearch"))
        manifest = {
            "format": FORMAT,
            "identity": self._identity,
            "dimension": self._dimension,
            "files": {name: checksum(folder / name) for name in files},
        }
        draft = folder / f"{_MANIFEST}.new"
        draft.write_text(json.dumps(manifest), encoding="utf-8")
        draft.replace(folder / _MANIFEST)

    @classmethod
    def load(cls, folder: Path, dimension: int, identity: str, *, exact_below: int = EXACT_BELOW) -> DenseIndex:
        """Map a snapshot.

        Raises:
            CorruptSnapshot: it is not there, not whole, or of another encoder.
        """
        index = cls(dimension, identity, exact_below=exact_below)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            expected = {"format": FORMAT, "identity": identity, "dimension": dimension}
            if {key: manifest.get(key) for key in expected} != expected:
                raise CorruptSnapshot("The snapshot of the dense index is of another encoder or format.")
            # Before anything is mapped: usearch trusts a file, and a damaged one takes the process down.
            for name, expected_checksum in manifest["files"].items():
                if Path(name).name != name or checksum(folder / name) != expected_checksum:
                    raise CorruptSnapshot(f"The file {name} of the snapshot of the dense index is damaged.")
            index._map(folder, "graph.usearch" in manifest["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptSnapshot(f"The snapshot of the dense index cannot be read ({type(error).__name__}).") from None
        return index

    def _map(self, folder: Path, with_graph: bool) -> None:
        # As plain arrays: numpy's own class for what is mapped makes every access slower.
        self._entries = np.asarray(np.load(folder / "entries.npy", mmap_mode="r", allow_pickle=False))
        self._vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False))
        self._size = self._count = len(self._entries)
        self._alive = np.ones(self._size, np.bool_)
        if self._vectors.shape != (self._size, self._dimension):
            raise ValueError(self._vectors.shape)
        self._mapped = True
        if with_graph:
            graph = _graph(self._dimension)
            graph.view(folder / "graph.usearch")
            self._graph = graph
        else:
            self._tidy()

    def _own(self) -> None:
        """Copy what is mapped, before it is changed."""
        if not self._mapped:
            return
        entries, vectors, graph = np.array(self._entries), np.array(self._vectors), self._graph
        if graph is not None:
            copied = _graph(self._dimension)
            copied.load(graph.save())
            graph = copied
        with self._lock:
            self._entries, self._vectors, self._graph = entries, vectors, graph
        self._mapped = False

    # --- slots ---

    def _append(self, start: int, entries: Entries, vectors: Vectors) -> int:
        """Put entries behind the first `start` slots, where no search looks yet; the slots that are in use then."""
        size = start + len(entries)
        last = self._entries[start - 1] if start else -1
        if entries[0] <= last or (np.diff(entries) <= 0).any():
            raise ValueError("entries are to be added in ascending order")
        if size > len(self._entries):
            room = max(size, 2 * len(self._entries), 1024)
            grown = [_grown(array, room) for array in (self._entries, self._vectors, self._alive)]
            with self._lock:
                self._entries, self._vectors, self._alive = grown
        self._entries[start:size] = entries
        np.rint(vectors * np.float32(STEPS), out=self._vectors[start:size], casting="unsafe")
        self._alive[start:size] = True
        if self._whole is not None:
            if size > len(self._whole):
                whole = _grown(self._whole, len(self._entries))
                with self._lock:
                    self._whole = whole
            # As they are kept: the same vectors must rank alike before and after a restart.
            self._whole[start:size] = _floats(self._vectors[start:size])
        if self._graph is not None:
            self._extend(self._graph, entries, vectors, self._lock)
        return size

    @staticmethod
    def _extend(graph: Index, entries: Entries, vectors: Vectors, lock: contextlib.AbstractContextManager[Any]) -> None:
        for first in range(0, len(entries), SLICE):
            part = slice(first, first + SLICE)
            # One that is added while another thread searches may move everything.
            with lock:
                graph.add(entries[part], vectors[part], threads=1)

    def _kill(self, entries: Entries) -> None:
        at, held = self._find(entries)
        gone = at[held]
        self._alive[gone] = False
        if self._whole is not None:
            self._whole[gone] = 0
        if self._graph is not None and len(gone):
            self._graph.remove(self._entries[gone], threads=1)

    def _tidy(self) -> None:
        """Close the gaps once half of the slots are dead, and change over to the graph, or back, by the size."""
        entries, vectors, size = self._entries, self._vectors, self._size
        alive = np.flatnonzero(self._alive[:size])
        graph, whole = self._graph, self._whole
        if size > 1024 and len(alive) < size / 2:
            entries, vectors, size = entries[alive], vectors[alive], len(alive)
            alive = np.arange(size)
            graph = whole = None
        if len(alive) < self._exact_below:
            graph = None
            if whole is None:
                whole = np.zeros((len(entries), self._dimension), np.float32)
                whole[alive] = _floats(vectors[alive])
        elif graph is None:
            whole = None
            graph = _graph(self._dimension)
            for first in range(0, len(alive), SLICE):
                part = alive[first : first + SLICE]
                graph.add(entries[part], _floats(vectors[part]), threads=1)
        kept = self._alive if entries is self._entries else np.ones(size, np.bool_)
        with self._lock:
            self._entries, self._vectors, self._alive, self._size = entries, vectors, kept, size
            self._graph, self._whole = graph, whole

    def _find(self, entries: Entries) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The slots of entries, and whether each is held at all."""
        held = self._entries[: self._size]
        if not self._size:
            return np.zeros(len(entries), np.int64), np.zeros(len(entries), np.bool_)
        if held[-1] - held[0] == self._size - 1:
            # No number is left out, so a slot is told by arithmetic: to look for it takes as long as its cosine.
            at = entries - held[0]
            there = (at >= 0) & (at < self._size)
        else:
            at = np.searchsorted(held, entries)
            there = at < self._size
            there[there] = held[at[there]] == entries[there]
        at[~there] = 0
        return at, there & self._alive[at]

    def _slots(self, allowed: Entries) -> npt.NDArray[np.int64]:
        at, held = self._find(allowed)
        return at[held]

    def _rows(self, slots: npt.NDArray[np.int64]) -> Vectors:
        if self._whole is not None:
            return self._whole.take(slots, axis=0)
        return _floats(self._vectors.take(slots, axis=0))

    # --- searching ---

    def _compare_all(
        self, queries: Vectors, limit: int, slots: npt.NDArray[np.int64] | None
    ) -> list[tuple[npt.NDArray[np.int64], Cosines]]:
        if slots is None and self._whole is not None and self._count == self._size:
            near = queries @ self._whole[: self._size].T
            return [_best(row, limit) for row in near]
        slots = np.flatnonzero(self._alive[: self._size]) if slots is None else slots
        if self._whole is not None and 2 * len(slots) > self._size:
            # To leave some of the results out is cheaper than to copy most of the vectors.
            near = (queries @ self._whole[: self._size].T)[:, slots]
        else:
            near = queries @ self._rows(slots).T
        return [(slots[at], values) for at, values in (_best(row, limit) for row in near)]

    def _ask(
        self, graph: Index, queries: Vectors, limit: int, slots: npt.NDArray[np.int64] | None
    ) -> list[tuple[npt.NDArray[np.int64], Cosines]]:
        # A filter is applied to what comes back, so as much more is asked for as it lets through less.
        # So it is with entries that a commit under way has added and no search may see yet.
        share = (self._count if slots is None else len(slots)) / max(len(graph), self._count)
        wanted = min(len(graph), math.ceil(limit / share * (1 if share == 1 else 1.5)))
        permitted = None
        if slots is not None:
            permitted = np.zeros(self._size, np.bool_)
            permitted[slots] = True
        matches = graph.search(queries, wanted, threads=1)
        keys = np.atleast_2d(matches.keys)
        counts = np.atleast_1d(getattr(matches, "counts", len(matches.keys)))
        # What is not there at the end of a row is written over: it is whatever was in memory.
        absent = np.arange(keys.shape[1]) >= counts[:, None]
        at, held = self._find(np.where(absent, -1, keys.astype(np.int64)).ravel())
        at, held = at.reshape(keys.shape), held.reshape(keys.shape)
        # Query by query: their rows fit into the cache of a core.
        near = np.stack([self._rows(row) @ query for row, query in zip(at, queries, strict=True)])
        if permitted is not None:
            held &= permitted[at]
        near[~held] = -np.inf
        order = np.lexsort((at, -near))[:, :limit]
        slots_found, cosines = np.take_along_axis(at, order, 1), np.take_along_axis(near, order, 1)
        found = []
        for query, row, values, count in zip(queries, slots_found, cosines, held.sum(axis=1).tolist(), strict=True):
            if count < limit and slots is not None:
                all_of_them = self._rows(slots) @ query
                best = np.lexsort((slots, -all_of_them))[:limit]
                found.append((slots[best], all_of_them[best]))
            else:
                found.append((row[:count], values[:count]))
        return found


def _floats(steps: npt.NDArray[np.int16]) -> Vectors:
    vectors = steps.astype(np.float32)
    vectors *= np.float32(1 / STEPS)
    return vectors


def _graph(dimension: int) -> Index:
    return Index(
        ndim=dimension,
        # Of vectors of length 1 it is the cosine, in two thirds of the time.
        metric="ip",
        dtype="i8",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )


def _best(near: Cosines, limit: int) -> tuple[npt.NDArray[np.int64], Cosines]:
    """Places of the greatest values, greatest first, equal ones in order of their place."""
    count = len(near)
    at: npt.NDArray[np.int64]
    if count > 4 * limit * BLOCK:
        # The best are among the blocks whose best are best: a pass that finds the maxima is a tenth of a partition.
        whole = count - count % BLOCK
        maxima = near[:whole].reshape(-1, BLOCK).max(axis=1)
        edge = np.partition(maxima, len(maxima) - limit)[len(maxima) - limit]
        blocks = np.flatnonzero(maxima >= edge)
        at = np.concatenate([(blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel(), np.arange(whole, count)])
    else:
        at = np.arange(count)
    values = near[at]
    if len(at) > limit:
        edge = np.partition(values, len(at) - limit)[len(at) - limit]
        at = at[values >= edge]
        values = near[at]
    order = np.lexsort((at, -values))[:limit]
    return at[order], values[order]


def _grown(array: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    grown = np.zeros((room, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def checksum(file: Path) -> int:
    """CRC-32 and length in one number: against damage, not against malice; 1 GB/s."""
    checksum = 0
    with file.open("rb") as content:
        while part := content.read(_READ):
            checksum = zlib.crc32(part, checksum)
    return checksum << 48 | file.stat().st_size
