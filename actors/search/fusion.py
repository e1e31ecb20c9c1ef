"""Reciprocal rank fusion: one ranking out of several whose scores do not compare.

Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009. Only ranks count, so BM25 scores and cosines can be joined without calibrating either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

RANK_CONSTANT = 60
"""The paper's k: how little the first places stand out."""


def fuse(rankings: Iterable[tuple[float, Sequence[int]]], *, k: float = RANK_CONSTANT) -> list[tuple[int, float]]:
    """Fuse weighted rankings of integer ids.

    The result does not depend on the order of the rankings. An id that moves up in one of them never loses score.

    Args:
        rankings: (weight > 0, ids best first). An id that occurs twice in one ranking counts where it comes first.
        k: the rank constant, at least 0.

    Returns:
        (id, score), best first, equal scores by ascending id; a score is the sum of weight / (k + rank), ranks from 1.
    """
    shares: dict[int, list[float]] = {}
    for weight, ids in rankings:
        for rank, item in enumerate(dict.fromkeys(ids), start=1):
            shares.setdefault(item, []).append(weight / (k + rank))
    # fsum rounds once, so that the order of the rankings cannot show in the last digit.
    scored = [(item, math.fsum(parts)) for item, parts in shares.items()]
    scored.sort(key=lambda pair: (-pair[1], pair[0]))
    return scored
