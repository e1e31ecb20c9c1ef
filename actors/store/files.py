"""The rows of files: who may remove the bytes.

Bytes and rows cannot change in one transaction, so the row is the lock. Whoever takes a document in, deletes one, or
sweeps, holds the row of its content until his transaction ends, and looks at the bytes only then. So of a deletion and
an upload of the same content, in whatever order they come, either the deletion finds the new document and leaves the
bytes alone, or the upload finds that they have gone and puts them there again. Bytes without a document can be left
behind by a crash, for the sweep; a document without bytes cannot.

The row is held first of all in a transaction that needs it, before documents, jobs and the change number: those who
wait for each other in one order never deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.store.blobs import Blobs, Stored
from actors.store.dialect import insert_new
from actors.store.tables import contents, documents

_USED = select(literal(1)).where(documents.c.sha256 == contents.c.sha256).exists()


async def hold(connection: AsyncConnection, sha256: str) -> None:
    """Keep everybody else from the content until the transaction ends, whether or not it has a row yet."""
    row = select(contents.c.sha256).where(contents.c.sha256 == sha256).with_for_update()
    while (await connection.execute(row)).first() is None:
        if await insert_new(connection, contents, {"sha256": sha256}):
            return


async def hold_used(connection: AsyncConnection, sha256: str) -> bool:
    """The same for a content that must be a document's; whether it is one."""
    await hold(connection, sha256)
    if await in_use(connection, sha256):
        return True
    await connection.execute(delete(contents).where(contents.c.sha256 == sha256))
    return False


async def in_use(connection: AsyncConnection, sha256: str) -> bool:
    """Whether a document is this file."""
    found = await connection.execute(select(documents.c.id).where(documents.c.sha256 == sha256).limit(1))
    return found.first() is not None


async def drop_unused(
    connection: AsyncConnection, *, blobs: Blobs, sha256: str, before: float | None = None
) -> Stored | None:
    """Remove a file that no document is, with its row.

    Args:
        connection: in a transaction of its own, after the one that removed the document: if a commit failed after the
            bytes had gone, a document would be left without.
        blobs: where the file is.
        sha256: of the content.
        before: a file that was put there later is left alone, s since the epoch: it may be that of an upload under way.

    Returns:
        What was removed; None if there was nothing to remove.
    """
    await hold(connection, sha256)
    if await in_use(connection, sha256):
        return None
    stored = await blobs.stat(sha256)
    if stored is not None and before is not None and stored.modified > before:
        stored = None
    elif stored is not None:
        await blobs.remove(sha256)
    await connection.execute(delete(contents).where(contents.c.sha256 == sha256))
    return stored


async def unused(connection: AsyncConnection, prefix: str) -> list[str]:
    """Contents on one shelf that have a row and no document: their deletion was cut short."""
    shelf = contents.c.sha256.between(prefix, f"{prefix}g")
    return list((await connection.execute(select(contents.c.sha256).where(shelf, ~_USED))).scalars())


async def unknown(connection: AsyncConnection, addresses: Sequence[str]) -> list[str]:
    """Those of up to 500 addresses that are no document's."""
    rows = await connection.execute(select(documents.c.sha256).where(documents.c.sha256.in_(addresses)))
    known = set(rows.scalars())
    return [sha256 for sha256 in addresses if sha256 not in known]
