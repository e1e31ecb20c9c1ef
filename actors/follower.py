"""Follower: fills a replica's indexes from the published documents, then follows the change log for ever.

It goes on through outages of the database, step by step: how far it is, is kept, so a step that failed is simply
repeated. Where the encoder changes it takes the vectors of the next one in beside those that are searched, and changes
over when they are complete.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.deadline import Deadline
from actors.errors import GatherumError, Unavailable
from actors.indexes import Index, Indexes, keep_for_good
from actors.messages import SERVING, Change, Fitted, PublishedDocument
from actors.search.placement import WHOLE, Shard
from config import logs
from config.settings import EgressSettings, EncoderSettings, RetrievalSettings

if TYPE_CHECKING:
    # Here it is a pool; importing SQLAlchemy would cost this process its memory for nothing.
    from actors.database import Database

    # And every process that knows the role would load the libraries of the indexes, another 100 MB.
    from actors.search.changeover import Changeover
    from actors.search.fast import FastEncoder
    from actors.search.queries import QueryEncoder

FILL_DOCUMENTS = 32
"""Documents asked for at once while filling; with their words they can be large."""

FILL_CHUNKS = 20_000
"""Chunks whose vectors are taken up together while filling: until then they are held as floats of 32 bits."""

CHANGES = 64
"""Changes taken in one step, and committed together."""

CALL_S = 30.0
"""Budget of a call to the database, beyond the wait that a long poll asks for, s."""

LONGEST_PAUSE_S = 5.0
"""Between attempts while the database is away, s."""

FIRST_PAUSE_S = 0.1

COMING_S = 0.5
"""Longest wait for news while the vectors of another encoder come in, s."""


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


class Follower:
    """Keeps a replica's indexes at what the store has published. See the module's docstring.

    Args:
        settings: see `config/settings.py`.
        encoder: what the vectors of chunks are made by.
        database: the store.
        egress: what the address of an encoder that is an endpoint must be allowed by; None for what is public.
        folder: for snapshots, of all replicas on this machine; None for none.
        shard: whose documents it holds.
        sleep: waits for so many seconds.
        clock: seconds from some moment on.

    Attributes:
        collections: those that are known.
        filled: whether searches may begin.
        change: number of the last change that the indexes have followed.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        encoder: EncoderSettings,
        database: Database,
        *,
        egress: EgressSettings | None,
        folder: Path | None,
        shard: Shard = WHOLE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._database = database
        self._shard = shard
        self._sleep = sleep
        self._clock = clock
        self._indexes = Indexes(settings, encoder, egress=egress, folder=folder, shard=shard, clock=clock)
        self._index: Index | None = None
        self.collections: set[str] = set()
        # How far the filling has come, then how far the following.
        self._start: int | None = None
        self._filled_to: str | None = None
        self.filled = False
        self._uncommitted = 0
        self.change = 0
        # The last change that was followed; its number alone would not tell one store from another.
        self._last: Change | None = None
        # Since when there are changes that are not followed yet, or it is not known whether there are.
        self._behind_since: float | None = None
        # While the vectors of another encoder are taken up, in the background.
        self._coming: _Coming | None = None
        # Whether that failed, and is to be begun again.
        self._encoders_change = False
        self._former: list[QueryEncoder] = []
        self._progress = asyncio.Condition()
        self._outage: str | None = None
        self._task: asyncio.Task[None] | None = None
        # A thread of its own, so that a large commit does not hold up the questions.
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._log = logs.get()

    async def start(self) -> None:
        """Begin to fill and follow, in the background."""
        self._task = asyncio.create_task(self._follow(), name="retrieval-follower")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._drop_coming()
        for queries in [*self._former, *([self._index.queries] if self._index and self._index.queries else [])]:
            await queries.close()
        await asyncio.to_thread(self._writing.shutdown, cancel_futures=True)

    def close(self) -> None:
        """Let go of the files, once no search is under way."""
        if self._index is not None:
            self._index.shelf.close()
        self._indexes.close()

    @property
    def index(self) -> Index | None:
        """What is searched with now; None before there is anything."""
        return self._index

    @property
    def built(self) -> Index:
        """The same.

        Raises:
            Unavailable: there is nothing yet.
        """
        if self._index is None:
            raise Unavailable("The search index is still being built. Try again in a few seconds.")
        return self._index

    @property
    def behind_s(self) -> float:
        """For how long there have been changes that are not followed, or may have been, s."""
        return 0.0 if self._behind_since is None else self._clock() - self._behind_since

    @property
    def ready(self) -> bool:
        """Whether the indexes are filled, and the change log is followed closely enough."""
        following = self._task is not None and not self._task.done()
        return self.filled and following and self.behind_s <= self._settings.lag_s

    def detail(self) -> dict[str, Any]:
        """For those who look after it."""
        return {
            "change": self.change,
            **({"shard": str(self._shard)} if self._shard.of > 1 else {}),
            **self._size(),
            "collections": len(self.collections),
            "outage": self._outage,
            "behind_s": round(self.behind_s, 1),
            "snapshot": self._indexes.saved,
            **self._encoding(),
        }

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that a step brings about."""
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
            self._index = await asyncio.to_thread(self._indexes.build, await self._serving())
        elif self._start is None:
            await self._begin(self._index)
        elif not self.filled:
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
                self.change, wait_s, CHANGES, deadline=Deadline.after(wait_s + CALL_S)
            )
            if changes:
                self._note_behind()
                await self._apply(changes)
            if len(changes) < CHANGES:
                self._behind_since = None
            await self._change_over()
            if self._last is not None and self._indexes.due(self.change) and self.built.shelf.documents:
                await self._write(self._indexes.save, self.built, self._last)

    async def _begin(self, index: Index) -> None:
        """Go on from where the snapshot is, if it is one of this store; else begin to fill."""
        # Drawn before the first document is read: a change that falls between is seen twice rather than never.
        start = await self._database.last_change(deadline=Deadline.after(CALL_S))
        self.collections.update(await self._database.collections(deadline=Deadline.after(CALL_S)))
        if index.snapshot is not None:
            change = index.snapshot.change
            there: list[Change] = []
            if change.number <= start:
                there = await self._database.changes(change.number - 1, 0.0, 1, deadline=Deadline.after(CALL_S))
            if there == [change]:
                self.change, self._last, self._indexes.saved = change.number, change, change.number
                await self._settle()
                self._log.info("index_loaded", change=self.change, **self._size())
            else:
                self._log.warning("snapshot_discarded", reason="It is of another store, or of another state of it.")
                await asyncio.to_thread(index.shelf.close)
                self._index = await asyncio.to_thread(self._indexes.build, await self._serving(), fresh=True)
        await self._take_fast_encoder()
        self._start = start

    async def _settle(self) -> None:
        """Begin to answer: what is held by now stays."""
        await asyncio.to_thread(keep_for_good)
        self.filled = True

    async def _fill(self, start: int) -> None:
        documents = await self._database.published(
            self._filled_to,
            FILL_DOCUMENTS,
            encoder=self.built.identity,
            shard=self._shard,
            deadline=Deadline.after(CALL_S),
        )
        if documents:
            await self._write(self._put_all, documents)
            self._filled_to = documents[-1].document_id
            self._uncommitted += sum(len(document.chunks) for document in documents)
            if self._uncommitted >= FILL_CHUNKS:
                await self._write(self.built.shelf.commit_vectors)
                self._uncommitted = 0
        else:
            # Once: each commit makes one more segment, and every search looks its words up in all of them. Five of
            # them in place of one cost a question 0.25 ms.
            await self._write(self.built.shelf.commit)
            self.change = start
            if start:
                there = await self._database.changes(start - 1, 0.0, 1, deadline=Deadline.after(CALL_S))
                self._last = there[0] if there else None
            await self._settle()
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
                wanted = self._coming.queries.identity if self._coming else self.built.identity
                document = await self._database.published_document(
                    document_id, encoder=wanted, deadline=Deadline.after(CALL_S)
                )
            # None: deleted since; its own change is on the way.
            if document is None:
                await self._write(self.built.shelf.remove, document_id)
            else:
                await self._write(self._put_all, [document])
            if self._coming:
                self._coming.changeover.note(document_id, document.embeddings if document else None)
        if latest:
            await self._write(self.built.shelf.commit)
        if any(change.kind == "encoder" for change in changes):
            await self._look_at_encoders()
        for change in changes:
            if change.kind == "drop":
                self.collections.discard(change.collection)
            elif change.collection:
                self.collections.add(change.collection)
        self._last = changes[-1]
        self.change = self._last.number
        self._log.debug("index_followed", change=self.change, **self._size())

    def _put_all(self, documents: Sequence[PublishedDocument]) -> None:
        for document in documents:
            self.built.shelf.put(document, language=self._indexes.language(document.collection))

    async def _write(self, work: Callable[..., None], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, work, *args)

    # --- encoders ---

    async def _take_fast_encoder(self) -> None:
        """Use the newest fast encoder from now on, if there is a newer one."""
        queries = self.built.queries
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

    async def _serving(self) -> Fitted | None:
        """Whose vectors the store has of all chunks, with its settings; None before it has of any."""
        if self._encoder.kind == "none":
            return None
        return await self._database.fitted(SERVING, known="", deadline=Deadline.after(CALL_S))

    async def _look_at_encoders(self) -> None:
        """Follow a change of encoders: begin to change over to another one, or take a newer imitation of this one."""
        serving = await self._serving()
        coming = self._coming.queries.identity if self._coming else self.built.identity
        if serving is None or serving.version == coming:
            await self._take_fast_encoder()
            return
        await self._drop_coming()
        if serving.version == self.built.identity:
            self._index = replace(self.built, trouble="")
            return
        queries, trouble = await asyncio.to_thread(self._indexes.opened, serving)
        if queries is None:
            # What is searched with now goes on: its vectors are gone from the store, but not from here.
            self._index = replace(self.built, trouble=trouble)
            return
        changeover = await asyncio.to_thread(self._indexes.changeover, self.built, queries)
        filling = asyncio.create_task(self._load(changeover), name="retrieval-changeover")
        self._coming = _Coming(changeover, queries, filling)
        self._log.info("encoder_comes", encoder=queries.identity)

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
        before = self.built
        shelf = await asyncio.get_running_loop().run_in_executor(self._writing, coming.changeover.finish)
        if before.queries is not None:
            # Questions that are under way in it finish.
            self._former.append(before.queries)
        self._index = Index(shelf, coming.queries)
        await self._take_fast_encoder()
        self._encoders_change = False
        self._log.info("encoder_taken", encoder=coming.queries.identity, **self._size())

    async def _drop_coming(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.filling.cancel()
            await asyncio.wait([coming.filling])
            await coming.queries.close()

    # --- for health ---

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
            self._log.info("index_follows_again", change=self.change)
            self._outage = None


def _unpacked(content: bytes) -> FastEncoder:
    from actors.search.fast import FastEncoder

    return FastEncoder.from_bytes(content)
