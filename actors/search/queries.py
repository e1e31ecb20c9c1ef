"""The vectors of queries: exact as long as that is quick enough, else fast.

The encoder itself takes some 10 ms of a core for a question and ranks best; its imitation takes 0.1 ms. `auto` uses the
first while few questions wait for it and it has not taken more than its share of a core: a person who asks alone gets
the best there is, and a crowd is neither kept waiting nor robbed of the core that answers it. Those of a batch that
leave the choice to `auto` are encoded in one way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from actors.deadline import Deadline
from actors.errors import GatherumError, Unavailable
from actors.messages import EncoderChoice, Query
from actors.search.encoder import Encoder, Vectors
from actors.search.fast import FastEncoder
from actors.search.share import Share

How = Literal["exact", "fast"]

MAX_WAITING: Final = 512
"""Queries that may wait for the encoder where there is nothing faster: 5 s of a core."""


@dataclass(slots=True)
class Encoded:
    """The vectors of queries.

    Attributes:
        vectors: shape (queries, dimension); zeros for a query that has none.
        hows: per query what makes its vector; None where it goes by words alone.
        trouble: per query why the encoder itself could not make its vector though it should; empty elsewhere.
        fast: what those that are not exact are yet to be encoded by.
    """

    vectors: Vectors
    hows: list[How | None]
    trouble: list[str]
    fast: FastEncoder | None


class QueryEncoder:
    """Encodes queries, in two steps: `begin` waits for what takes long, `finish` does the rest, in any thread.

    Args:
        encoder: the one that made the vectors of documents.
        choice: what queries get that do not choose.
        exact_queue: queries that may be under way in the encoder for `auto` to use it.
        exact_share: of one core that `auto` may give it on the average.
    """

    def __init__(self, encoder: Encoder, *, choice: EncoderChoice, exact_queue: int, exact_share: float) -> None:
        self._encoder = encoder
        self._choice = choice
        self._exact_queue = exact_queue
        self._exact_time = Share(exact_share)
        self._busy_since = 0.0
        self._waiting = 0
        self._fast: FastEncoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder itself."""
        return self._encoder

    @property
    def identity(self) -> str:
        """Of the encoder."""
        return self._encoder.identity

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return self._encoder.dimension

    @property
    def fast_version(self) -> str:
        """Of the fast encoder; empty while there is none."""
        return self._fast.version if self._fast else ""

    @property
    def waiting(self) -> int:
        """Queries under way in the encoder."""
        return self._waiting

    def use(self, fast: FastEncoder) -> None:
        """Take a newer fast encoder. Batches that have begun finish with the one before."""
        self._fast = fast

    async def close(self) -> None:
        """Let go of the encoder."""
        await self._encoder.close()

    async def begin(self, queries: Sequence[Query], *, deadline: Deadline) -> Encoded:
        """Decide how each query is encoded, and do what the encoder itself is needed for.

        What it cannot do is left to the fast one; where there is none, the query has no vector.

        Raises:
            DeadlineExceeded: the time is up.
        """
        fast = self._fast
        hows = self._plan(queries, fast)
        encoded = Encoded(
            np.zeros((len(queries), self._encoder.dimension), np.float32), hows, [""] * len(queries), fast
        )
        exact = [place for place, how in enumerate(hows) if how == "exact"]
        if exact:
            try:
                encoded.vectors[exact] = await self._exactly([queries[place].text for place in exact], deadline)
            except GatherumError as error:
                deadline.check("the search")
                for place in exact:
                    hows[place] = None if fast is None else "fast"
                    encoded.trouble[place] = error.detail
        return encoded

    def finish(self, queries: Sequence[Query], encoded: Encoded) -> None:
        """Fill in the vectors that are made fast: 0.1 ms each."""
        if encoded.fast is None:
            return
        places = [place for place, how in enumerate(encoded.hows) if how == "fast"]
        if places:
            texts = [queries[place].text for place in places]
            encoded.vectors[places] = encoded.fast.encode(self._encoder.pieces.pieces(texts))

    def _plan(self, queries: Sequence[Query], fast: FastEncoder | None) -> list[How | None]:
        short = self._waiting + sum(query.mode != "lexical" for query in queries) <= self._exact_queue
        calm = short and self._exact_time.left
        hows: list[How | None] = []
        for query in queries:
            choice = query.encoder or self._choice
            if query.mode == "lexical":
                hows.append(None)
            elif fast is None or choice == "exact" or (choice == "auto" and calm):
                hows.append("exact")
            else:
                hows.append("fast")
        return hows

    async def _exactly(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        if self._waiting + len(texts) > MAX_WAITING:
            raise Unavailable(f"More than {MAX_WAITING} queries wait for the encoder.")
        if self._waiting == 0:
            self._busy_since = time.monotonic()
        self._waiting += len(texts)
        try:
            return await self._encoder.encode(texts, deadline=deadline)
        finally:
            self._waiting -= len(texts)
            # All that it was busy since it was last looked at, whoever it worked for.
            now = time.monotonic()
            self._exact_time.spend(now - self._busy_since)
            self._busy_since = now
