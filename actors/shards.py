"""Shards: the retrieval role where the documents are divided among several, used as if it were one.

All shards are asked side by side, in three steps of which each is one call for a whole batch: how common the words are
in all of them together, while one makes the vectors; then, scored by that, the best of each; at the end the chunks that
are shown. What comes out is what one index of everything gives (see `search/parts.py`). A shard that is away costs the
answer its documents, and the answer says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Unavailable
from actors.messages import Found, Query
from actors.pool import Pool, names_of
from actors.retrieval import degraded_by
from actors.search import filters
from actors.search.fusion import distinct
from actors.search.parts import ChunkName, Coded, Excerpt, Part, Ranked, Survey, join
from actors.search.placement import WHOLE, Shard
from config import logs

if TYPE_CHECKING:
    from actors.retrieval import Retriever

T = TypeVar("T")

PATIENCE_S: Final = 2.0
"""How long a shard is waited for once another has answered, s."""

CANDIDATES: Final = 40
"""As in `search/shelf.py`, which would bring the libraries of the indexes along; a test holds them equal."""

SPARE: Final = 20
"""Likewise."""


class Shards(Pool):
    """The pools of all shards: `search_many` asks one replica of each, all else goes to the replicas one by one.

    Args:
        shards: in order.
    """

    def __init__(self, shards: Sequence[Pool]) -> None:
        first = shards[0]
        names = tuple(replica.name for shard in shards for replica in shard._replicas)
        super().__init__(first._role, first._idempotent, first._streaming, names, fixed=True)
        self._shards = tuple(shards)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Shards, (self._shards,))

    async def search_many(self, queries: list[Query], *, deadline: Deadline) -> list[Found | GatherumError]:
        """See `Retriever.search_many`."""
        return await search_many(cast("Sequence[Retriever]", self._shards), queries, deadline=deadline)


def shards_of(role: Any) -> tuple[Shard, ...]:
    """The shard of each replica of the retrieval role, in the order in which `on_each` goes through them."""
    if not isinstance(role, Shards):
        return (WHOLE,) * len(names_of(role))
    count = len(role._shards)
    return tuple(Shard(number, count) for number, pool in enumerate(role._shards) for _ in names_of(pool))


async def search_many(
    shards: Sequence[Retriever], queries: list[Query], *, deadline: Deadline
) -> list[Found | GatherumError]:
    """Search for each query in all shards.

    Args:
        shards: in order.
        queries: what to search for.
        deadline: of the call.

    Returns:
        As `Retriever.search_many`; what lacks the documents of a shard is `partial`.

    Raises:
        Unavailable, DeadlineExceeded, Overloaded: no shard answers.
    """
    return await _Search(shards, queries, deadline).found()


class _Search:
    """One batch of queries on its way through the shards."""

    def __init__(self, shards: Sequence[Retriever], queries: list[Query], deadline: Deadline) -> None:
        self._shards = shards
        self._queries = queries
        self._deadline = deadline
        self._away: dict[int, GatherumError] = {}
        self._refused: dict[int, GatherumError] = {}

    async def found(self) -> list[Found | GatherumError]:
        """The results, one a query."""
        surveyed, coded = await self._survey()
        self._check(surveyed, coded)
        asked = [place for place in range(len(self._queries)) if place not in self._refused]
        # A shard that has nothing to say to one query of a batch is away for all of it: so it does when it is filled,
        # or when it cannot ask the store about a collection.
        for number, answers in surveyed.items():
            failed = next((answers[at] for at in asked if isinstance(answers[at], GatherumError)), None)
            if isinstance(failed, GatherumError):
                self._away[number] = failed
        there = [number for number in surveyed if number not in self._away]
        if not asked:
            return [self._refused[place] for place in range(len(self._queries))]
        if not there:
            raise next(iter(self._away.values()))
        whole = [sum((cast("Survey", surveyed[number][at]) for number in there), Survey()) for at in asked]
        queries = [self._queries[at] for at in asked]
        parts = await self._ask(
            {
                number: self._shards[number].parts_many(queries, whole, _of(coded, asked), deadline=self._deadline)
                for number in there
            }
        )
        ranked = await asyncio.to_thread(self._join, asked, parts, coded)
        excerpts = await self._fetch(asked, ranked, parts)
        shown = await asyncio.to_thread(self._show, asked, ranked, excerpts, coded)
        return [self._refused.get(place) or shown[place] for place in range(len(self._queries))]

    # --- asking ---

    async def _survey(self) -> tuple[dict[int, list[Survey | GatherumError]], Coded]:
        """What each shard that answers says of each query, and their vectors."""
        order = random.sample(range(len(self._shards)), len(self._shards))
        first = order[0]
        coding = asyncio.create_task(_caught(self._encode(first)))
        try:
            surveyed = await self._ask(
                {
                    number: shard.survey_many(self._queries, deadline=self._deadline)
                    for number, shard in enumerate(self._shards)
                }
            )
            # The encoder may take its time, but not that of a process which says nothing at all.
            coded: Coded | GatherumError = self._away[first] if first in self._away else await coding
            for number in order[1:]:
                if not isinstance(coded, GatherumError):
                    break
                if number not in self._away:
                    coded = await _caught(self._encode(number))
        finally:
            coding.cancel()
        if isinstance(coded, GatherumError):
            raise coded
        return surveyed, coded

    async def _encode(self, number: int) -> Coded:
        return await self._shards[number].encode_many(self._queries, deadline=self._deadline)

    async def _ask(self, calls: Mapping[int, Coroutine[Any, Any, T]]) -> dict[int, T]:
        """The answers of the shards that give one; the others are away from here on.

        Raises:
            GatherumError: none does.
        """
        tasks = {number: asyncio.create_task(_caught(call)) for number, call in calls.items()}
        try:
            waiting = set(tasks.values())
            limit = self._deadline
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=limit.remaining(), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                if any(not isinstance(task.result(), GatherumError) for task in done):
                    limit = limit.within(PATIENCE_S)
        finally:
            for task in tasks.values():
                task.cancel()
        answered: dict[int, T] = {}
        for number, task in tasks.items():
            late = DeadlineExceeded("it did not answer in time.")
            answer = task.result() if task.done() and not task.cancelled() else late
            if isinstance(answer, GatherumError):
                self._away[number] = answer
            else:
                answered[number] = answer
        if not answered:
            raise next(iter(self._away.values()))
        return answered

    async def _fetch(
        self,
        asked: Sequence[int],
        ranked: Mapping[int, Sequence[Ranked]],
        parts: Mapping[int, Sequence[Part | GatherumError]],
    ) -> dict[ChunkName, Excerpt]:
        """What is shown of the best chunks, from the shards that named them."""
        wanted: dict[int, list[list[ChunkName]]] = {number: [] for number in parts}
        for at, place in enumerate(asked):
            named = {hit.chunk for hit in ranked[place]}
            for number in parts:
                part = parts[number][at]
                own = [] if isinstance(part, GatherumError) else [name for name in part.chunks if name in named]
                wanted[number].append(own)
        calls = {
            number: self._shards[number].excerpts_of(names, deadline=self._deadline)
            for number, names in wanted.items()
            if any(names)
        }
        if not calls:
            return {}
        fetched = await self._ask(calls)
        found: dict[ChunkName, Excerpt] = {}
        for number, answers in fetched.items():
            for names, excerpts in zip(wanted[number], answers, strict=True):
                if not isinstance(excerpts, GatherumError):
                    found.update((name, it) for name, it in zip(names, excerpts, strict=True) if it is not None)
        return found

    # --- judging and joining ---

    def _check(self, surveyed: Mapping[int, Sequence[Survey | GatherumError]], coded: Coded) -> None:
        """Refuse the queries that no shard could answer, or that are at fault."""
        for place, query in enumerate(self._queries):
            answers = [answers[place] for answers in surveyed.values()]
            errors = [answer for answer in answers if isinstance(answer, GatherumError)]
            faults = [error for error in errors if isinstance(error, InvalidInput | NotFound)]
            if faults or len(errors) == len(answers):
                self._refused[place] = (faults or errors)[0]
                continue
            if query.mode == "dense" and coded.hows[place] is None:
                why = coded.trouble[place]
                self._refused[place] = Unavailable(f"There is no vector to search by: {why}")
            if query.filters is not None:
                surveys = [answer for answer in answers if isinstance(answer, Survey)]
                try:
                    filters.check(filters.parse(query.filters), sum(surveys, Survey()).kinds)
                except InvalidInput as error:
                    self._refused[place] = error

    def _join(
        self, asked: Sequence[int], parts: Mapping[int, Sequence[Part | GatherumError]], coded: Coded
    ) -> dict[int, list[Ranked]]:
        """Runs in a thread."""
        ranked = {}
        for at, place in enumerate(asked):
            given = [answers[at] for answers in parts.values()]
            limit = self._queries[place].limit
            lexical, dense = coded.weights[place]
            whole = join(
                [part for part in given if isinstance(part, Part)],
                limit=max(limit, CANDIDATES),
                lexical_weight=lexical,
                dense_weight=dense,
            )
            ranked[place] = whole[: limit + SPARE]
        return ranked

    def _show(
        self,
        asked: Sequence[int],
        ranked: Mapping[int, Sequence[Ranked]],
        excerpts: Mapping[ChunkName, Excerpt],
        coded: Coded,
    ) -> dict[int, Found]:
        """Runs in a thread."""
        missing = [
            f"Shard {number} of {len(self._shards)} is away, and its documents are left out: {error.detail}"
            for number, error in sorted(self._away.items())
        ]
        shown = {}
        for place in asked:
            hits = [hit for hit in ranked[place] if hit.chunk in excerpts]
            passages = [
                replace(excerpts[hit.chunk].passage, score=hit.score, scores=hit.scores)
                for hit in _without_repetitions(hits, excerpts)
            ]
            degraded = [why for why in (degraded_by(coded.hows[place], coded.trouble[place]), *missing) if why]
            shown[place] = Found(
                tuple(passages[: self._queries[place].limit]), coded.hows[place], " ".join(degraded), bool(missing)
            )
        return shown


def _without_repetitions(hits: Sequence[Ranked], excerpts: Mapping[ChunkName, Excerpt]) -> list[Ranked]:
    made = [excerpts[hit.chunk].vector for hit in hits]
    vectors = [vector for vector in made if vector is not None]
    if not hits or len(vectors) < len(hits):
        return list(hits)
    texts = [excerpts[hit.chunk].passage.text for hit in hits]
    return [hits[at] for at in distinct(np.stack(vectors), texts.__getitem__, limit=len(hits))]


def _of(coded: Coded, places: Sequence[int]) -> Coded:
    """The vectors of some of the queries."""
    return Coded(
        None if coded.vectors is None else coded.vectors[list(places)],
        tuple(coded.hows[place] for place in places),
        tuple(coded.trouble[place] for place in places),
        tuple(coded.weights[place] for place in places),
    )


async def _caught(call: Awaitable[T]) -> T | GatherumError:
    """The value of a call, or its error; only a cancellation comes through."""
    try:
        return await call
    except GatherumError as error:
        return error
    except Exception:  # noqa: BLE001 - a fault in one shard degrades an answer, it must not take it away
        logs.get().exception("shard_failed")
        return Unavailable("it failed. The log has the details.")
