"""Documents and the collections they belong to."""

from __future__ import annotations

import re
import secrets
from pathlib import PurePath

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import InvalidInput, UnknownCollection, UnknownDocument
from actors.messages import Accepted, Change, Document, Upload
from actors.store import changes, files, jobs, keys
from actors.store.dialect import insert_new
from actors.store.rows import AnyRow, iso, storable, storable_json
from actors.store.tables import collections, documents

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_TITLE_CHARS = 500


def check_name(name: str, what: str) -> None:
    """Check a name that a person gave.

    Raises:
        InvalidInput: it is not 1 to 100 letters, digits, dots, hyphens and underscores with a letter or digit first.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"The name of a {what} has 1 to 100 letters, digits, '.', '_' or '-', and begins with a letter or digit."
        )


def new_id(now: float) -> str:
    """A new id: 32 hex digits, the first 12 of them the time in ms, the rest by chance.

    So ids sort by age, lists can be paged by id alone, and new rows go to the end of the index.
    """
    return f"{int(now * 1000):012x}{secrets.token_hex(10)}"


def title_of(upload: Upload) -> str:
    """What to call the document: by its own title, else by its file name."""
    title = " ".join(upload.info.title.split()) or PurePath(upload.filename).stem.strip() or "Untitled"
    return storable(title)[:MAX_TITLE_CHARS]


async def ensure_collection(connection: AsyncConnection, now: float, name: str) -> Change | None:
    """Create a collection; None if it is there already.

    Raises:
        InvalidInput: not a name.
    """
    check_name(name, "collection")
    # Held, so that it is not deleted before what goes into it is in.
    there = select(collections.c.name).where(collections.c.name == name).with_for_update(read=True, key_share=True)
    while (await connection.execute(there)).first() is None:
        if await insert_new(connection, collections, {"name": name, "created_at": now}):
            return await changes.draw(connection, now, Change(0, "collection", collection=name))
    return None


async def collection_names(connection: AsyncConnection) -> list[str]:
    """All of them, in order."""
    return list((await connection.execute(select(collections.c.name).order_by(collections.c.name))).scalars())


async def accept(
    connection: AsyncConnection,
    now: float,
    upload: Upload,
    *,
    pipeline: int,
    max_attempts: int,
    document_id: str | None = None,
) -> Accepted:
    """Take a document in and queue its reading; the same file in the same collection is the same document.

    From here until the transaction ends nobody else can remove the file.

    A duplicate of a document whose reading had failed or was cancelled starts it again. An upload under a key that was
    used before gets the answer of then, and nothing else happens.

    Args:
        connection: in a transaction that writes.
        now: the database's clock.
        upload: the file, which is in the blob store, and what the client says of it.
        pipeline: version to read with.
        max_attempts: of the job.
        document_id: a new id, by default drawn here. Found to be there already, it shows that this very call was
            committed before.

    Raises:
        InvalidInput: the collection's name is no name.
        KeyReused: the key was used for another upload.
    """
    document_id = document_id or new_id(now)
    await files.hold(connection, upload.sha256)
    if not upload.idempotency_key:
        return await _accept(connection, now, upload, document_id, pipeline, max_attempts)
    before = await keys.claim(connection, now, upload)
    if before is not None:
        return before
    accepted = await _accept(connection, now, upload, document_id, pipeline, max_attempts)
    await keys.settle(connection, upload, accepted)
    return accepted


async def _accept(
    connection: AsyncConnection, now: float, upload: Upload, document_id: str, pipeline: int, max_attempts: int
) -> Accepted:
    await ensure_collection(connection, now, upload.collection)
    created = await insert_new(
        connection,
        documents,
        {
            "id": document_id,
            "collection": upload.collection,
            "sha256": upload.sha256,
            "size": upload.size,
            "title": title_of(upload),
            "filename": storable(PurePath(upload.filename).name)[-500:],
            "pages": upload.info.pages,
            # What the client says of the document counts more than what the file says of itself.
            "metadata": storable_json({**upload.info.metadata, **upload.metadata}),
            "state": "queued",
            "created_at": now,
        },
    )
    if created:
        job_id = new_id(now)
        await jobs.create(
            connection,
            now,
            job_id=job_id,
            document_id=document_id,
            collection=upload.collection,
            pipeline=pipeline,
            max_attempts=max_attempts,
            priority=upload.priority,
        )
        return Accepted(document_id, job_id, duplicate=False)
    there = (
        await connection.execute(
            select(documents.c.id, documents.c.state).where(
                documents.c.collection == upload.collection, documents.c.sha256 == upload.sha256
            )
        )
    ).one()
    job_id = await jobs.of_document(connection, there.id)
    if there.state in ("failed", "cancelled"):
        await jobs.retry(connection, now, job_id, pipeline=pipeline)
    return Accepted(there.id, job_id, duplicate=there.id != document_id)


async def find(connection: AsyncConnection, document_id: str) -> AnyRow:
    """The row of a document.

    Raises:
        UnknownDocument: there is none of this id.
    """
    row = (await connection.execute(select(documents).where(documents.c.id == document_id))).first()
    if row is None:
        raise UnknownDocument("There is no document of this id.")
    return row


async def check_collection(connection: AsyncConnection, name: str) -> None:
    """Refuse a name that no collection has, rather than answer that it is empty.

    Raises:
        UnknownCollection: there is none of this name.
    """
    known = await connection.execute(select(collections.c.name).where(collections.c.name == name))
    if known.first() is None:
        raise UnknownCollection("There is no collection of this name.")


async def page_of(
    connection: AsyncConnection, collection: str | None, after: str | None, limit: int
) -> tuple[list[Document], str | None]:
    """Up to `limit` documents past the id `after`, oldest first, and the id to go on from, None at the end.

    Raises:
        UnknownCollection: there is none of this name.
    """
    query = select(documents).order_by(documents.c.id).limit(limit + 1)
    if after is not None:
        query = query.where(documents.c.id > after)
    if collection is not None:
        await check_collection(connection, collection)
        query = query.where(documents.c.collection == collection)
    found = [as_message(row) for row in await connection.execute(query)]
    more = len(found) > limit
    return found[:limit], found[limit - 1].document_id if more else None


async def remove(connection: AsyncConnection, document_id: str) -> int:
    """Remove the row of a document; how many there were."""
    return (await connection.execute(delete(documents).where(documents.c.id == document_id))).rowcount


def as_message(row: AnyRow) -> Document:
    """A document from its row."""
    return Document(
        document_id=row.id,
        title=row.title,
        filename=row.filename,
        collection=row.collection,
        sha256=row.sha256,
        pages=row.pages,
        state=row.state,
        metadata=row.metadata,
        created_at=iso(row.created_at),
    )
