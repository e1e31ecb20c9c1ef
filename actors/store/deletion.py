"""Deletion: every row that a document, or a collection, has left anywhere, and an account of them.

A document goes in two steps: its rows and the change number that tells the indexes, in one transaction, then the bytes,
if no other document is the same file. In between a crash leaves bytes that nothing refers to, which the sweep finds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict, UnknownCollection
from actors.messages import Change, Removed
from actors.store import changes, documents, files, jobs, keys, readings, upkeep
from actors.store.tables import collections
from actors.store.tables import documents as documents_table


@dataclass(frozen=True, slots=True)
class Deleted:
    """A deletion as far as its rows go.

    Attributes:
        report: without the bytes.
        change: that tells of it.
        sha256: of the file.
        mark: for `files.remove`; None where the file stays.
    """

    report: Removed
    change: Change
    sha256: str
    mark: float | None


async def remove_document(connection: AsyncConnection, now: float, document_id: str) -> Deleted:
    """Remove a document, its jobs, and what was read from its file unless another document is the same file.

    A worker that reads it finds its job gone at its next commit: it waits for this transaction or this one for it, and
    what it has committed by then is removed too.

    Raises:
        UnknownDocument: there is none of this id.
    """
    sha256 = (await documents.find(connection, document_id)).sha256
    await files.hold(connection, sha256)
    # Again, now that nobody else can be deleting it.
    document = await documents.find(connection, document_id)
    read_with = await jobs.pipelines(connection, document_id) | {document.pipeline} - {None}
    removed_jobs = await jobs.remove(connection, document_id)
    removed_keys = await keys.remove(connection, document_id)
    removed = await documents.remove(connection, document_id)
    rows = readings.RemovedRows()
    if await files.in_use(connection, sha256):
        # The others may show what another version of the pipeline has read; then nothing else would remove this.
        for pipeline in sorted(read_with):
            await upkeep.supersede(connection, sha256, pipeline)
    else:
        rows = await readings.remove(connection, sha256)
    mark = await files.mark_unused(connection, now, sha256=sha256)
    entry = Change(0, "delete", document_id=document_id, collection=document.collection)
    change = await changes.draw(connection, now, entry)
    report = Removed(
        documents=removed,
        jobs=removed_jobs,
        idempotency_keys=removed_keys,
        pages=rows.pages,
        chunks=rows.chunks,
        mentions=rows.mentions,
        entities=rows.entities,
        change=change.number,
    )
    return Deleted(report, change, sha256, mark)


async def remove_collection(connection: AsyncConnection, now: float, name: str) -> Change:
    """Remove a collection that has become empty. Whoever takes a document into it meanwhile makes it anew.

    Raises:
        UnknownCollection: there is none of this name.
        Conflict: it holds documents.
    """
    row = select(collections.c.name).where(collections.c.name == name).with_for_update()
    if (await connection.execute(row)).first() is None:
        raise UnknownCollection("There is no collection of this name.")
    # Looked at only now: an upload that is being taken in holds the collection too, and was waited for.
    held = select(documents_table.c.id).where(documents_table.c.collection == name).limit(1)
    if (await connection.execute(held)).first() is not None:
        raise Conflict("Documents were added to the collection while it was being deleted. Delete it again.")
    await connection.execute(delete(collections).where(collections.c.name == name))
    return await changes.draw(connection, now, Change(0, "drop", collection=name))
