"""Retriever: searches indexes of its own that follow the store, by words and by meaning.

Truth lives in the database. A replica fills its indexes from the published documents when it starts, then follows the
change log (`follower.py`); it can be killed at any time and be built again from rows, or from a snapshot on its disk,
which is quicker. Where the documents are divided into shards it holds those of one, and gives its part of each answer,
which `shards.py` joins with the others'.
Calls that come while it is being filled wait for it. Without its encoder it goes on by words alone, and says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, Unavailable, UnknownCollection
from actors.follower import Follower
from actors.messages import Found, Health, Query
from actors.search.placement import WHOLE, Shard
from config.settings import EgressSettings, EncoderSettings, RetrievalSettings

if TYPE_CHECKING:
    # Here it is a pool; importing SQLAlchemy would cost this process its memory for nothing.
    from actors.database import Database

    # And every process that knows the role would load the libraries of the indexes, another 100 MB.
    from actors.indexes import Index
    from actors.search.filters import Filter
    from actors.search.parts import ChunkName, Coded, Excerpt, Part, Survey
    from actors.search.queries import Encoded, How

A = TypeVar("A")
T = TypeVar("T")

CHECK_S = 0.5
"""Budget for asking the store about a collection that is unknown here, s: the rest of the batch waits for it."""

WORDS_ALONE = "Passages were found by their words alone"
APPROXIMATE = "The vector of the question is only approximate"

WAITING_BATCHES = 256
"""Batches of queries that may wait for the searching thread; more are refused."""


class Retriever:
    """Searches chunks. See the module's docstring.

    Args:
        settings: see `config/settings.py`.
        encoder: what the vectors of chunks are made by.
        database: the store.
        egress: what the address of an encoder that is an endpoint must be allowed by; None for what is public.
        folder: for snapshots, of all replicas on this machine; None for none.
        shard: whose documents it holds.
        sleep: waits for so many seconds.
        clock: seconds from some moment on.
    """

    ROLE: ClassVar[str] = "retrieval"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset(
        {
            *("search_many", "survey_many", "encode_many", "parts_many", "excerpts_of"),
            *("caught_up", "chunks_of", "contents", "health"),
        }
    )

    def __init__(
        self,
        settings: RetrievalSettings,
        encoder: EncoderSettings,
        database: Database,
        *,
        egress: EgressSettings | None = None,
        folder: Path | None = None,
        shard: Shard = WHOLE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._follower = Follower(
            settings,
            encoder,
            database,
            egress=egress,
            folder=folder,
            shard=shard,
            sleep=sleep,
            clock=clock,
        )
        self._waiting = 0
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="search")

    async def start(self) -> None:
        """Begin to fill and follow, in the background."""
        await self._follower.start()

    async def stop(self) -> None:
        """Stop following; searches under way finish."""
        await self._follower.stop()
        await asyncio.to_thread(self._searching.shutdown, cancel_futures=True)
        self._follower.close()

    async def health(self, *, deadline: Deadline) -> Health:
        """Ready once filled, and as long as the change log is followed closely enough."""
        return Health(
            role=self.ROLE,
            ready=self._follower.ready,
            pid=os.getpid(),
            node=socket.gethostname(),
            detail=self._follower.detail(),
        )

    async def search_many(self, queries: list[Query], *, deadline: Deadline) -> list[Found | GatherumError]:
        """Search for each query.

        Returns:
            Per query its passages, best first, or why it cannot be answered: `UnknownCollection`; `InvalidInput` for a
            limit below 1, a filter that makes no sense, or a mode that there is no index for; `Unavailable` for a
            search by vectors alone when there are none at the moment.

        Raises:
            Unavailable: the index is still being filled when the time is up.
            Overloaded: too many batches wait already.
            DeadlineExceeded: the searches did not get their turn in time.
        """
        with self._turn():
            index = await self._when_filled(deadline)
            refused = await self._refusals(queries, deadline)
            accepted = [query for query, refusal in zip(queries, refused, strict=True) if refusal is None]
            encoded = await index.queries.begin(accepted, deadline=deadline) if index.queries else None
            found = iter(await self._beside(deadline, self._search, index, accepted, encoded, deadline))
        return [next(found) if refusal is None else refusal for refusal in refused]

    # --- as one shard of several: see `actors/shards.py` ---

    async def survey_many(self, queries: list[Query], *, deadline: Deadline) -> list[Survey | GatherumError]:
        """What the other shards must know of this one before they answer; per query, or why it cannot be answered.

        Raises: as `search_many`.
        """
        with self._turn():
            index = await self._when_filled(deadline)
            refused = await self._refusals(queries, deadline)
            accepted = [query for query, refusal in zip(queries, refused, strict=True) if refusal is None]
            work = partial(_each, index.shelf.survey, accepted)
            surveys = iter(await self._beside(deadline, work))
        return [next(surveys) if refusal is None else refusal for refusal in refused]

    async def encode_many(self, queries: list[Query], *, deadline: Deadline) -> Coded:
        """The vectors of queries, for all shards.

        Raises: as `search_many`.
        """
        with self._turn():
            index = await self._when_filled(deadline)
            encoded = await index.queries.begin(queries, deadline=deadline) if index.queries else None
            return await self._beside(deadline, self._coded, index, queries, encoded)

    async def parts_many(
        self, queries: list[Query], surveys: list[Survey], coded: Coded, *, deadline: Deadline
    ) -> list[Part | GatherumError]:
        """This shard's part of the answers.

        Args:
            queries: that `survey_many` gave surveys for.
            surveys: those of all shards, added up; filters have been checked against them.
            coded: the vectors, from any shard.
            deadline: of the call.

        Raises: as `search_many`.
        """
        with self._turn():
            index = await self._when_filled(deadline)
            return await self._beside(deadline, self._parts, index, queries, surveys, coded, deadline)

    async def excerpts_of(
        self, chunks: list[list[ChunkName]], *, deadline: Deadline
    ) -> list[list[Excerpt | None] | GatherumError]:
        """What is shown of chunks, for each query some; None for one that has gone meanwhile.

        Raises: as `search_many`.
        """
        with self._turn():
            index = await self._when_filled(deadline)
            return await self._beside(deadline, partial(_each, index.shelf.excerpts, chunks))

    async def caught_up(self, change: int, *, deadline: Deadline) -> None:
        """Wait until the indexes have followed the change log to a number.

        Raises:
            DeadlineExceeded: they have not, in time.
        """
        await deadline.run(
            self._follower.until(lambda: self._follower.filled and self._follower.change >= change),
            "Following the change log",
        )

    async def chunks_of(self, document_ids: list[str], *, deadline: Deadline) -> int:
        """Chunks of documents in the indexes now, all told."""
        index = self._follower.index
        return sum(map(index.shelf.chunks_of, document_ids)) if index else 0

    async def contents(self, after: str, limit: int, *, deadline: Deadline) -> list[tuple[str, int]]:
        """Up to `limit` documents past the id `after` in the indexes now, in order, each with its number of chunks.

        Raises:
            Unavailable: the index is still being filled when the time is up.
        """
        index = await self._when_filled(deadline)
        return await asyncio.to_thread(index.shelf.contents, after, limit)

    # --- searching ---

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._waiting >= WAITING_BATCHES:
            raise Overloaded(f"{WAITING_BATCHES} batches of searches wait already. Try again later.")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _beside(self, deadline: Deadline, work: Callable[..., T], *args: object) -> T:
        """Do work in the searching thread."""
        turn = asyncio.get_running_loop().run_in_executor(self._searching, work, *args)
        return await deadline.run(turn, "Searching")

    async def _when_filled(self, deadline: Deadline) -> Index:
        if not self._follower.filled:
            try:
                await deadline.run(self._follower.until(lambda: self._follower.filled), "Filling the index")
            except DeadlineExceeded:
                raise Unavailable("The search index is still being filled. Try again in a few seconds.") from None
        return self._follower.built

    async def _refusals(self, queries: Sequence[Query], deadline: Deadline) -> list[GatherumError | None]:
        """Per query the reason why it is not searched for, if there is one."""
        named = {name for query in queries for name in query.collections}
        if not named <= self._follower.collections:
            try:
                # One that was created a moment ago is in the store before its change arrives here.
                self._follower.collections.update(await self._database.collections(deadline=deadline.within(CHECK_S)))
            except GatherumError as error:
                return [
                    Unavailable(f"Whether the collection exists could not be checked: {error.detail}")
                    if self._unknown(query)
                    else self._invalid(query)
                    for query in queries
                ]
        refusals: list[GatherumError | None] = []
        for query in queries:
            unknown = self._unknown(query)
            refusals.append(
                UnknownCollection(f"There is no collection named {unknown[0]!r}.") if unknown else self._invalid(query)
            )
        return refusals

    def _unknown(self, query: Query) -> list[str]:
        return [name for name in query.collections if name not in self._follower.collections]

    def _invalid(self, query: Query) -> GatherumError | None:
        if query.limit < 1:
            return InvalidInput(f"A search for {query.limit} passages makes no sense; ask for at least 1.")
        if query.mode == "dense" and self._follower.built.queries is None:
            if self._follower.built.trouble:
                return Unavailable(f"There are no vectors to search by: {self._follower.built.trouble}")
            return InvalidInput("There is no dense index; search with mode 'hybrid' or 'lexical'.")
        return None

    def _search(
        self, index: Index, queries: Sequence[Query], encoded: Encoded | None, deadline: Deadline
    ) -> list[Found | GatherumError]:
        """Runs in the searching thread."""
        from actors.search.shelf import Wanted

        # Work that waited here until nobody wants it any more would make the next wait longer still.
        deadline.check("the search")
        change = self._follower.change  # before: what comes meanwhile may or may not be found
        settings = self._settings
        weights = self._weights()
        hows = encoded.hows if encoded else [None] * len(queries)
        if index.queries and encoded:
            index.queries.finish(queries, encoded)
        wanted = []
        refused: dict[int, GatherumError] = {}
        for place, query in enumerate(queries):
            filter_: Filter | None = None
            try:
                filter_ = _parsed(query)
                if query.mode == "dense" and hows[place] is None and encoded:
                    raise Unavailable(f"There is no vector to search by: {encoded.trouble[place]}")
            except GatherumError as error:
                refused[place] = error
            wanted.append(Wanted(query, filter_, settings.lexical_weight, weights[hows[place]]))
        asked = [item for place, item in enumerate(wanted) if place not in refused]
        vectors = encoded.vectors[[place for place in range(len(wanted)) if place not in refused]] if encoded else None
        results = iter(index.shelf.search_many(asked, vectors))
        found: list[Found | GatherumError] = []
        for place, query in enumerate(queries):
            passages = refused.get(place) or next(results)
            if isinstance(passages, GatherumError):
                found.append(passages)
                continue
            why = encoded.trouble[place] if encoded else index.trouble if query.mode != "lexical" else ""
            found.append(Found(tuple(passages), hows[place], degraded_by(hows[place], why), change=change))
        return found

    def _weights(self) -> dict[How | None, float]:
        """Of a query's vector in the fusion, by what made it."""
        settings = self._settings
        return {"exact": settings.dense_weight, "fast": settings.fast_weight, None: settings.dense_weight}

    def _coded(self, index: Index, queries: Sequence[Query], encoded: Encoded | None) -> Coded:
        """Runs in the searching thread."""
        from actors.search.parts import Coded

        if index.queries and encoded:
            index.queries.finish(queries, encoded)
            hows, trouble = tuple(encoded.hows), tuple(encoded.trouble)
        else:
            hows = (None,) * len(queries)
            trouble = tuple(index.trouble if query.mode != "lexical" else "" for query in queries)
        weights = self._weights()
        own = self._settings.lexical_weight
        return Coded(encoded.vectors if encoded else None, hows, trouble, tuple((own, weights[how]) for how in hows))

    def _parts(
        self, index: Index, queries: Sequence[Query], surveys: Sequence[Survey], coded: Coded, deadline: Deadline
    ) -> list[Part | GatherumError]:
        """Runs in the searching thread."""
        from actors.search.shelf import Wanted

        deadline.check("the search")
        wanted = [
            Wanted(query, _parsed(query), statistics=survey.statistics)
            for query, survey in zip(queries, surveys, strict=True)
        ]
        return list(index.shelf.parts(wanted, coded.vectors))


def degraded_by(how: How | None, why: str) -> str:
    """What a question lacks whose vector was made in that way, for that reason; empty without a reason."""
    return f"{APPROXIMATE if how else WORDS_ALONE}: {why}" if why else ""


def _each(work: Callable[[A], T], items: Sequence[A]) -> list[T | GatherumError]:
    return [work(item) for item in items]


def _parsed(query: Query) -> Filter | None:
    from actors.search import filters

    return None if query.filters is None else filters.parse(query.filters)
