"""The fast query encoder: a bag of word pieces that imitates a transformer on one corpus, in 0.1 ms a question.

A text's vector is the sum of its pieces' rows in a table, each weighted by its idf. The table starts as the
transformer's own vector of each piece alone, less their mean, and is fitted by ridge regression to the vectors that the
transformer made of the corpus' chunks: pieces that the corpus knows learn what they mean there, the others keep what
they mean in general. The chunks are embedded as before; only questions go through here.

The fit is exact, in kernel form, as long as all chunks fit into one block; above, blocks are solved in turn until
nothing moves any more (block coordinate descent on the dual), which comes to the same solution in bounded memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from actors.search.encoder import OnnxEncoder, Vectors, unit
from actors.search.wordpieces import WordPieces

RIDGE: Final = 1.0
"""Weight of keeping to the prior. Measured (mean cosine with the encoder's own vectors of the questions, 0.3 / 1 / 3):
cranfield 0.799 / 0.797 / 0.775, cacm 0.770 / 0.776 / 0.761, scifact 0.782 / 0.798 / 0.789."""

BLOCK: Final = 4096
"""Rows solved at once: 64 MB for their kernel, and some 2 s of a core a sweep."""

MAX_ROWS: Final = 40_000
"""Rows fitted to; of a larger corpus so many are drawn. The table is of 30,522 rows."""

SWEEPS: Final = 6
SETTLED: Final = 0.02
"""Share of a table's whole change below which a further sweep is not worth while."""

COMMON: Final = 48
"""Rows of a block from which a piece is computed densely."""

FORMAT: Final = 1

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class FastEncoder:
    """Encodes questions. Immutable, so that a newer one can take its place between two batches.

    Attributes:
        version: names the fit; a hash of its content.
        identity: of the encoder that it imitates: their vectors compare.
        rows: chunks that it was fitted to.
    """

    def __init__(self, table: npt.NDArray[np.float16], idf: Floats, *, identity: str, rows: int) -> None:
        # Wider than it is kept: to widen the rows of each question takes longer than all else together.
        self._table = table.astype(np.float32)
        self._idf = idf
        self.identity = identity
        self.rows = rows
        digest = hashlib.sha256(np.ascontiguousarray(table).data)
        digest.update(idf.tobytes())
        self.version = digest.hexdigest()[:16]

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._table.shape[1])

    def encode(self, pieces: Sequence[Sequence[int]]) -> Vectors:
        """Vectors of texts.

        Args:
            pieces: per text the ids of its pieces, without the tokens around it.

        Returns:
            Shape (texts, dimension), each of length 1; 0 for a text without pieces.
        """
        vectors = np.zeros((len(pieces), self.dimension), np.float32)
        for row, ids in enumerate(pieces):
            if ids:
                vectors[row] = self._idf[ids] @ self._table[ids]
        return unit(vectors)

    def to_bytes(self) -> bytes:
        """All of it, to be stored: about 23 MB."""
        stream = io.BytesIO()
        np.savez(
            stream,
            format=FORMAT,
            identity=self.identity,
            rows=self.rows,
            version=self.version,
            table=self._table.astype(np.float16),
            idf=self._idf,
        )
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> FastEncoder:
        """What `to_bytes` gave.

        Raises:
            ValueError: it is something else, or damaged.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                encoder = cls(
                    stored["table"], stored["idf"], identity=str(stored["identity"]), rows=int(stored["rows"])
                )
                intact = int(stored["format"]) == FORMAT and encoder.version == str(stored["version"])
        except Exception as error:  # noqa: BLE001 - numpy and zipfile raise whatever comes, from bytes that are neither
            raise ValueError(f"This is no fast encoder: {type(error).__name__}.") from None
        if not intact:
            raise ValueError("This fast encoder is damaged, or of another format.")
        return encoder


def prior(encoder: OnnxEncoder, pieces: WordPieces) -> Floats:
    """The encoder's vector of each piece alone, shape (pieces, dimension): some 25 s of a core, once for an encoder."""
    return encoder.of_sequences([pieces.around(piece) for piece in range(len(pieces))])


def fit(
    texts: Sequence[Sequence[int]], vectors: Vectors, start: Floats, *, identity: str, seed: int = 0
) -> FastEncoder:
    """Fit a fast encoder to a corpus. Belongs in a thread, or better in a process of its own.

    Args:
        texts: per chunk the ids of its pieces.
        vectors: of the chunks, shape (chunks, dimension).
        start: see `prior`.
        identity: of the encoder that made both.
        seed: decides which chunks are drawn where there are more than `MAX_ROWS`.
    """
    chosen = _drawn(texts, vectors, seed)
    counts = _counts([texts[row] for row in chosen], len(start))
    idf = np.log1p((1.0 + len(chosen)) / (1.0 + counts)).astype(np.float32)
    seen = counts > 0
    # Less their mean: it would be the same in every vector.
    table = start - start[seen if seen.any() else slice(None)].mean(axis=0)
    blocks = [chosen[first : first + BLOCK] for first in range(0, len(chosen), BLOCK)]
    bags = [_Bags([texts[row] for row in block], idf) for block in blocks]
    goals = [np.asarray(vectors[block], np.float32) for block in blocks]
    table *= _scale(bags, goals, table)
    _descend(bags, goals, table)
    return FastEncoder(table.astype(np.float16), idf, identity=identity, rows=len(chosen))


def _drawn(texts: Sequence[Sequence[int]], vectors: Vectors, seed: int) -> Ids:
    """The rows to fit to: those that say something, in an order without meaning, so that blocks are alike."""
    useful = np.array([len(ids) > 0 for ids in texts], np.bool_) & vectors.any(axis=1)
    return np.random.default_rng(seed).permutation(np.flatnonzero(useful))[:MAX_ROWS]


def _counts(texts: Sequence[Sequence[int]], size: int) -> Ids:
    """Per piece the texts that have it."""
    counts = np.zeros(size, np.int64)
    for ids in texts:
        counts[np.unique(np.asarray(ids, np.int64))] += 1
    return counts


def _scale(bags: Sequence[_Bags], goals: Sequence[Floats], table: Floats) -> float:
    """The factor with which the prior alone comes closest to the goals."""
    own = both = 0.0
    for bag, goal in zip(bags, goals, strict=True):
        made = bag.times(table)
        own += float(np.vdot(made, made))
        both += float(np.vdot(made, goal))
    return both / own if own > 0 and both > 0 else 1.0


def _descend(bags: Sequence[_Bags], goals: Sequence[Floats], table: Floats) -> None:
    """Fit the table in place: ridge regression around where it starts, a block of rows after the other."""
    duals = [np.zeros_like(goal) for goal in goals]
    whole = 0.0
    for _ in range(SWEEPS):
        moved = 0.0
        for bag, goal, dual in zip(bags, goals, duals, strict=True):
            missing = goal - bag.times(table) - RIDGE * dual
            kernel = bag.kernel()
            kernel[np.diag_indices_from(kernel)] += RIDGE
            step = np.linalg.solve(kernel, missing)
            dual += step
            bag.spread(step, table)
            moved += float(np.vdot(step, step))
        whole += moved
        if len(bags) == 1 or moved <= SETTLED**2 * whole:
            return


@dataclass(frozen=True, slots=True)
class _Entry:
    """The rarer pieces of a block: row, piece and weight, in order of the rows, and the order of the pieces."""

    rows: Ids
    pieces: Ids
    weights: Floats
    by_piece: Ids


class _Bags:
    """A block of texts as weights of pieces: idf times count, each text scaled to length 1.

    Stored twice: pieces that many texts have as a dense matrix, which the product of matrices is made for; the others
    one by one, which are few.
    """

    def __init__(self, texts: Sequence[Sequence[int]], idf: Floats) -> None:
        self._size = len(texts)
        rows, pieces, weights = [], [], []
        for number, ids in enumerate(texts):
            own, times = np.unique(np.asarray(ids, np.int64), return_counts=True)
            weight = times * idf[own]
            rows.append(np.full(len(own), number))
            pieces.append(own)
            weights.append((weight / (np.linalg.norm(weight) or 1.0)).astype(np.float32))
        row, piece, value = np.concatenate(rows), np.concatenate(pieces), np.concatenate(weights)
        counts = np.bincount(piece, minlength=len(idf))
        self._common = np.flatnonzero(counts >= COMMON)
        place = np.full(len(idf), -1)
        place[self._common] = np.arange(len(self._common))
        dense = place[piece] >= 0
        self._dense = np.zeros((self._size, len(self._common)), np.float32)
        self._dense[row[dense], place[piece[dense]]] = value[dense]
        rare = ~dense
        self._rare = _Entry(row[rare], piece[rare], value[rare], np.argsort(piece[rare], kind="stable"))

    def times(self, table: Floats) -> Floats:
        """The vector of each text."""
        made: Floats = self._dense @ table[self._common]
        rare = self._rare
        for part in _runs(rare.rows):
            products = table[rare.pieces[part]] * rare.weights[part, None]
            row, first = np.unique(rare.rows[part], return_index=True)
            made[row] += np.add.reduceat(products, first, axis=0)
        return made

    def spread(self, step: Floats, table: Floats) -> None:
        """Add to each piece's row what the texts that have it ask for."""
        table[self._common] += self._dense.T @ step
        rare = self._rare
        ordered = rare.pieces[rare.by_piece]
        for part in _runs(ordered):
            at = rare.by_piece[part]
            products = step[rare.rows[at]] * rare.weights[at, None]
            piece, first = np.unique(ordered[part], return_index=True)
            table[piece] += np.add.reduceat(products, first, axis=0)

    def kernel(self) -> Floats:
        """The dot product of each two texts."""
        kernel: Floats = self._dense @ self._dense.T
        rare = self._rare
        rows, weights = rare.rows[rare.by_piece], rare.weights[rare.by_piece]
        _, first, counts = np.unique(rare.pieces[rare.by_piece], return_index=True, return_counts=True)
        for count in np.unique(counts):
            # All pieces that equally many texts have, at once.
            of = first[counts == count][:, None] + np.arange(count)
            pairs = weights[of][:, :, None] * weights[of][:, None, :]
            at = rows[of][:, :, None] * self._size + rows[of][:, None, :]
            kernel += np.bincount(at.ravel(), pairs.ravel(), self._size**2).reshape(kernel.shape).astype(np.float32)
        return kernel


def _runs(keys: Ids, size: int = 1 << 16) -> Iterator[slice]:
    """Slices of at most about `size` that never part equal keys; the keys are in order."""
    first = 0
    while first < len(keys):
        last = min(first + size, len(keys))
        if last < len(keys):
            last = int(np.searchsorted(keys, keys[last - 1], side="right"))
        yield slice(first, last)
        first = last
