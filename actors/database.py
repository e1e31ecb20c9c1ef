"""Database: the role that keeps what must not be lost, and asks the registered SQL sources.

It decides what belongs into one transaction and who is told about it; the statements are in `actors/store/`. It holds
nothing that is not in the database, so any number of them may work on one store, and any of them may be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, FileGone, GatherumError, StaleLease, Unavailable, UnknownDocument
from actors.messages import (
    Accepted,
    Change,
    Document,
    Embeddings,
    Entity,
    EntityDetail,
    EntityMention,
    EntityName,
    Examined,
    Fitted,
    Health,
    Job,
    Lease,
    Page,
    PageChunks,
    PageReading,
    PublishedDocument,
    RelatedEntity,
    Removed,
    Tended,
    Upload,
)
from actors.reading import PIPELINE
from actors.search.placement import WHOLE, Shard
from actors.sources import SqlSources
from actors.sql.access import Own
from actors.sql.evidence import Finder
from actors.sql.model import Model
from actors.sql.sources import Sources
from actors.sql.vault import Vault
from actors.store import (
    changes,
    deletion,
    dialect,
    documents,
    entities,
    files,
    jobs,
    keys,
    progress,
    queue,
    room,
    sweeping,
    upkeep,
    vectors,
)
from actors.store import readings as reading_rows
from actors.store.blobs import Blobs
from actors.store.doctor import Doctor, announce
from actors.store.engine import GRACE_S, Store
from actors.store.entities import Wanted
from actors.units import bounded
from config import logs
from config.settings import BlobSettings, DatabaseSettings, ModelSettings, SourcesSettings

T = TypeVar("T")
Counted = TypeVar("Counted", int, int | None)

MAX_LIMIT = 1000
"""Most documents that are listed at once."""

FORGET_PAGES = 200
"""Pages whose vectors of another encoder are removed in one transaction."""

REMOVAL_WAIT_S = 5.0
REMOVAL_PAUSE_S = 0.02
"""How long, and in which steps, an upload waits for the removal of the same file, s."""

FOLLOW_S = 1.0
"""How often a waiting follower looks for changes that another process has made, s."""

TEND_RESERVE_S = GRACE_S + 1.0
"""What `tend` keeps of its time to answer in, s: a transaction that is broken off may take so long to end."""

GONE_S = 1.0
"""How often jobs whose worker has gone are looked for before those in the queue, s; after them at every claim."""


class Database(SqlSources):
    """The store.

    Args:
        settings: its section.
        sources: the section of the registered SQL databases.
        url: SQLAlchemy URL of the store.
        blobs: the files.
        blob_settings: their section: how often they are swept, and what for.
        max_attempts: attempts of each new job.
        sources_key: file of the key that the passwords of SQL databases are stored under; without it, SQLite files are
            the only sources.
        model: the section of the language model; None where none will be asked.
    """

    ROLE: ClassVar[str] = "database"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset(
        {
            "accept",
            "add_lookup",
            "add_source",
            "add_vectors",
            "announce",
            "cancel_job",
            "changes",
            "collections",
            "commit_pages",
            "create_collection",
            "document",
            "documents",
            "embedded_chunks",
            "entities",
            "entities_of",
            "entity",
            "entity_mentions",
            "entity_names",
            "evidence_many",
            "examine",
            "fail",
            "fitted",
            "forget_vectors",
            "health",
            "heartbeat",
            "job",
            "jobs",
            "jobs_by_id",
            "keep_fitted",
            "last_change",
            "lookups",
            "names_of",
            "page",
            "publish",
            "published",
            "published_document",
            "refresh_source",
            "related_entities",
            "release",
            "retry_job",
            "run_lookup",
            "source_values",
            "sizes",
            "sources",
            "tend",
            "unembedded",
            "vectors_of",
            "vectors_sample",
        }
    )

    def __init__(
        self,
        settings: DatabaseSettings,
        sources: SourcesSettings,
        blob_settings: BlobSettings,
        *,
        url: str,
        blobs: Blobs,
        max_attempts: int,
        sources_key: Path | None = None,
        model: ModelSettings | None = None,
    ) -> None:
        super().__init__(settings)
        self._url = dialect.parse_url(url)
        self._blobs = blobs
        self._blob_settings = blob_settings
        file = dialect.file_of(self._url)
        self._disks = {"files": blobs.incoming, **({} if file is None else {"the database": file.parent})}
        self._sweeping: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._max_attempts = max_attempts
        vault = Vault(sources_key, variables=sources.password_variables) if sources_key else None
        self._sources = Sources(sources, own=Own.of(self._url, dialect.file_of(self._url)), vault=vault)
        self._finder = Finder(sources, self._sources)
        self._model = Model(model) if model is not None else None
        self._revision = ""
        self._look_for_gone = 0.0  # monotonic, s

    async def start(self) -> None:
        """Make the folders, apply the migrations, begin to sweep now and then.

        Raises:
            Conflict: the database was written by a newer version of this code.
            Unavailable: the database cannot be opened.
        """
        path = dialect.file_of(self._url)
        if path is not None:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await self._blobs.prepare()
        self._revision = await asyncio.to_thread(_migrate, self._url, self._settings)
        # Building an engine loads modules and looks at paths.
        self._opened = await asyncio.to_thread(Store, self._url, self._settings)
        sweep = sweeping.now_and_then(self._opened, self._blobs, self._blob_settings, self._stopping)
        self._sweeping = asyncio.create_task(sweep, name="database-sweep")
        logs.get().info("database_ready", revision=self._revision)

    async def stop(self) -> None:
        """Stop sweeping and close the connections, those to SQL sources too."""
        if self._sweeping is not None:
            self._stopping.set()
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))
        await self._sources.close()
        if self._model is not None:
            await self._model.close()
        if self._opened is not None:
            await self._opened.close()

    async def drain(self, *, deadline: Deadline) -> None:
        """`stop` for a caller elsewhere, who waits only so long."""
        await deadline.run(self.stop(), "Closing the store")

    async def health(self, *, deadline: Deadline) -> Health:
        """Whether the store answers, how fast, and whether it has room."""
        detail: dict[str, Any] = {"dialect": self._url.get_backend_name(), "revision": self._revision}
        try:
            ping = self._within(self._store.ping(), deadline, "the health check")
            detail["round_trip_ms"] = round(await ping, 2)
            detail["change"], detail["jobs"] = await self._read(_figures, deadline, "the health check")
            detail["trouble"] = await deadline.run(asyncio.to_thread(room.shortages, self._disks), "The health check")
        except GatherumError as error:
            detail["error"] = error.detail
        return Health(self.ROLE, "error" not in detail, os.getpid(), socket.gethostname(), detail)

    # --- documents ---------------------------------------------------------------------------------------------------

    async def accept(self, upload: Upload, *, deadline: Deadline) -> Accepted:
        """Take an upload in and queue its reading. The same file in the same collection is a duplicate.

        Raises:
            InvalidInput: the collection's name is no name.
            KeyReused: its idempotency key was used for another upload.
            FileGone: the file is not in the blob store; put it there (again) and repeat the call.
            Unavailable: the same file is just being removed, and that takes long.
        """
        document_id = ""
        before = files.Looked(0, removing=False)

        async def work(connection: AsyncConnection, now: float) -> Accepted:
            nonlocal document_id
            document_id = document_id or documents.new_id(now)
            await files.hold(connection, upload.sha256)
            if not await files.is_there_still(connection, now, upload.sha256, before):
                raise FileGone("The file was removed while it was being taken in; send it again.")
            return await documents.accept(
                connection,
                now,
                upload,
                pipeline=PIPELINE,
                max_attempts=self._max_attempts,
                document_id=document_id,
            )

        what = "taking in a document"
        patience = deadline.reserve(0.25).within(REMOVAL_WAIT_S)
        while True:
            before = await self._read(partial(files.look, sha256=upload.sha256), deadline, what)
            if not before.removing:
                # Outside a transaction: a bucket may be slow, and those who write would all wait for it.
                if await deadline.run(self._blobs.stat(upload.sha256), what) is None:
                    raise FileGone("The file was removed while it was being taken in; send it again.")
                with contextlib.suppress(FileGone):
                    accepted = await self._write(work, deadline, what, repeatable=True)
                    self._tell()
                    return accepted
            if patience.expired:
                raise Unavailable("The same file is just being removed. Send it again in some minutes.")
            await asyncio.sleep(REMOVAL_PAUSE_S)

    async def documents(
        self, collection: str | None, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[Document], str | None]:
        """Up to `limit` documents past the id `after`, oldest first, and the id to go on from (None at the end).

        More than 1000 are not given at once.

        Raises:
            UnknownCollection: there is none of this name.
        """
        work = partial(documents.page_of, collection=collection, after=after, limit=min(bounded(limit), MAX_LIMIT))
        return await self._read(work, deadline, "listing documents")

    async def document(self, document_id: str, *, deadline: Deadline) -> Document:
        """A document.

        Raises:
            UnknownDocument: there is none of this id.
        """
        row = await self._read(partial(documents.find, document_id=document_id), deadline, "finding a document")
        return documents.as_message(row)

    async def page(self, document_id: str, number: int, *, deadline: Deadline) -> Page:
        """A page of a published document.

        Raises:
            UnknownDocument: there is none of this id.
            UnknownPage: it has no such page, or has not been read yet.
        """

        async def work(connection: AsyncConnection) -> Any:
            document = await documents.find(connection, document_id)
            return await reading_rows.page(connection, document.sha256, document.pipeline, number, document.pages)

        return reading_rows.unpack_page(await self._read(work, deadline, "finding a page"))

    async def delete_document(self, document_id: str, *, deadline: Deadline) -> Removed:
        """Remove a document with all that was read from it, except what another document with the same content shares.

        Indexes follow by the change log.

        Raises:
            UnknownDocument: there is none of this id.
            Unavailable: it is deleted, but its file is not yet.
        """
        done: deletion.Deleted | None = None

        async def work(connection: AsyncConnection, now: float) -> deletion.Deleted:
            nonlocal done
            try:
                done = await deletion.remove_document(connection, now, document_id)
            except UnknownDocument:
                if done is None or not await changes.holds(connection, done.change):
                    raise
            return done

        deleted = await self._write(work, deadline, "deleting a document", repeatable=True)
        self._tell()
        if deleted.mark is None:
            return deleted.report
        write = partial(self._store.write, repeatable=True)
        removal = files.remove(write, self._blobs, sha256=deleted.sha256, mark=deleted.mark)
        try:
            gone = await deadline.run(removal, "deleting a file")
        except GatherumError as error:
            raise Unavailable(
                f"The document is deleted, but its file could not be removed yet: {error.detail} The sweep will do it."
            ) from None
        return deleted.report if gone is None else replace(deleted.report, blobs=1, bytes=gone.size)

    async def entities_of(self, document_id: str, *, deadline: Deadline) -> list[int]:
        """Ids of the entities that a published document mentions, in order; none of one that is unknown."""
        work = partial(entities.ids_of, document_id=document_id)
        return await self._read(work, deadline, "reading names")

    async def collections(self, *, deadline: Deadline) -> list[str]:
        """Names of the collections, in order."""
        return await self._read(documents.collection_names, deadline, "listing collections")

    async def create_collection(self, name: str, *, deadline: Deadline) -> None:
        """Make sure that a collection exists.

        Raises:
            InvalidInput: not a name.
        """
        work = partial(documents.ensure_collection, name=name)
        await self._write(work, deadline, "creating a collection", repeatable=True)
        self._tell()

    async def delete_collection(self, name: str, *, deadline: Deadline) -> Removed:
        """Remove a collection that is empty; of the account only the change is more than 0.

        Raises:
            UnknownCollection: there is none of this name.
            Conflict: it holds documents.
        """
        change = await self._write(partial(deletion.remove_collection, name=name), deadline, "deleting a collection")
        self._tell()
        return Removed(change=change.number)

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str, *, deadline: Deadline) -> Job:
        """A job.

        Raises:
            UnknownJob: there is none of this id.
        """
        return await self._read(partial(progress.find, job_id=job_id), deadline, "finding a job")

    async def jobs(
        self, states: tuple[str, ...], collection: str | None, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[Job], str | None]:
        """Up to `limit` jobs past the id `after`, oldest first, and the id to go on from (None at the end).

        More than 1000 are not given at once.

        Args:
            states: of these only; empty for any.
            collection: of this one only; None for all.
            after: None to begin.
            limit: at least 1.
            deadline: of the call.

        Raises:
            UnknownCollection: there is none of this name.
        """
        limit = min(bounded(limit), MAX_LIMIT)
        work = partial(progress.page_of, states=states, collection=collection, after=after, limit=limit)
        return await self._read(work, deadline, "listing jobs")

    async def jobs_by_id(self, job_ids: tuple[str, ...], *, deadline: Deadline) -> list[Job]:
        """Those of up to 500 jobs that there are, in no particular order."""
        return await self._read(partial(progress.find_many, job_ids=job_ids), deadline, "finding jobs")

    async def cancel_job(self, job_id: str, *, deadline: Deadline) -> Job:
        """Stop a job; the worker that reads it finds out at its next commit or heartbeat. Again is no error.

        Raises:
            UnknownJob: there is none of this id.
            Conflict: it has ended.
        """
        await self._write(partial(jobs.cancel, job_id=job_id), deadline, "cancelling a job", repeatable=True)
        return await self.job(job_id, deadline=deadline)

    async def retry_job(self, job_id: str, *, deadline: Deadline) -> Job:
        """Start a failed, cancelled or partial job again; one that waits or is being read is left alone.

        Raises:
            UnknownJob: there is none of this id.
            Conflict: it is done.
        """
        work = partial(jobs.retry, job_id=job_id, pipeline=PIPELINE)
        await self._write(work, deadline, "starting a job again", repeatable=True)
        return await self.job(job_id, deadline=deadline)

    async def tend(self, limit: int, *, deadline: Deadline) -> Tended:
        """Queue documents that an older pipeline has read, remove readings that were superseded, forget old keys.

        Args:
            limit: most readings that may wait in the background lane.
            deadline: of the call; what is not done `TEND_RESERVE_S` before it is left for the next one.
        """

        async def reread(connection: AsyncConnection, now: float) -> int:
            lane = queue.lane_of(queue.BACKGROUND)
            created = [
                await jobs.create(
                    connection,
                    now,
                    job_id=documents.new_id(now),
                    document_id=document.document_id,
                    collection=document.collection,
                    pipeline=PIPELINE,
                    max_attempts=self._max_attempts,
                    priority=queue.BACKGROUND,
                )
                for document in await upkeep.outdated(connection, PIPELINE, lane, bounded(limit))
            ]
            return sum(created)

        async def prune(connection: AsyncConnection, now: float) -> int | None:
            return await upkeep.prune(connection)

        queued = await self._write(_most(reread), deadline, "queueing documents to be read again", repeatable=True)
        keys_removed = await self._write(_most(keys.forget), deadline, "forgetting idempotency keys", repeatable=True)
        removed = 0
        # A transaction each: between two of them others write. Time is left to say what has been done.
        until = deadline.reserve(TEND_RESERVE_S)
        what = "removing superseded readings"
        try:
            while (pages := await self._write(_most(prune), until, what, repeatable=True)) is not None:
                removed += pages
        except DeadlineExceeded as error:
            if not removed:
                logs.get().warning("superseded_readings_stay", detail=error.detail)
        return Tended(queued, removed, keys_removed)

    async def claim(self, worker: str, lease_s: float, *, deadline: Deadline) -> Lease | None:
        """Take the next job for `lease_s` seconds; None if there is nothing to do. The attempt counts from here."""
        lease: Lease | None = None

        async def work(connection: AsyncConnection, now: float) -> Lease | None:
            nonlocal lease
            if lease is None or not await jobs.is_held(connection, lease, worker):
                lease = await jobs.claim(
                    connection, now, worker=worker, lease_s=lease_s, pipeline=PIPELINE, gone_first=gone_first
                )
            return lease

        # A look at each claim would be one round trip of five, for what happens once in a while.
        gone_first = time.monotonic() >= self._look_for_gone
        if gone_first:
            self._look_for_gone = time.monotonic() + GONE_S
        return await self._write(work, deadline, "claiming a job", repeatable=True)

    async def heartbeat(self, job_id: str, fence: int, lease_s: float, *, deadline: Deadline) -> None:
        """Prolong a lease to `lease_s` seconds from now.

        Raises:
            StaleLease: the job is no longer held with this fence. The same goes for all calls that name one.
        """
        work = partial(jobs.heartbeat, job_id=job_id, fence=fence, lease_s=lease_s)
        await self._write(work, deadline, "a heartbeat", repeatable=True)

    async def commit_pages(
        self, job_id: str, fence: int, readings: tuple[PageReading, ...], *, deadline: Deadline
    ) -> int:
        """Store pages that were read; those that are in already are left alone. They stay hidden until `publish`.

        Returns:
            How many pages of the document are in, now.

        Raises:
            StaleLease: see `heartbeat`.
        """
        packed = await asyncio.to_thread(reading_rows.pack, readings)
        work = partial(jobs.commit_pages, job_id=job_id, fence=fence, packed=packed)
        return await self._write(work, deadline, "storing pages", repeatable=True)

    async def publish(self, job_id: str, fence: int, *, deadline: Deadline) -> Change:
        """Make a document that was read visible. Repeated with the same fence, it gives the same change again.

        Raises:
            StaleLease: see `heartbeat`.
            Conflict: pages are missing.
            ReadingFailed: none of its pages could be read; the job is still held, and its holder should `fail` it.
        """
        work = partial(jobs.publish, job_id=job_id, fence=fence)
        change = await self._write(work, deadline, "publishing", repeatable=True)
        self._tell()
        return change

    async def fail(self, job_id: str, fence: int, error: str, retry_in_s: float | None, *, deadline: Deadline) -> None:
        """End an attempt with an error, to be tried again in `retry_in_s` seconds if an attempt is left; never if None.

        Raises:
            StaleLease: see `heartbeat`.
        """
        work = partial(jobs.fail, job_id=job_id, fence=fence, error=error, retry_in_s=retry_in_s)
        await self._write(_ending(work), deadline, "ending an attempt", repeatable=True)

    async def release(self, job_id: str, fence: int, *, deadline: Deadline) -> None:
        """Give a job back at once and without costing it an attempt: its worker is stopping.

        Raises:
            StaleLease: see `heartbeat`.
        """
        work = partial(jobs.release, job_id=job_id, fence=fence)
        await self._write(_ending(work), deadline, "giving a job back", repeatable=True)

    # --- what indexes follow -----------------------------------------------------------------------------------------

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        """Up to `limit` changes past the number `after`, waiting up to `wait_s` seconds for the first."""
        until = deadline.reserve(0.05).within(wait_s)
        work = partial(changes.after, number=after, limit=bounded(limit))
        while True:
            news = self._news  # taken before the look, so that nothing slips in between
            found = await self._read(work, deadline, "reading the change log")
            if found or until.expired:
                return found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(FOLLOW_S, until.remaining())):
                    await news.wait()

    async def last_change(self, *, deadline: Deadline) -> int:
        """The newest change's number; 0 before the first."""
        return await self._read(changes.last, deadline, "reading the change log")

    async def published(
        self, after: str | None, limit: int, *, encoder: str = "", shard: Shard = WHOLE, deadline: Deadline
    ) -> list[PublishedDocument]:
        """Up to `limit` published documents past the id `after`, with their chunks; fewer than `limit` at the end.

        To fill an index: ask for `last_change` first, read all pages of this, then follow `changes` from there.

        Args:
            after: None to begin.
            limit: at least 1.
            encoder: identity of the one whose vectors are wanted; empty for none.
            shard: whose documents are wanted.
            deadline: of the call.
        """
        work = partial(reading_rows.published, after=after, limit=bounded(limit), encoder=encoder, shard=shard)
        rows = await self._read(work, deadline, "reading documents")
        return await asyncio.to_thread(reading_rows.unpack_documents, rows, encoder)

    async def published_document(
        self, document_id: str, *, encoder: str = "", deadline: Deadline
    ) -> PublishedDocument | None:
        """One of them; None if there is none of this id, or it is not published."""
        work = partial(reading_rows.published_document, document_id=document_id, encoder=encoder)
        rows = await self._read(work, deadline, "reading a document")
        found = await asyncio.to_thread(reading_rows.unpack_documents, rows, encoder)
        return found[0] if found else None

    # --- vectors -----------------------------------------------------------------------------------------------------

    async def unembedded(self, encoder: str, limit: int, *, deadline: Deadline) -> list[PageChunks]:
        """Up to `limit` pages of published documents whose chunks have no vectors of an encoder."""
        work = partial(vectors.missing, encoder=encoder, limit=bounded(limit))
        return await self._read(work, deadline, "finding chunks without vectors")

    async def add_vectors(self, embedded: list[PageChunks], *, deadline: Deadline) -> None:
        """Store vectors that came later than their pages; documents that have all of theirs then are published again.

        A page that is gone, or has been read anew, is left out.
        """
        await self._write(partial(vectors.add, embedded=embedded), deadline, "storing vectors", repeatable=True)
        self._tell()

    async def vectors_of(self, document_ids: list[str], *, encoder: str, deadline: Deadline) -> dict[str, Embeddings]:
        """The vectors of up to 500 published documents, of those that have any of an encoder."""
        work = partial(reading_rows.vectors_of, document_ids=document_ids, encoder=encoder)
        rows = await self._read(work, deadline, "reading vectors")
        return await asyncio.to_thread(reading_rows.unpack_vectors, rows, encoder)

    async def forget_vectors(self, encoder: str, *, deadline: Deadline) -> int:
        """Remove some of the vectors of other encoders, and what was fitted to them; of how many pages."""

        async def work(connection: AsyncConnection, now: float) -> int:
            await vectors.forget_fitted(connection, encoder)
            return await vectors.forget_others(connection, encoder, FORGET_PAGES)

        return await self._write(_most(work), deadline, "removing vectors", repeatable=True)

    async def embedded_chunks(self, encoder: str, *, deadline: Deadline) -> int:
        """Chunks that have vectors of an encoder."""
        return await self._read(partial(vectors.count, encoder=encoder), deadline, "counting vectors")

    async def vectors_sample(
        self, encoder: str, share: float, after: tuple[str, int, int] | None, limit: int, *, deadline: Deadline
    ) -> list[PageChunks]:
        """Up to `limit` pages with their vectors, of a share of the published files; see `vectors.sample`."""
        work = partial(vectors.sample, encoder=encoder, share=share, after=after, limit=bounded(limit))
        return await self._read(work, deadline, "reading vectors")

    async def keep_fitted(self, fitted: Fitted, *, deadline: Deadline) -> None:
        """Keep what was fitted, in the place of what has its name."""
        await self._write(partial(vectors.keep, what=fitted), deadline, "keeping an encoder", repeatable=True)
        self._tell()

    async def fitted(self, name: str, *, known: str | None = None, deadline: Deadline) -> Fitted | None:
        """What is kept under a name; with its content where a version is `known` (empty for none) and it is another."""
        return await self._read(partial(vectors.find, name=name, known=known), deadline, "reading an encoder")

    async def entity_names(self, after: int, limit: int, *, deadline: Deadline) -> list[EntityName]:
        """Up to `limit` names past the id `after` that a published document mentions; fewer than `limit` at the end.

        A name is given its id when it is first read, which may be long before it is published: ids are for paging
        through all names, not for following new ones.
        """
        work = partial(entities.names, after=after, limit=bounded(limit))
        return await self._read(work, deadline, "reading names")

    async def names_of(self, document_ids: list[str], *, deadline: Deadline) -> tuple[list[EntityName], bool]:
        """The names that up to 500 published documents mention, by id.

        Returns:
            The names, and whether one of the documents was published before: then some that it brought may be gone.
        """
        return await self._read(partial(entities.names_of, document_ids=document_ids), deadline, "reading names")

    # --- entities ----------------------------------------------------------------------------------------------------

    async def entities(
        self, wanted: Wanted, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[Entity], str | None]:
        """Up to `limit` entities past a cursor, by name, and the cursor to go on from (None at the end).

        More than 1000 are not given at once; the same goes for the lists below.

        Raises:
            InvalidInput: the cursor is none of this list.
            UnknownCollection, UnknownDocument: there is none of this name, or id.
        """
        work = partial(entities.page_of, wanted=wanted, after=after, limit=min(bounded(limit), MAX_LIMIT))
        return await self._read(work, deadline, "listing entities")

    async def entity(self, entity_id: int, *, deadline: Deadline) -> EntityDetail:
        """An entity, with the spellings of its name.

        Raises:
            UnknownEntity: no published document mentions one of this id. The same goes for the two below.
        """
        return await self._read(partial(entities.find, entity_id=entity_id), deadline, "finding an entity")

    async def entity_mentions(
        self, entity_id: int, collection: str | None, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[EntityMention], str | None]:
        """Up to `limit` mentions of an entity past a cursor, by document and place, and the cursor to go on from.

        Raises:
            UnknownEntity: see `entity`.
            UnknownCollection: there is none of this name.
            InvalidInput: the cursor is none of this list.
        """
        limit = min(bounded(limit), MAX_LIMIT)
        work = partial(entities.mentions_of, entity_id=entity_id, collection=collection, after=after, limit=limit)
        rows, words, following = await self._read(work, deadline, "listing mentions")
        return await asyncio.to_thread(entities.unpack_mentions, rows, words), following

    async def related_entities(
        self, entity_id: int, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[RelatedEntity], str | None]:
        """Up to `limit` entities that stand on pages of one, past a cursor, those with most pages first, and a cursor.

        Raises:
            UnknownEntity: see `entity`.
            InvalidInput: the cursor is none of this list.
        """
        work = partial(entities.related, entity_id=entity_id, after=after, limit=min(bounded(limit), MAX_LIMIT))
        return await self._read(work, deadline, "looking for names beside a name")

    # --- what is looked at when something may be wrong ---------------------------------------------------------------

    async def examine(self, check: str, after: str, *, deep: bool, repair: bool, deadline: Deadline) -> Examined:
        """One step of one of the `doctor.CHECKS`.

        Args:
            check: its name.
            after: empty to begin, then `next` of the step before.
            deep: whether files are hashed.
            repair: whether to repair what can be; it may be repeated.
            deadline: of the step.

        Raises:
            InvalidInput: there is no such check.
        """
        doctor = Doctor(
            self._store,
            self._blobs,
            pipeline=PIPELINE,
            max_attempts=self._max_attempts,
            grace_s=self._blob_settings.grace_s,
        )
        examined = await deadline.run(doctor.examine(check, after, deep=deep, repair=repair), "Examining the store")
        if any(finding.repaired for finding in examined.findings):
            self._tell()
        return examined

    async def sizes(self, after: str, limit: int, *, deadline: Deadline) -> list[tuple[str, int]]:
        """Up to `limit` published documents past the id `after`, in order, each with its number of chunks."""
        work = partial(reading_rows.sizes, after=after, limit=bounded(limit))
        return await self._read(work, deadline, "counting chunks")

    async def announce(self, document_ids: list[str], *, deadline: Deadline) -> int:
        """Have every index look at these documents, and at all names, again; the number of the last change drawn."""

        async def work(connection: AsyncConnection, now: float) -> int:
            await announce(connection, now, document_ids=document_ids)
            return (await changes.draw(connection, now, Change(0, "gap"))).number

        # Run again, it announces them again, which nobody minds, and the second number is as good to wait for.
        number = await self._write(work, deadline, "announcing documents", repeatable=True)
        self._tell()
        return number


def _migrate(url: URL, settings: DatabaseSettings) -> str:
    # Alembic costs 0.2 s and 10 MB, which only a process that plays the role needs to spend.
    from actors.store import migrations

    return migrations.upgrade(url, settings)


def _ending(
    work: Callable[[AsyncConnection, float], Awaitable[None]],
) -> Callable[[AsyncConnection, float], Awaitable[None]]:
    """A unit that ends a lease, made repeatable: run again, it finds its lease ended, by itself or past helping."""
    runs = 0

    async def again(connection: AsyncConnection, now: float) -> None:
        nonlocal runs
        runs += 1
        try:
            await work(connection, now)
        except StaleLease:
            if runs == 1:
                raise

    return again


def _most(
    work: Callable[[AsyncConnection, float], Awaitable[Counted]],
) -> Callable[[AsyncConnection, float], Awaitable[Counted]]:
    """A unit that says how much it has done, made repeatable: run again, it finds nothing left of that to do."""
    runs: list[Counted] = []

    async def again(connection: AsyncConnection, now: float) -> Counted:
        runs.append(await work(connection, now))
        return max(runs, key=lambda number: -1 if number is None else number)

    return again


async def _figures(connection: AsyncConnection) -> tuple[int, dict[str, int]]:
    return await changes.last(connection), await progress.counts(connection)
