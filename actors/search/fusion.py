"""Fusion: one ranking out of several whose scores do not compare, and no passage twice.

Each signal's scores are divided by its best one and added up with the signal's weight. Against reciprocal rank fusion
(Cormack, Clarke and Büttcher, SIGIR 2009; k = 60), which looks at ranks alone, this was never worse on three sets and
up to 0.016 nDCG@10 better (docs/benchmarks.md): a ranking's head that stands far out keeps its lead. Bruch, Gai and
Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, find the same.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    # Shards are merged where no encoder is: it would load the libraries of the indexes, 100 MB.
    from actors.search.encoder import Vectors

Scores = npt.NDArray[np.float64]

CLOSE: Final = 0.97
"""Cosine from which two passages are held against each other word for word. The cosine alone does not decide: of 401
pairs of titles in cacm that are this close, 98 say something else, often but for a number."""

SAME: Final = 0.8
"""Share of their runs of three words that two passages have in common from which one repeats the other (resemblance;
Broder, "On the resemblance and containment of documents", 1997)."""

RUN: Final = 3

Hit = tuple[int, float]


def fuse(of: npt.NDArray[np.int64], signals: Sequence[tuple[Scores, Scores]]) -> Scores:
    """Fuse scored signals, for many queries at once.

    The result does not depend on the order of the signals, nor on the unit of a signal's scores. An entry whose score
    rises in one of them, short of its best one, never loses.

    Args:
        of: per candidate its query, ascending.
        signals: per query the signal's weight, above 0, and per candidate its score there, NaN for none. Scores that
            are not above 0 count as 0, as absent ones do.

    Returns:
        Per candidate the sum of weight x score / best score for its query.
    """
    if not len(of):
        return np.zeros(0)
    first = np.flatnonzero(np.diff(of, prepend=-1))
    sizes = np.diff(first, append=len(of))
    parts = np.zeros((len(signals), len(of)))
    for part, (weights, scores) in zip(parts, signals, strict=True):
        np.fmax(scores, 0.0, out=part)
        best = np.maximum.reduceat(part, first)
        # Where the best score is not above 0, nothing is alike, and all of it is 0 already.
        part /= np.repeat(np.where(best > 0, best, 1.0), sizes)
        part *= weights[of]
    # In order of size, so that the order of more than two signals cannot show in the last digit.
    totals: Scores = np.sort(parts, axis=0).sum(axis=0)
    return totals


def merge(rankings: Iterable[Sequence[Hit]], *, limit: int) -> list[Hit]:
    """Merge one signal's rankings of several shards: the best of the whole, if each is the best of its shard.

    Args:
        rankings: (entry, score), best first, equal scores by ascending entry; no entry in two of them.
        limit: entries wanted; each ranking has as many, or all of its shard.
    """
    return list(itertools.islice(heapq.merge(*rankings, key=_rank), limit))


def alike(vectors: Vectors) -> bool:
    """Whether any two passages may be near repetitions, by their vectors."""
    return bool(_near(vectors).max(initial=0.0) >= CLOSE)


def distinct(vectors: Vectors, text: Callable[[int], str], *, limit: int) -> list[int]:
    """Places of the first passages that are not near repetitions of one chosen before.

    Args:
        vectors: of the passages, best first, shape (passages, dimension), of length 1; one of length 0 is like none.
        text: of the passage at a place; asked for those alone that are close to another.
        limit: passages wanted.
    """
    near = _near(vectors)
    if near.max(initial=0.0) < CLOSE:
        return list(range(min(limit, len(vectors))))
    chosen: list[int] = []
    for place in range(len(vectors)):
        if len(chosen) == limit:
            break
        if not any(near[place, other] >= CLOSE and repeats(text(place), text(other)) for other in chosen):
            chosen.append(place)
    return chosen


def repeats(one: str, other: str) -> bool:
    """Whether two texts say the same in nearly the same words."""
    first, second = _runs(one), _runs(other)
    shared = len(first & second)
    return shared > 0 and shared >= SAME * (len(first) + len(second) - shared)


def _near(vectors: Vectors) -> npt.NDArray[np.float32]:
    near: npt.NDArray[np.float32] = vectors @ vectors.T
    np.fill_diagonal(near, 0.0)
    return near


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))} if words else set()


def _rank(hit: Hit) -> tuple[float, int]:
    return -hit[1], hit[0]
