"""What shards say to one another's answers: the parts of a search, and how they make a whole.

Each shard holds some of the documents. It ranks its own by the statistics of all, so that its scores are those that one
index of everything would give; then the best of the whole are among the best of each, and what is merged here is fused
as one index would have fused it. Chunks are named by document and number, which are the same in every replica.

Of all this only numbers travel, and at the end the few chunks that are shown. Nothing here loads an index's library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.messages import Passage
from actors.search.bm25 import Statistics
from actors.search.filters import Kind
from actors.search.fusion import Hit, fuse, merge

ChunkName = tuple[str, int]
"""The id of a document, and which of its chunks."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of all shards before any can answer a query.

    Attributes:
        statistics: of its words.
        kinds: what each field of the metadata holds; empty where the query has no filter.
    """

    statistics: Statistics = field(default_factory=Statistics)
    kinds: Mapping[str, frozenset[Kind]] = field(default_factory=dict)

    def __add__(self, other: Survey) -> Survey:
        names = self.kinds.keys() | other.kinds.keys()
        none: Final = frozenset[Kind]()
        kinds = {name: self.kinds.get(name, none) | other.kinds.get(name, none) for name in names}
        return Survey(self.statistics + other.statistics, kinds)


@dataclass(frozen=True, slots=True)
class Coded:
    """The vectors of queries, made once for all shards.

    Attributes:
        vectors: shape (queries, dimension), zeros for one without; None where there is no encoder.
        hows: per query what made it; None where it goes by words alone.
        trouble: per query why it does though it should not; empty elsewhere.
        weights: per query of its words and of its vector.
    """

    vectors: npt.NDArray[np.float32] | None
    hows: tuple[Literal["exact", "fast"] | None, ...]
    trouble: tuple[str, ...]
    weights: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard has for a query.

    Attributes:
        chunks: the best by words and the closest, in any order.
        lexical: the score of each by words; NaN where it has none of them, or they were not asked for.
        cosines: of each; NaN where the query has no vector.
        worded: whether it is among the best by words.
        near: whether it is among the closest.
        told: whether `lexical` has the scores of those too that are not among the best by words.
    """

    chunks: tuple[ChunkName, ...]
    lexical: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float64]
    worded: npt.NDArray[np.bool_]
    near: npt.NDArray[np.bool_]
    told: bool = True


class Excerpt(NamedTuple):
    """A chunk as it is shown, without scores, and its vector where there are any."""

    passage: Passage
    vector: npt.NDArray[np.float32] | None


class Ranked(NamedTuple):
    """A chunk in the ranking of the whole."""

    chunk: ChunkName
    score: float
    scores: dict[str, float]


def join(parts: Sequence[Part], *, limit: int, lexical_weight: float, dense_weight: float) -> list[Ranked]:
    """The ranking of the whole.

    It is the one that a single index gives whose lists are cut off at `limit`, as each part's are; equal scores are
    ordered by the names of the chunks.

    Args:
        parts: of the shards, no chunk in two of them.
        limit: entries that each signal gives.
        lexical_weight: of the words in the fusion.
        dense_weight: of the cosines.
    """
    names = sorted(name for part in parts for name in part.chunks)
    number = {name: place for place, name in enumerate(names)}
    own = [[number[name] for name in part.chunks] for part in parts]
    lexical, dense = np.full(len(names), np.nan), np.full(len(names), np.nan)
    by_words = [_ranking(at, part.lexical, part.worded) for at, part in zip(own, parts, strict=True)]
    by_cosine = [_ranking(at, part.cosines, part.near) for at, part in zip(own, parts, strict=True)]
    worded, near = np.zeros(len(names), np.bool_), np.zeros(len(names), np.bool_)
    worded[[entry for entry, _ in merge(by_words, limit=limit)]] = True
    near[[entry for entry, _ in merge(by_cosine, limit=limit)]] = True
    shown = worded | near
    for at, part in zip(own, parts, strict=True):
        lexical[at], dense[at] = part.lexical, part.cosines
    lexical[~(shown if all(part.told for part in parts) else worded)] = np.nan
    dense[~shown] = np.nan
    weights = np.array([[lexical_weight], [dense_weight]])
    totals = fuse(np.zeros(len(names), np.int64), [(weights[0], lexical), (weights[1], dense)])
    ranked = []
    for entry in np.lexsort((np.arange(len(names)), -totals)).tolist():
        if shown[entry]:
            signals = {"lexical": float(lexical[entry]), "dense": float(dense[entry])}
            scores = {name: score for name, score in signals.items() if not np.isnan(score)}
            ranked.append(Ranked(names[entry], float(totals[entry]), scores))
    return ranked


def _ranking(own: Sequence[int], scores: npt.NDArray[np.float64], which: npt.NDArray[np.bool_]) -> list[Hit]:
    hits = [(own[at], float(scores[at])) for at in np.flatnonzero(which).tolist()]
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))
