"""Retriever: searches indexes of its own that follow the store, by words and by meaning.

Truth lives in the database. A replica fills its indexes from the published documents when it starts, then follows the
change log for ever, through outages of the database as well; it can be killed at any time and be built again from rows,
or from a snapshot on its disk, which is quicker. Where the documents are divided into shards it holds those of one, and
gives its part of each answer, which `shards.py` joins with the others'.
Calls that come while it is being filled wait for it. Without its encoder it goes on by words alone, and says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, Unavailable, UnknownCollection
from actors.messages import SERVING, Change, Fitted, Found, Health, PublishedDocument, Query
from actors.search.placement import WHOLE, Shard
from config import logs
from config.settings import EgressSettings, EncoderSettings, RetrievalSettings

if TYPE_CHECKING:
    # Here it is a pool; importing SQLAlchemy would cost this process its memory for nothing.
    from actors.database import Database

    # And every process that knows the role would load the libraries of the indexes, another 100 MB.
    from actors.search.changeover import Changeover
    from actors.search.encoder import Encoder
    from actors.search.fast import FastEncoder
    from actors.search.filters import Filter
    from actors.search.parts import ChunkName, Coded, Excerpt, Part, Survey
    from actors.search.queries import Encoded, How, QueryEncoder
    from actors.search.shelf import Shelf
    from actors.search.snapshots import Snapshot, Snapshots

A = TypeVar("A")
T = TypeVar("T")

FILL_DOCUMENTS = 32
"""Documents asked for at once while filling; with their words they can be large."""

CHANGES = 64
"""Changes taken in one step, and committed together."""

CALL_S = 30.0
"""Budget of a call to the database, beyond the wait that a long poll asks for, s."""

LONGEST_PAUSE_S = 5.0
"""Between attempts while the database is away, s."""

FIRST_PAUSE_S = 0.1

CHECK_S = 0.5
"""Budget for asking the store about a collection that is unknown here, s: the rest of the batch waits for it."""

COMING_S = 0.5
"""Longest wait for news while the vectors of another encoder come in, s."""

SNAPSHOT_SHARE = 20
"""Times as long as writing a snapshot takes nothing is written after it: so that is at most a twentieth of the time."""

WORDS_ALONE = "Passages were found by their words alone"
APPROXIMATE = "The vector of the question is only approximate"

WAITING_BATCHES = 256
"""Batches of queries that may wait for the searching thread; more are refused."""


@dataclass(frozen=True, slots=True)
class _Index:
    """What a replica searches with.

    Attributes:
        shelf: the chunks.
        queries: encodes queries; None where all go by words alone.
        trouble: why they do though they should not; empty for nothing.
        snapshot: what the shelf was loaded from; None for an empty one.
    """

    shelf: Shelf
    queries: QueryEncoder | None
    trouble: str = ""
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class _Coming:
    """What will be searched with once it is complete.

    Attributes:
        changeover: fills its dense index.
        queries: encodes queries for it.
        filling: done when all is in that there was at the beginning.
    """

    changeover: Changeover
    queries: QueryEncoder
    filling: asyncio.Task[None]


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
        self._encoder = encoder
        self._database = database
        self._egress = egress
        # A place for each: a replica that found the snapshot of another shard would throw it away.
        self._folder = folder / str(shard).replace(" ", "-") if folder and shard.of > 1 else folder
        self._shard = shard
        self._sleep = sleep
        self._clock = clock
        self._languages = _languages(settings)
        self._index: _Index | None = None
        self._collections: set[str] = set()
        # How far the filling has come, then how far the following.
        self._start: int | None = None
        self._filled_to: str | None = None
        self._filled = False
        self._change = 0
        # The last change that was followed; its number alone would not tell one store from another.
        self._last: Change | None = None
        # Since when there are changes that are not followed yet, or it is not known whether there are.
        self._behind_since: float | None = None
        # While the vectors of another encoder are taken up, in the background.
        self._coming: _Coming | None = None
        # Whether that failed, and is to be begun again.
        self._encoders_change = False
        self._former: list[QueryEncoder] = []
        self._snapshots: Snapshots | None = None
        self._saved = 0
        self._save_at = 0.0
        self._progress = asyncio.Condition()
        self._outage: str | None = None
        self._follower: asyncio.Task[None] | None = None
        self._waiting = 0
        # A thread each, so that a large commit does not hold up the questions.
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._log = logs.get()

    async def start(self) -> None:
        """Begin to fill and follow, in the background."""
        self._follower = asyncio.create_task(self._follow(), name="retrieval-follower")

    async def stop(self) -> None:
        """Stop following; searches under way finish."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        await self._drop_coming()
        for queries in [*self._former, *([self._index.queries] if self._index and self._index.queries else [])]:
            await queries.close()
        for threads in (self._searching, self._writing):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
        if self._index is not None:
            self._index.shelf.close()
        if self._snapshots is not None:
            self._snapshots.close()

    async def health(self, *, deadline: Deadline) -> Health:
        """Ready once filled, and as long as the change log is followed closely enough."""
        following = self._follower is not None and not self._follower.done()
        behind_s = 0.0 if self._behind_since is None else self._clock() - self._behind_since
        return Health(
            role=self.ROLE,
            ready=self._filled and following and behind_s <= self._settings.lag_s,
            pid=os.getpid(),
            node=socket.gethostname(),
            detail={
                "change": self._change,
                **({"shard": str(self._shard)} if self._shard.of > 1 else {}),
                **self._size(),
                "collections": len(self._collections),
                "outage": self._outage,
                "behind_s": round(behind_s, 1),
                "snapshot": self._saved,
                **self._encoding(),
            },
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
        await deadline.run(self._until(lambda: self._filled and self._change >= change), "Following the change log")

    async def chunks_of(self, document_ids: list[str], *, deadline: Deadline) -> int:
        """Chunks of documents in the indexes now, all told."""
        return sum(map(self._index.shelf.chunks_of, document_ids)) if self._index else 0

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

    async def _when_filled(self, deadline: Deadline) -> _Index:
        if not self._filled:
            try:
                await deadline.run(self._until(lambda: self._filled), "Filling the index")
            except DeadlineExceeded:
                raise Unavailable("The search index is still being filled. Try again in a few seconds.") from None
        return self._built

    async def _refusals(self, queries: Sequence[Query], deadline: Deadline) -> list[GatherumError | None]:
        """Per query the reason why it is not searched for, if there is one."""
        named = {name for query in queries for name in query.collections}
        if not named <= self._collections:
            try:
                # One that was created a moment ago is in the store before its change arrives here.
                self._collections.update(await self._database.collections(deadline=deadline.within(CHECK_S)))
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
        return [name for name in query.collections if name not in self._collections]

    def _invalid(self, query: Query) -> GatherumError | None:
        if query.limit < 1:
            return InvalidInput(f"A search for {query.limit} passages makes no sense; ask for at least 1.")
        if query.mode == "dense" and self._built.queries is None:
            if self._built.trouble:
                return Unavailable(f"There are no vectors to search by: {self._built.trouble}")
            return InvalidInput("There is no dense index; search with mode 'hybrid' or 'lexical'.")
        return None

    def _search(
        self, index: _Index, queries: Sequence[Query], encoded: Encoded | None, deadline: Deadline
    ) -> list[Found | GatherumError]:
        """Runs in the searching thread."""
        from actors.search.shelf import Wanted

        # Work that waited here until nobody wants it any more would make the next wait longer still.
        deadline.check("the search")
        change = self._change  # before: what comes meanwhile may or may not be found
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

    def _coded(self, index: _Index, queries: Sequence[Query], encoded: Encoded | None) -> Coded:
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
        self, index: _Index, queries: Sequence[Query], surveys: Sequence[Survey], coded: Coded, deadline: Deadline
    ) -> list[Part | GatherumError]:
        """Runs in the searching thread."""
        from actors.search.shelf import Wanted

        deadline.check("the search")
        wanted = [
            Wanted(query, _parsed(query), statistics=survey.statistics)
            for query, survey in zip(queries, surveys, strict=True)
        ]
        return list(index.shelf.parts(wanted, coded.vectors))

    # --- following ---

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._progress:
            await self._progress.wait_for(reached)

    async def _follow(self) -> None:
        """Fill, then follow, step by step; how far is kept in `self`, so a step that failed is simply repeated."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._step()
            except Exception as error:  # noqa: BLE001 - whatever is wrong, an index that stops following lies
                self._note_outage(error)
                # Full jitter: replicas that lost the database together do not come back together.
                await self._sleep(random.uniform(0, pause))  # noqa: S311 - no secret depends on it
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause = FIRST_PAUSE_S
                self._note_return()
                async with self._progress:
                    self._progress.notify_all()

    async def _step(self) -> None:
        if self._index is None:
            self._index = await asyncio.to_thread(self._build, await self._serving())
        elif self._start is None:
            await self._begin(self._index)
        elif not self._filled:
            await self._fill(self._start)
        else:
            if self._encoders_change:
                await self._look_at_encoders()
                self._encoders_change = False
            # Whoever may be behind wants to know at once.
            wait_s = self._settings.poll_s if self._behind_since is None else 0.0
            if self._coming is not None:
                wait_s = min(wait_s, COMING_S)
            changes = await self._database.changes(
                self._change, wait_s, CHANGES, deadline=Deadline.after(wait_s + CALL_S)
            )
            if changes:
                self._note_behind()
                await self._apply(changes)
            if len(changes) < CHANGES:
                self._behind_since = None
            await self._change_over()
            due = self._change > self._saved and self._clock() >= self._save_at
            if due and self._snapshots is not None and self._built.shelf.documents:
                await self._write(self._save, self._snapshots)

    async def _begin(self, index: _Index) -> None:
        """Go on from where the snapshot is, if it is one of this store; else begin to fill."""
        # Drawn before the first document is read: a change that falls between is seen twice rather than never.
        start = await self._database.last_change(deadline=Deadline.after(CALL_S))
        self._collections.update(await self._database.collections(deadline=Deadline.after(CALL_S)))
        if index.snapshot is not None:
            change = index.snapshot.change
            there: list[Change] = []
            if change.number <= start:
                there = await self._database.changes(change.number - 1, 0.0, 1, deadline=Deadline.after(CALL_S))
            if there == [change]:
                self._change, self._last, self._saved = change.number, change, change.number
                self._filled = True
                self._log.info("index_loaded", change=self._change, **self._size())
            else:
                self._log.warning("snapshot_discarded", reason="It is of another store, or of another state of it.")
                await asyncio.to_thread(index.shelf.close)
                self._index = await asyncio.to_thread(self._build, await self._serving(), fresh=True)
        await self._take_fast_encoder()
        self._start = start

    async def _take_fast_encoder(self) -> None:
        """Use the newest fast encoder from now on, if there is a newer one."""
        queries = self._built.queries
        if queries is None:
            return
        kept = await self._database.fitted(
            f"fast:{queries.identity}", known=queries.fast_version, deadline=Deadline.after(CALL_S)
        )
        if kept is None or not kept.content:
            return
        try:
            made = await asyncio.to_thread(_unpacked, kept.content)
        except ValueError as error:
            self._log.warning("fast_encoder_refused", version=kept.version, error=str(error))
        else:
            if made.identity == queries.identity:
                queries.use(made)
                self._log.info("fast_encoder_taken", version=made.version)

    # --- encoders ---

    async def _serving(self) -> Fitted | None:
        """Whose vectors the store has of all chunks, with its settings; None before it has of any."""
        if self._encoder.kind == "none":
            return None
        return await self._database.fitted(SERVING, known="", deadline=Deadline.after(CALL_S))

    def _opened(self, serving: Fitted | None) -> tuple[QueryEncoder | None, str]:
        """See `serving.opened`. Runs in a thread."""
        from actors.search.serving import opened

        queries, trouble = opened(self._encoder, serving, self._settings, self._egress)
        if trouble:
            self._log.warning("no_encoder", error=trouble)
        return queries, trouble

    async def _look_at_encoders(self) -> None:
        """Follow a change of encoders: begin to change over to another one, or take a newer imitation of this one."""
        serving = await self._serving()
        coming = self._coming.queries.identity if self._coming else self._identity
        if serving is None or serving.version == coming:
            await self._take_fast_encoder()
            return
        await self._drop_coming()
        if serving.version == self._identity:
            self._index = replace(self._built, trouble="")
            return
        queries, trouble = await asyncio.to_thread(self._opened, serving)
        if queries is None:
            # What is searched with now goes on: its vectors are gone from the store, but not from here.
            self._index = replace(self._built, trouble=trouble)
            return
        changeover = await asyncio.to_thread(self._changeover, queries)
        filling = asyncio.create_task(self._load(changeover), name="retrieval-changeover")
        self._coming = _Coming(changeover, queries, filling)
        self._log.info("encoder_comes", encoder=queries.identity)

    def _changeover(self, queries: QueryEncoder) -> Changeover:
        from actors.search.changeover import Changeover
        from actors.search.dense import DenseIndex

        dense = DenseIndex(queries.dimension, queries.identity, exact_below=self._settings.exact_below)
        return Changeover(self._built.shelf, dense)

    async def _load(self, changeover: Changeover) -> None:
        """Bring in the vectors of all documents that were there at the beginning."""
        for batch in changeover.batches():
            pause = FIRST_PAUSE_S
            while True:
                try:
                    made = await self._database.vectors_of(
                        batch, encoder=changeover.identity, deadline=Deadline.after(CALL_S)
                    )
                    break
                except GatherumError:
                    await self._sleep(random.uniform(0, pause))  # noqa: S311 - no secret depends on it
                    pause = min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.to_thread(changeover.load, batch, made)

    async def _change_over(self) -> None:
        """Search with what has come, once it is complete."""
        coming = self._coming
        if coming is None or not coming.filling.done():
            return
        if (error := coming.filling.exception()) is not None:
            # In a thread: telling where it came from reads source files.
            told = {"encoder": coming.queries.identity, "exc_info": error}
            await asyncio.to_thread(self._log.error, "encoder_not_taken", **told)
            await self._drop_coming()
            self._encoders_change = True
            return
        # Until all of it is done: what fails half-way is begun again.
        self._coming, self._encoders_change = None, True
        before = self._built
        shelf = await asyncio.get_running_loop().run_in_executor(self._writing, coming.changeover.finish)
        if before.queries is not None:
            # Questions that are under way in it finish.
            self._former.append(before.queries)
        self._index = _Index(shelf, coming.queries)
        await self._take_fast_encoder()
        self._encoders_change = False
        self._log.info("encoder_taken", encoder=coming.queries.identity, **self._size())

    async def _drop_coming(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.filling.cancel()
            await asyncio.wait([coming.filling])
            await coming.queries.close()

    # --- building ---

    def _build(self, serving: Fitted | None, *, fresh: bool = False) -> _Index:
        """Load libraries, the encoder with its tokenizer, and, unless a fresh index is wanted, the snapshot.

        Runs in a thread.
        """
        from actors.search.dense import CorruptSnapshot

        queries, trouble = self._opened(serving)
        encoder = queries.encoder if queries else None
        snapshot = None if fresh else self._find_snapshot(encoder.identity if encoder else "")
        if snapshot is not None:
            try:
                return _Index(self._shelf(encoder, snapshot), queries, trouble, snapshot)
            except (CorruptSnapshot, OSError, ValueError, KeyError, TypeError) as error:
                self._log.warning("snapshot_discarded", reason=str(error))
        return _Index(self._shelf(encoder), queries, trouble)

    def _find_snapshot(self, encoder: str) -> Snapshot | None:
        from actors.search.dense import CorruptSnapshot
        from actors.search.snapshots import Snapshots

        if self._folder is None:
            return None
        try:
            self._snapshots = self._snapshots or Snapshots(self._folder)
            return self._snapshots.newest(self._fingerprint(encoder))
        except OSError as error:
            self._log.warning("no_snapshots", error=str(error))
        except CorruptSnapshot as error:
            self._log.warning("snapshot_discarded", reason=str(error))
        return None

    def _fingerprint(self, encoder: str) -> dict[str, Any]:
        """What the indexes depend on besides the rows of the store."""
        languages = {"": self._settings.language, **self._languages}
        shard = (self._shard.number, self._shard.of)
        return {"encoder": encoder, "languages": languages, "shard": list(shard)}

    def _shelf(self, encoder: Encoder | None, snapshot: Snapshot | None = None) -> Shelf:
        from actors.search.dense import DenseIndex
        from actors.search.shelf import DENSE, Shelf

        settings = self._settings
        dense = None
        if encoder is not None:
            about = (encoder.dimension, encoder.identity)
            dense = (
                DenseIndex.load(snapshot.folder / DENSE, *about, exact_below=settings.exact_below)
                if snapshot
                else DenseIndex(*about, exact_below=settings.exact_below)
            )
        options: dict[str, Any] = {
            "writer_memory_mb": settings.writer_memory_mb,
            "max_query_terms": settings.max_query_terms,
            "dense": dense,
            "languages": tuple(dict.fromkeys([settings.language, *self._languages.values()])),
            "folder": self._snapshots.work() if self._snapshots else None,
            "k1": settings.k1,
            "b": settings.b,
            "shared": self._shard.of > 1,
        }
        return Shelf.load(snapshot.folder, snapshot.account, **options) if snapshot else Shelf(**options)

    def _save(self, snapshots: Snapshots) -> None:
        """Write a snapshot. Runs in the writing thread, so that nothing changes meanwhile."""
        if self._last is None:
            return
        began = self._clock()
        try:
            folder = snapshots.begin()
            account = self._built.shelf.save(folder)
            snapshots.finish(folder, change=self._last, account=account, fingerprint=self._fingerprint(self._identity))
        except OSError as error:
            self._log.warning("snapshot_not_written", error=str(error))
        else:
            self._saved = self._last.number
            self._log.debug("snapshot_written", change=self._saved, seconds=round(self._clock() - began, 3))
        took = self._clock() - began
        self._save_at = self._clock() + max(self._settings.snapshot_s, SNAPSHOT_SHARE * took)

    @property
    def _built(self) -> _Index:
        if self._index is None:
            raise Unavailable("The search index is still being built. Try again in a few seconds.")
        return self._index

    @property
    def _identity(self) -> str:
        """Of the encoder whose vectors are held; empty for none."""
        return self._built.queries.identity if self._built.queries else ""

    async def _fill(self, start: int) -> None:
        documents = await self._database.published(
            self._filled_to,
            FILL_DOCUMENTS,
            encoder=self._identity,
            shard=self._shard,
            deadline=Deadline.after(CALL_S),
        )
        if documents:
            await self._write(self._put_all, documents)
            await self._write(self._built.shelf.commit)
            self._filled_to = documents[-1].document_id
        else:
            self._change = start
            if start:
                there = await self._database.changes(start - 1, 0.0, 1, deadline=Deadline.after(CALL_S))
                self._last = there[0] if there else None
            self._filled = True
            self._log.info("index_filled", change=start, **self._size())

    async def _apply(self, changes: Sequence[Change]) -> None:
        # The last word on a document is all that counts.
        latest = {
            change.document_id: change
            for change in changes
            if change.kind in ("publish", "delete") and self._shard.holds(change.document_id)
        }
        for document_id, change in latest.items():
            document = None
            if change.kind == "publish":
                # Of a document that comes while encoders change, the vectors that will be searched a moment later.
                wanted = self._coming.queries.identity if self._coming else self._identity
                document = await self._database.published_document(
                    document_id, encoder=wanted, deadline=Deadline.after(CALL_S)
                )
            # None: deleted since; its own change is on the way.
            if document is None:
                await self._write(self._built.shelf.remove, document_id)
            else:
                await self._write(self._put_all, [document])
            if self._coming:
                self._coming.changeover.note(document_id, document.embeddings if document else None)
        if latest:
            await self._write(self._built.shelf.commit)
        if any(change.kind == "encoder" for change in changes):
            await self._look_at_encoders()
        for change in changes:
            if change.kind == "drop":
                self._collections.discard(change.collection)
            elif change.collection:
                self._collections.add(change.collection)
        self._last = changes[-1]
        self._change = self._last.number
        self._log.debug("index_followed", change=self._change, **self._size())

    def _put_all(self, documents: Sequence[PublishedDocument]) -> None:
        for document in documents:
            language = self._languages.get(document.collection, self._settings.language)
            self._built.shelf.put(document, language=language)

    async def _write(self, work: Callable[..., None], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, work, *args)

    def _size(self) -> dict[str, int]:
        shelf = self._index.shelf if self._index else None
        return {"chunks": shelf.chunks if shelf else 0, "documents": shelf.documents if shelf else 0}

    def _encoding(self) -> dict[str, Any]:
        """What queries are encoded with, for those who look after it."""
        if self._index is None or self._index.queries is None:
            why = self._index.trouble if self._index else ""
            return {"encoder": "", "trouble": {"vectors": why} if why else {}}
        queries = self._index.queries
        why = queries.encoder.trouble or self._index.trouble
        return {
            "encoder": queries.identity,
            "vectors": self._index.shelf.vectors,
            "fast_encoder": queries.fast_version,
            "encoding": queries.waiting,
            "coming": self._coming.queries.identity if self._coming else "",
            "trouble": {"vectors": why} if why else {},
        }

    def _note_behind(self) -> None:
        if self._behind_since is None:
            self._behind_since = self._clock()

    def _note_outage(self, error: Exception) -> None:
        self._note_behind()
        if self._outage is None:
            expected = isinstance(error, GatherumError)
            self._log.warning("index_cannot_follow", error=str(error), exc_info=None if expected else error)
        self._outage = str(error)

    def _note_return(self) -> None:
        if self._outage is not None:
            self._log.info("index_follows_again", change=self._change)
            self._outage = None


def degraded_by(how: How | None, why: str) -> str:
    """What a question lacks whose vector was made in that way, for that reason; empty without a reason."""
    return f"{APPROXIMATE if how else WORDS_ALONE}: {why}" if why else ""


def _each(work: Callable[[A], T], items: Sequence[A]) -> list[T | GatherumError]:
    return [work(item) for item in items]


def _languages(settings: RetrievalSettings) -> dict[str, str]:
    """Language by collection, of those that have another than the rest."""
    return dict(entry.split("=", 1) for entry in settings.languages)


def _unpacked(content: bytes) -> FastEncoder:
    from actors.search.fast import FastEncoder

    return FastEncoder.from_bytes(content)


def _parsed(query: Query) -> Filter | None:
    from actors.search import filters

    return None if query.filters is None else filters.parse(query.filters)
