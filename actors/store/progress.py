"""Progress: jobs as their owners see them, alike from every replica, because all of it is in the database.

Pages count when they are committed. Speed and time left follow from those and from the database's clock, so no process
has to have watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import UnknownJob
from actors.messages import Job, JobState
from actors.store import lifecycle
from actors.store.dialect import clock
from actors.store.documents import check_collection
from actors.store.lifecycle import PUBLISHED
from actors.store.queue import priority_in
from actors.store.rows import AnyRow, iso, job_row
from actors.store.tables import changes, documents, jobs, pages


async def find(connection: AsyncConnection, job_id: str) -> Job:
    """A job as its owner sees it.

    Raises:
        UnknownJob: there is none of this id.
    """
    row = (await connection.execute(_views().where(jobs.c.id == job_id))).first()
    if row is None:
        raise UnknownJob("There is no job of this id.")
    return _as_message(row)


async def find_many(connection: AsyncConnection, job_ids: Sequence[str]) -> list[Job]:
    """Those of the jobs that there are, in no particular order."""
    return [_as_message(row) for row in await connection.execute(_views().where(jobs.c.id.in_(job_ids)))]


async def page_of(
    connection: AsyncConnection, states: Sequence[str], collection: str | None, after: str | None, limit: int
) -> tuple[list[Job], str | None]:
    """Up to `limit` jobs past the id `after`, oldest first, and the id to go on from, None at the end.

    Args:
        connection: in a transaction.
        states: of these only; empty for any. Publishing is a part of `reading` here: see `find`.
        collection: of this one only; None for all.
        after: None to begin.
        limit: at least 1.

    Raises:
        UnknownCollection: there is none of this name.
    """
    query = _views().order_by(jobs.c.id).limit(limit + 1)
    if after is not None:
        query = query.where(jobs.c.id > after)
    if states:
        query = query.where(jobs.c.state.in_(states))
    if collection is not None:
        await check_collection(connection, collection)
        query = query.where(jobs.c.collection == collection)
    found = [_as_message(row) for row in await connection.execute(query)]
    more = len(found) > limit
    return found[:limit], found[limit - 1].job_id if more else None


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """Jobs that are not done, by state."""
    rows = await connection.execute(
        select(jobs.c.state, func.count())
        .where(jobs.c.state.in_(("queued", "reading", "partial", "failed", "cancelled")))
        .group_by(jobs.c.state)
    )
    return {state: number for state, number in rows}  # noqa: C416 -- rows are no pairs to the type checker


def _views() -> Select[Any]:
    """Jobs with all that `_as_message` needs. What is published is not counted: all of its pages are in."""
    is_published = jobs.c.state.in_(PUBLISHED)
    read = (
        select(func.count())
        .select_from(pages)
        .where(pages.c.sha256 == documents.c.sha256, pages.c.pipeline == jobs.c.pipeline)
        .scalar_subquery()
    )
    published = (
        select(func.max(changes.c.number))
        .where(changes.c.document_id == jobs.c.document_id, changes.c.kind == "publish")
        .scalar_subquery()
    )
    return select(
        jobs,
        documents.c.filename,
        documents.c.pages,
        case((is_published, documents.c.pages), else_=read).label("done"),
        case((is_published, published)).label("change"),
        clock().label("now"),
    ).join(documents, documents.c.id == jobs.c.document_id)


def _as_message(row: AnyRow) -> Job:
    # Publishing is one short transaction, so there is nothing to store: all is read, and it is not yet visible.
    state: JobState = "publishing" if row.state == "reading" and row.done >= row.pages else row.state
    pace = lifecycle.pace(
        job_row(row), done=row.done, before=row.read_before, total=row.pages, updated_at=row.updated_at, now=row.now
    )
    return Job(
        job_id=row.id,
        document_id=row.document_id,
        state=state,
        pages_done=row.done,
        pages_total=row.pages,
        attempt=row.attempt,
        error=row.error,
        change=row.change,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
        collection=row.collection,
        filename=row.filename,
        priority=priority_in(row.lane),
        pages_per_s=pace.pages_per_s,
        eta_s=pace.eta_s,
    )
