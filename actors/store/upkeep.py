"""Upkeep: what nobody asks for and has to be done all the same, in short steps that may be broken off anywhere.

When the reading pipeline changes, documents go on showing what an earlier version read, and are queued, a few at a
time and at low priority, to be read again. Publishing the new reading notes the one before in `superseded`; its pages
are removed here, some at a time, because a long document has more of them than a writer should keep others waiting for.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Select, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.store import files, readings
from actors.store.dialect import MAX_PARAMETERS, insert_new
from actors.store.tables import documents, jobs, pages, superseded

PAGES = 100
"""Pages removed in one transaction."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """A document that shows the reading of an older pipeline."""

    document_id: str
    collection: str
    sha256: str


async def outdated(connection: AsyncConnection, pipeline: int, lane: int, limit: int) -> list[Outdated]:
    """Documents to queue for another reading: as many as keep `limit` waiting in their lane, the oldest first.

    They stay until the transaction ends: a job whose document was deleted would be nobody's.

    Those that have a job for the pipeline are left out, however it ended: what failed once is not tried for ever.
    """
    waiting = select(literal(1)).where(jobs.c.state == "queued", jobs.c.lane == lane).limit(limit).subquery()
    room = limit - (await connection.execute(select(func.count()).select_from(waiting))).scalar_one()
    if room <= 0:
        return []
    has_job = select(literal(1)).where(jobs.c.document_id == documents.c.id, jobs.c.pipeline >= pipeline).exists()
    rows = await connection.execute(
        select(documents.c.id, documents.c.collection, documents.c.sha256)
        .where(documents.c.pipeline < pipeline, ~has_job)
        .order_by(documents.c.id)
        .limit(room)
    )
    return await _held(connection, [Outdated(*row) for row in rows])


async def _held(connection: AsyncConnection, found: list[Outdated]) -> list[Outdated]:
    """Those that are still there when their files are held."""
    for sha256 in sorted({document.sha256 for document in found}):
        await files.hold_used(connection, sha256)
    there: set[str] = set()
    ids = [document.document_id for document in found]
    for start in range(0, len(ids), MAX_PARAMETERS):
        some = select(documents.c.id).where(documents.c.id.in_(ids[start : start + MAX_PARAMETERS]))
        there.update((await connection.execute(some)).scalars())
    return [document for document in found if document.document_id in there]


async def supersede(connection: AsyncConnection, sha256: str, pipeline: int) -> None:
    """Note that a reading is to be removed as soon as nothing uses it."""
    await insert_new(connection, superseded, {"sha256": sha256, "pipeline": pipeline})


async def keep(connection: AsyncConnection, sha256: str, pipeline: int) -> None:
    """Take a reading that is about to be shown from those to be removed; a removal under way is waited for."""
    await connection.execute(delete(superseded).where(superseded.c.sha256 == sha256, superseded.c.pipeline == pipeline))


async def prune(connection: AsyncConnection) -> int | None:
    """Remove some pages of one superseded reading that nothing uses, with their chunks and mentions.

    Whoever publishes the reading meanwhile takes it from the list first (`keep`): one of the two waits for the other,
    and then sees what it has done.

    Returns:
        Pages removed; None if there is nothing left to do.
    """
    shown = select(literal(1)).where(
        documents.c.sha256 == superseded.c.sha256, documents.c.pipeline == superseded.c.pipeline
    )
    unused = select(superseded).where(~shown.exists(), ~_being_read().exists())
    reading = (await connection.execute(unused.limit(1))).first()
    if reading is None:
        return None
    # The file before the reading, as everywhere: nobody stores vectors of pages that are going.
    await files.hold(connection, reading.sha256)
    this = (superseded.c.sha256 == reading.sha256, superseded.c.pipeline == reading.pipeline)
    await connection.execute(select(superseded.c.sha256).where(*this).with_for_update())
    # Looked at again, by a statement of its own: now nobody can begin to use it.
    if (await connection.execute(unused.where(*this))).first() is None:
        return 0
    of_it = (pages.c.sha256 == reading.sha256, pages.c.pipeline == reading.pipeline)
    some = await connection.execute(select(pages.c.number).where(*of_it).order_by(pages.c.number).limit(PAGES))
    numbers = list(some.scalars())
    if numbers:
        await readings.remove_pages(connection, reading.sha256, reading.pipeline, numbers)
    if len(numbers) < PAGES:
        await connection.execute(delete(superseded).where(*this))
    return len(numbers)


def _being_read() -> Select[int]:
    """A job that is to publish the superseded reading, from a worker that has not been upgraded yet."""
    mine = documents.alias()
    return (
        select(literal(1))
        .select_from(jobs.join(mine, mine.c.id == jobs.c.document_id))
        .where(
            mine.c.sha256 == superseded.c.sha256,
            jobs.c.pipeline == superseded.c.pipeline,
            jobs.c.state.in_(("queued", "reading")),
        )
    )
