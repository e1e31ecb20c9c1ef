"""Which shard a document belongs to: rendezvous hashing (Thaler and Ravishankar, 1998).

Each shard draws a number for each document, and the highest draw has it. With one more shard, only the documents that
the new one draws highest for move, and all of them to it; with one less, only its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several shares of the documents.

    Attributes:
        number: from 0.
        of: how many there are.
    """

    number: int = 0
    of: int = 1

    def holds(self, document_id: str) -> bool:
        """Whether a document belongs to it."""
        return self.of == 1 or shard_of(document_id, self.of) == self.number

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"


WHOLE = Shard()
"""The only one, where the documents are not divided."""


def shard_of(document_id: str, shards: int) -> int:
    """The number of the shard, from 0, that a document belongs to."""
    return max(range(shards), key=lambda shard: _drawn(document_id, shard))


def _drawn(document_id: str, shard: int) -> bytes:
    return hashlib.blake2b(document_id.encode(), digest_size=8, key=shard.to_bytes(4, "big")).digest()
