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
from actors.errors import GatherumError, InvalidInput, Unavailable
from actors.messages import (
    Accepted,
    Change,
    Document,
    EntityName,
    Health,
    Job,
    Lease,
    Lookup,
    Page,
    PageReading,
    PublishedDocument,
    Removed,
    Row,
    Source,
    SourceValue,
    Upload,
)
from actors.reading import PIPELINE
from actors.sql.sources import Sources
from actors.store import blobs, changes, dialect, documents, jobs, sources
from actors.store import readings as reading_rows
from actors.store.engine import Store
from config import logs
from config.settings import DatabaseSettings, SourcesSettings

T = TypeVar("T")

MAX_LIMIT = 1000
"""Most documents that are listed at once."""

FOLLOW_S = 1.0
"""How often a waiting follower looks for changes that another process has made, s."""

STALE_UPLOAD_S = 3600.0
"""Temporary files of uploads that were not written to for this long are removed at start, s."""


class Database:
    """The store.

    Args:
        settings: its section.
        sources: the section of the registered SQL databases.
        url: SQLAlchemy URL of the store.
        blob_dir: folder of the content-addressed files.
        max_attempts: attempts of each new job.
    """

    ROLE: ClassVar[str] = "database"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset(
        {
            "accept",
            "add_source",
            "changes",
            "collections",
            "commit_pages",
            "create_collection",
            "document",
            "documents",
            "entity_names",
            "fail",
            "health",
            "heartbeat",
            "job",
            "last_change",
            "lookup_many",
            "page",
            "publish",
            "published",
            "published_document",
            "release",
            "source_values",
            "sources",
        }
    )

    def __init__(
        self, settings: DatabaseSettings, sources: SourcesSettings, *, url: str, blob_dir: Path, max_attempts: int
    ) -> None:
        self._settings = settings
        self._url = dialect.parse_url(url)
        self._blob_dir = blob_dir
        self._max_attempts = max_attempts
        self._sources = Sources(sources, store_path=dialect.file_of(self._url))
        self._opened: Store | None = None
        self._revision = ""
        # Set, and replaced by a new one, whenever this process has committed a change.
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Make the folders, apply the migrations, clear away what interrupted uploads have left.

        Raises:
            Conflict: the database was written by a newer version of this code.
            Unavailable: the database cannot be opened.
        """
        path = dialect.file_of(self._url)
        if path is not None:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await blobs.prepare(self._blob_dir)
        self._revision = await asyncio.to_thread(_migrate, self._url, self._settings.busy_timeout_s)
        # Building an engine loads modules and looks at paths.
        self._opened = await asyncio.to_thread(Store, self._url, busy_timeout_s=self._settings.busy_timeout_s)
        swept = await blobs.sweep(self._blob_dir, older_than_s=STALE_UPLOAD_S)
        logs.get().info("database_ready", revision=self._revision, stale_uploads_removed=swept)

    async def stop(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def health(self, *, deadline: Deadline) -> Health:
        """Whether the store answers, and how fast."""
        detail: dict[str, Any] = {"dialect": self._url.get_backend_name(), "revision": self._revision}
        began = time.perf_counter()
        try:
            change, waiting = await self._read(_figures, deadline, "the health check")
            detail |= {"round_trip_ms": round((time.perf_counter() - began) * 1000, 2), "change": change}
            detail["jobs"] = waiting
        except GatherumError as error:
            detail["error"] = error.detail
        return Health(self.ROLE, "error" not in detail, os.getpid(), socket.gethostname(), detail)

    # --- documents ---------------------------------------------------------------------------------------------------

    async def accept(self, upload: Upload, *, deadline: Deadline) -> Accepted:
        """Take an upload in and queue its reading. The same file in the same collection is a duplicate.

        Raises:
            InvalidInput: the collection's name is no name.
            Unavailable: the file is not in the blob store (any more); send it again.
        """

        async def work(connection: AsyncConnection, now: float) -> Accepted:
            accepted = await documents.accept(
                connection, now, upload, pipeline=PIPELINE, max_attempts=self._max_attempts
            )
            # Looked at inside the transaction: `delete_document` removes files in one, so they cannot cross.
            if not await blobs.exists(self._blob_dir, upload.sha256):
                raise Unavailable("The file was removed while it was being taken in; send it again.")
            return accepted

        accepted = await self._write(work, deadline, "taking in a document")
        self._tell()
        return accepted

    async def documents(
        self, collection: str | None, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[Document], str | None]:
        """Up to `limit` documents past the id `after`, oldest first, and the id to go on from (None at the end).

        More than 1000 are not given at once.

        Raises:
            UnknownCollection: there is none of this name.
        """
        work = partial(documents.page_of, collection=collection, after=after, limit=min(_limit(limit), MAX_LIMIT))
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
            return await reading_rows.page(connection, document.sha256, document.pipeline, number)

        return reading_rows.unpack_page(await self._read(work, deadline, "finding a page"))

    async def delete_document(self, document_id: str, *, deadline: Deadline) -> Removed:
        """Remove a document with all that was read from it, except what another document with the same content shares.

        Returns:
            What was removed; `indexed_chunks` is 0, since indexes follow by the change log.

        Raises:
            UnknownDocument: there is none of this id.
        """

        async def work(connection: AsyncConnection, now: float) -> tuple[Removed, str]:
            document = await documents.find(connection, document_id)
            removed_jobs = await jobs.remove(connection, document_id)
            removed = await documents.remove(connection, document_id)
            rows = reading_rows.RemovedRows(0, 0, 0)
            if not await documents.users_of(connection, document.sha256):
                rows = await reading_rows.remove(connection, document.sha256)
            entry = Change(0, "delete", document_id=document_id, collection=document.collection)
            change = await changes.draw(connection, now, entry)
            report = Removed(
                document_id=document_id,
                documents=removed,
                jobs=removed_jobs,
                pages=rows.pages,
                chunks=rows.chunks,
                mentions=rows.mentions,
                blobs=0,
                indexed_chunks=0,
                change=change.number,
            )
            return report, document.sha256

        async def drop_file(connection: AsyncConnection, now: float) -> int:
            # A transaction of its own, after the rows are gone for good: a failed commit must not cost a file in use,
            # and while this one is open nobody can take the same file in again.
            if await documents.users_of(connection, sha256):
                return 0
            return int(await blobs.remove(self._blob_dir, sha256))

        report, sha256 = await self._write(work, deadline, "deleting a document")
        self._tell()
        return replace(report, blobs=await self._write(drop_file, deadline, "deleting a file"))

    async def collections(self, *, deadline: Deadline) -> list[str]:
        """Names of the collections, in order."""
        return await self._read(documents.collection_names, deadline, "listing collections")

    async def create_collection(self, name: str, *, deadline: Deadline) -> None:
        """Make sure that a collection exists.

        Raises:
            InvalidInput: not a name.
        """
        work = partial(documents.ensure_collection, name=name)
        await self._write(work, deadline, "creating a collection")
        self._tell()

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str, *, deadline: Deadline) -> Job:
        """A job.

        Raises:
            UnknownJob: there is none of this id.
        """
        return await self._read(partial(jobs.find, job_id=job_id), deadline, "finding a job")

    async def claim(self, worker: str, lease_s: float, *, deadline: Deadline) -> Lease | None:
        """Take the next job for `lease_s` seconds; None if there is nothing to do. The attempt counts from here."""
        return await self._write(partial(jobs.claim, worker=worker, lease_s=lease_s), deadline, "claiming a job")

    async def heartbeat(self, job_id: str, fence: int, lease_s: float, *, deadline: Deadline) -> None:
        """Prolong a lease to `lease_s` seconds from now.

        Raises:
            StaleLease: the job is no longer held with this fence. The same goes for all calls that name one.
        """
        work = partial(jobs.heartbeat, job_id=job_id, fence=fence, lease_s=lease_s)
        await self._write(work, deadline, "a heartbeat")

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
        return await self._write(work, deadline, "storing pages")

    async def publish(self, job_id: str, fence: int, *, deadline: Deadline) -> Change:
        """Make a document that was read visible. Repeated with the same fence, it gives the same change again.

        Raises:
            StaleLease: see `heartbeat`.
            Conflict: pages are missing.
            ReadingFailed: none of its pages could be read; the job is still held, and its holder should `fail` it.
        """
        change = await self._write(partial(jobs.publish, job_id=job_id, fence=fence), deadline, "publishing")
        self._tell()
        return change

    async def fail(self, job_id: str, fence: int, error: str, retry_in_s: float | None, *, deadline: Deadline) -> None:
        """End an attempt with an error, to be tried again in `retry_in_s` seconds if an attempt is left; never if None.

        Raises:
            StaleLease: see `heartbeat`.
        """
        work = partial(jobs.fail, job_id=job_id, fence=fence, error=error, retry_in_s=retry_in_s)
        await self._write(work, deadline, "ending an attempt")

    async def release(self, job_id: str, fence: int, *, deadline: Deadline) -> None:
        """Give a job back at once and without costing it an attempt: its worker is stopping.

        Raises:
            StaleLease: see `heartbeat`.
        """
        await self._write(partial(jobs.release, job_id=job_id, fence=fence), deadline, "giving a job back")

    # --- what indexes follow -----------------------------------------------------------------------------------------

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        """Up to `limit` changes past the number `after`, waiting up to `wait_s` seconds for the first."""
        until = deadline.reserve(0.05).within(wait_s)
        work = partial(changes.after, number=after, limit=_limit(limit))
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

    async def published(self, after: str | None, limit: int, *, deadline: Deadline) -> list[PublishedDocument]:
        """Up to `limit` published documents past the id `after`, with their chunks; fewer than `limit` at the end.

        To fill an index: ask for `last_change` first, read all pages of this, then follow `changes` from there.
        """
        rows = await self._read(
            partial(reading_rows.published, after=after, limit=_limit(limit)), deadline, "reading documents"
        )
        return await asyncio.to_thread(reading_rows.unpack_documents, *rows)

    async def published_document(self, document_id: str, *, deadline: Deadline) -> PublishedDocument | None:
        """One of them; None if there is none of this id, or it is not published."""
        work = partial(reading_rows.published_document, document_id=document_id)
        rows = await self._read(work, deadline, "reading a document")
        found = await asyncio.to_thread(reading_rows.unpack_documents, *rows)
        return found[0] if found else None

    async def entity_names(self, after: int, limit: int, *, deadline: Deadline) -> list[EntityName]:
        """Up to `limit` names past the id `after` that a published document mentions; fewer than `limit` at the end.

        A name is given its id when it is first read, which may be long before it is published: ids are for paging
        through all names, not for following new ones.
        """
        work = partial(reading_rows.entity_names, after=after, limit=_limit(limit))
        return await self._read(work, deadline, "reading names")

    # --- SQL sources -------------------------------------------------------------------------------------------------

    async def add_source(self, source: Source, *, deadline: Deadline) -> None:
        """Register an SQL database, after a look whether it can be read. The very same one again is no error.

        Raises:
            InvalidInput: not a name.
            Conflict: another source has the name.
            GatherumError: what `Sources.check` found wrong with it.
        """
        documents.check_name(source.name, "source")
        await deadline.run(self._sources.check(source), "checking a source")
        await self._write(partial(sources.add, source=source), deadline, "registering a source")
        self._tell()

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        """The registered sources, by name."""
        return await self._read(sources.every, deadline, "listing sources")

    async def remove_source(self, name: str, *, deadline: Deadline) -> None:
        """Forget a source; its database is not touched.

        Raises:
            UnknownSource: there is none of this name.
        """
        await self._write(partial(sources.remove, name=name), deadline, "removing a source")
        self._tell()

    async def source_values(self, name: str, *, deadline: Deadline) -> list[SourceValue]:
        """The name-like values of a source.

        Raises:
            UnknownSource: there is none of this name.
        """
        source = await self._read(partial(sources.find, name=name), deadline, "finding a source")
        return await deadline.run(self._sources.values(source), "reading a source")

    async def lookup_many(self, lookups: list[Lookup], *, deadline: Deadline) -> list[list[Row] | GatherumError]:
        """Rows for each look-up, or what went wrong with it, in order."""
        known = {source.name: source for source in await self.sources(deadline=deadline)}
        return await self._sources.lookup_many(known, lookups, deadline)

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise Unavailable("The store is not open yet; try again.")
        return self._opened

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]], deadline: Deadline, what: str) -> T:
        deadline.check(what)
        return await self._within(self._store.read(work), deadline, what)

    async def _write(self, work: Callable[[AsyncConnection, float], Awaitable[T]], deadline: Deadline, what: str) -> T:
        deadline.check(what)
        return await self._within(self._store.write(work), deadline, what)

    async def _within(self, unit: Awaitable[T], deadline: Deadline, what: str) -> T:
        return await deadline.within(self._settings.statement_timeout_s).run(unit, what[0].upper() + what[1:])

    def _tell(self) -> None:
        """Wake those that wait for changes."""
        news, self._news = self._news, asyncio.Event()
        news.set()


def _migrate(url: URL, busy_timeout_s: float) -> str:
    # Alembic costs 0.2 s and 10 MB, which only a process that plays the role needs to spend.
    from actors.store import migrations

    return migrations.upgrade(url, busy_timeout_s=busy_timeout_s)


async def _figures(connection: AsyncConnection) -> tuple[int, dict[str, int]]:
    return await changes.last(connection), await jobs.counts(connection)


def _limit(limit: int) -> int:
    if limit < 1:
        raise InvalidInput("The limit must be at least 1.")
    return limit
