"""Jobs: which document is to be read, by whom, how often it was tried.

A job is claimed by compare-and-swap on its *fence*, a number that grows whenever it changes hands. Everything a worker
commits names the fence it claimed with and is refused once that has moved on, so a worker that was slow, cut off or
presumed dead can do no harm. Attempts are counted at the claim: a document that kills its reader is given up all the
same. What each event leads to is decided in `lifecycle.py`, and who is next in `queue.py`; this module carries it out.

A worker may hold a job past its lease as long as nobody else has claimed it: the lease only says when others may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict, ReadingFailed, StaleLease, UnknownJob
from actors.messages import Change, JobState, Lease
from actors.store import changes, lifecycle, queue, readings, upkeep
from actors.store.dialect import insert_new
from actors.store.lifecycle import PUBLISHED, JobRow
from actors.store.rows import JOB_ROW, AnyRow, job_row, storable
from actors.store.tables import documents, jobs
from config import logs

SUPERSEDED = "A newer version of the reading pipeline has a job of its own for the document."


@dataclass(frozen=True, slots=True)
class Held:
    """A job its caller is known to hold, for the rest of the transaction.

    Attributes:
        published: version of the pipeline whose reading the document shows now; None before the first.
    """

    job_id: str
    document_id: str
    collection: str
    sha256: str
    pipeline: int
    published: int | None
    pages: int
    lane: int
    turn: int
    row: JobRow


async def create(
    connection: AsyncConnection,
    now: float,
    *,
    job_id: str,
    document_id: str,
    collection: str,
    pipeline: int,
    max_attempts: int,
    priority: int = 0,
) -> bool:
    """Queue the reading of a document. `dedup_key` holds it to one job for each version of the pipeline.

    Returns:
        Whether it was queued; False if there is such a job already.
    """
    lane = queue.lane_of(priority)
    row = {
        "id": job_id,
        "document_id": document_id,
        "dedup_key": _dedup_key(document_id, pipeline),
        "state": "queued",
        "pipeline": pipeline,
        "run_at": now,
        "attempt": 0,
        "max_attempts": max_attempts,
        "fence": 0,
        "created_at": now,
        "updated_at": now,
        "collection": collection,
        "lane": lane,
        "turn": await queue.turn(connection, now, collection, lane),
    }
    return await insert_new(connection, jobs, row)


async def of_document(connection: AsyncConnection, document_id: str) -> str:
    """Id of a document's newest job."""
    newest = select(jobs.c.id).where(jobs.c.document_id == document_id).order_by(jobs.c.created_at.desc()).limit(1)
    job_id: str = (await connection.execute(newest)).scalar_one()
    return job_id


# --- what workers do -------------------------------------------------------------------------------------------------


async def claim(
    connection: AsyncConnection, now: float, *, worker: str, lease_s: float, pipeline: int, gone_first: bool = True
) -> Lease | None:
    """Take the next job, ending those on the way that have no attempt left; None if there is nothing to do.

    Args:
        connection: in a transaction that writes.
        now: the database's clock.
        worker: its name.
        lease_s: how long others may not claim it, s.
        pipeline: the version that the worker reads with. A job of an older one becomes one of this.
        gone_first: take jobs whose worker has gone before those in the queue, not after them.

    A job without a document, which should not be, is removed: it would be in the way of all behind it.
    """
    while (row := await _next(connection, now, pipeline, gone_first)) is not None:
        if row.sha256 is None:
            # Looked for again: MySQL finds the job as it is, and the document as of the moment the statement began.
            if not await _has_document(connection, row.document_id):
                await connection.execute(jobs.delete().where(jobs.c.id == row.id))
                logs.get().warning("job_without_document", job=row.id)
            continue
        seen = job_row(row)
        after = lifecycle.claimed(seen, now, lease_s)
        if after.state == "failed":
            if not await _swap(connection, now, row.id, seen, after, worker=worker[:100]):
                return None
            await _set_document_state(connection, row.document_id, "failed")
            continue
        more: dict[str, Any] = {"worker": worker[:100]}
        if row.pipeline < pipeline:
            key = _dedup_key(row.document_id, pipeline)
            if (await connection.execute(select(jobs.c.id).where(jobs.c.dedup_key == key))).first():
                superseded = lifecycle.cancelled(seen, SUPERSEDED)
                await _swap(connection, now, row.id, seen, superseded)
                continue
            # Pages of two versions do not make one reading: those of the older one are left behind.
            await upkeep.supersede(connection, row.sha256, row.pipeline)
            more |= {"pipeline": pipeline, "dedup_key": key}
        missing = tuple(range(1, row.pages + 1))
        if row.read:
            # What was to be removed is looked at when it is gone, or stays.
            await upkeep.keep(connection, row.sha256, pipeline)
            missing = await readings.missing(connection, row.sha256, pipeline, row.pages)
        more["read_before"] = row.pages - len(missing)
        if not await _swap(connection, now, row.id, seen, after, **more):
            # Only where SKIP LOCKED is missing: another worker was faster. The next poll will do.
            return None
        return Lease(
            job_id=row.id,
            document_id=row.document_id,
            sha256=row.sha256,
            collection=row.collection,
            fence=after.fence,
            attempt=after.attempt,
            last=after.attempt >= after.max_attempts,
            pages=row.pages,
            missing=missing,
            chars=await readings.chars(connection, row.sha256, pipeline) if len(missing) < row.pages else 0,
        )
    return None


async def is_held(connection: AsyncConnection, lease: Lease, worker: str) -> bool:
    """Whether a lease is in force, and this worker's: another one may have claimed the job with the same fence."""
    mine = (jobs.c.id == lease.job_id, jobs.c.fence == lease.fence, jobs.c.worker == worker[:100])
    return (await connection.execute(select(jobs.c.id).where(*mine, jobs.c.state == "reading"))).first() is not None


async def hold(connection: AsyncConnection, now: float, job_id: str, fence: int) -> Held:
    """Check the fence and keep the job from being claimed until the transaction ends: first in a worker's every commit.

    Raises:
        StaleLease: the job was claimed by another worker, has ended, or was deleted.
    """
    columns = (jobs.c.document_id, jobs.c.pipeline, jobs.c.lane, jobs.c.turn, *JOB_ROW)
    row = (await connection.execute(select(*columns).where(jobs.c.id == job_id).with_for_update())).first()
    if row is None or not lifecycle.holds(job_row(row), fence):
        raise StaleLease("The job is no longer held with this fence.")
    found = await connection.execute(select(documents).where(documents.c.id == row.document_id))
    document = found.one()
    return Held(
        job_id=job_id,
        document_id=document.id,
        collection=document.collection,
        sha256=document.sha256,
        pipeline=row.pipeline,
        published=document.pipeline,
        pages=document.pages,
        lane=row.lane,
        turn=row.turn,
        row=job_row(row),
    )


async def heartbeat(connection: AsyncConnection, now: float, *, job_id: str, fence: int, lease_s: float) -> None:
    """Prolong a lease.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    await _swap(connection, now, job_id, held.row, lifecycle.prolonged(held.row, now, lease_s))


async def commit_pages(
    connection: AsyncConnection, now: float, *, job_id: str, fence: int, packed: readings.Packed
) -> int:
    """Store pages that were read. Pages already there are left alone, with their chunks and mentions.

    Returns:
        Pages of the document that are in, now.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    await readings.add(connection, held.sha256, held.pipeline, packed)
    return await readings.count(connection, held.sha256, held.pipeline)


async def publish(connection: AsyncConnection, now: float, *, job_id: str, fence: int) -> Change:
    """Make the document visible: its chunks, mentions and a change number, together.

    However many pages it has, this writes a handful of rows: the document is pointed at a reading that is there. One
    that showed an older reading shows this one from here on.

    Returns:
        The change. Repeated with the same fence, because an answer got lost, it is the same one again.

    Raises:
        StaleLease: see `hold`.
        Conflict: pages are missing.
        ReadingFailed: no page could be read, or fewer than in the reading that is shown; nothing was changed.
    """
    try:
        held = await hold(connection, now, job_id, fence)
    except StaleLease:
        before = await _published_with(connection, job_id, fence)
        if before is None:
            raise
        return before
    # Before the pages are counted: see `upkeep.prune`.
    await upkeep.keep(connection, held.sha256, held.pipeline)
    done = await readings.count(connection, held.sha256, held.pipeline)
    if done < held.pages:
        raise Conflict(f"{held.pages - done} of {held.pages} pages are not read yet.")
    unread = await readings.errors(connection, held.sha256, held.pipeline)
    if len(unread) == held.pages:
        raise ReadingFailed(f"None of the {held.pages} pages could be read. Page {unread[0][0]}: {unread[0][1]}")
    if held.published is not None and held.published != held.pipeline:
        lost = len(unread) - len(await readings.errors(connection, held.sha256, held.published))
        if lost > 0:
            raise ReadingFailed(f"The newer pipeline could not read {lost} more pages: the earlier reading stays.")
        await upkeep.supersede(connection, held.sha256, held.published)
    state: JobState = "done"
    error = None
    if unread:
        state = "partial"
        listed = "; ".join(f"page {number}: {why}" for number, why in unread[:3])
        error = f"{len(unread)} of {held.pages} pages could not be read: {listed}"[: lifecycle.MAX_ERROR_CHARS]
    await _swap(connection, now, job_id, held.row, lifecycle.finished(held.row, state, error))
    await connection.execute(
        update(documents).where(documents.c.id == held.document_id).values(state=state, pipeline=held.pipeline)
    )
    sharers = await _sharers(connection, held)
    for document_id, _ in sharers:
        await connection.execute(update(documents).where(documents.c.id == document_id).values(state=state))
    # The counter after every document: a deletion holds its document and then waits for the counter.
    for document_id, collection in sharers:
        await changes.draw(connection, now, Change(0, "publish", document_id=document_id, collection=collection))
    change = Change(0, "publish", document_id=held.document_id, collection=held.collection)
    return await changes.draw(connection, now, change)


async def fail(
    connection: AsyncConnection, now: float, *, job_id: str, fence: int, error: str, retry_in_s: float | None
) -> None:
    """End an attempt with an error. With `retry_in_s` None, or no attempt left, the document has failed.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    after = lifecycle.failed(held.row, now, storable(error), retry_in_s)
    if after.state == "failed":
        await _swap(connection, now, job_id, held.row, after)
        await _set_document_state(connection, held.document_id, "failed")
    else:
        await _back_in_the_queue(connection, now, held, after)


async def release(connection: AsyncConnection, now: float, *, job_id: str, fence: int) -> None:
    """Give a job back at once, and the attempt with it.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    await _back_in_the_queue(connection, now, held, lifecycle.released(held.row, now))


# --- what owners do --------------------------------------------------------------------------------------------------


async def cancel(connection: AsyncConnection, now: float, job_id: str) -> None:
    """Stop a job: one that waits at once; the worker of one that is read finds out at its next commit or heartbeat.

    A document that was published stays as it is.

    Raises:
        UnknownJob: there is none of this id.
        Conflict: it has ended.
    """
    row = await _locked(connection, job_id)
    seen = job_row(row)
    await _swap(connection, now, job_id, seen, lifecycle.cancelled(seen))
    await _set_document_state(connection, row.document_id, "cancelled")


async def retry(connection: AsyncConnection, now: float, job_id: str, *, pipeline: int) -> None:
    """Start a failed, cancelled or partial job again; pages that could not be read are tried again too.

    One that waits or is being read already is left alone.

    Args:
        connection: in a transaction that writes.
        now: the database's clock.
        job_id: of the job.
        pipeline: the newest version: only of a reading with it are pages worth another try.

    Raises:
        UnknownJob: there is none of this id.
        Conflict: it is done.
    """
    row = await _locked(connection, job_id)
    seen = job_row(row)
    after = lifecycle.retried(seen, now)
    if after == seen:
        return
    turn = await queue.turn(connection, now, row.collection, row.lane)
    await _swap(connection, now, job_id, seen, after, turn=turn)
    if row.pipeline == pipeline:
        await readings.forget_errors(connection, row.sha256, row.pipeline)
    await _set_document_state(connection, row.document_id, "queued")


async def require(
    connection: AsyncConnection,
    now: float,
    *,
    job_id: str,
    document_id: str,
    collection: str,
    pipeline: int,
    max_attempts: int,
) -> None:
    """See to it that a document is read, even if a job has ended well: something of what it read was lost since.

    Takes what `create` takes; `job_id` is for a new job, where there is none for the version yet.
    """
    new = await create(
        connection,
        now,
        job_id=job_id,
        document_id=document_id,
        collection=collection,
        pipeline=pipeline,
        max_attempts=max_attempts,
    )
    if new:
        return
    key = _dedup_key(document_id, pipeline)
    found = await connection.execute(
        select(jobs.c.id, jobs.c.lane, *JOB_ROW).where(jobs.c.dedup_key == key).with_for_update()
    )
    row = found.one()
    seen = job_row(row)
    if seen.state in lifecycle.AT_REST:
        turn = await queue.turn(connection, now, collection, row.lane)
        again = lifecycle.retried(replace(seen, state="failed"), now)
        await _swap(connection, now, row.id, seen, again, turn=turn)


async def pipelines(connection: AsyncConnection, document_id: str) -> set[int]:
    """The versions that a document has jobs for."""
    rows = await connection.execute(select(jobs.c.pipeline).where(jobs.c.document_id == document_id))
    return set(rows.scalars())


async def remove(connection: AsyncConnection, document_id: str) -> int:
    """Remove a document's jobs; a worker that holds one finds out at its next commit. Returns how many there were."""
    return (await connection.execute(jobs.delete().where(jobs.c.document_id == document_id))).rowcount


# ---------------------------------------------------------------------------------------------------------------------

_OWN = documents.c.id == jobs.c.document_id
_TO_CLAIM = (
    jobs.c.id,
    jobs.c.document_id,
    jobs.c.pipeline,
    jobs.c.collection,
    *JOB_ROW,
    # In the same round trip: of the document, whose row a join would lock too, and how much of it has been read.
    select(documents.c.sha256).where(_OWN).scalar_subquery().label("sha256"),
    select(documents.c.pages).where(_OWN).scalar_subquery().label("pages"),
    readings.counted(_OWN, bindparam("pipeline")).label("read"),
)
# Built once: to build them takes as long as to carry them out.
_GONE, _DUE = queue.gone(*_TO_CLAIM), queue.due(*_TO_CLAIM)
_SWAP = update(jobs).where(
    jobs.c.id == bindparam("of"), jobs.c.fence == bindparam("seen_fence"), jobs.c.state == bindparam("seen_state")
)


async def _next(connection: AsyncConnection, now: float, pipeline: int, gone_first: bool) -> AnyRow | None:
    """The next job that may be claimed, locked: one whose worker has gone, or the first in the queue."""
    for statement in (_GONE, _DUE) if gone_first else (_DUE, _GONE):
        row: AnyRow | None = (await connection.execute(statement, {"now": now, "pipeline": pipeline})).first()
        if row is not None:
            return row
    return None


async def _has_document(connection: AsyncConnection, document_id: str) -> bool:
    return (await connection.execute(select(documents.c.id).where(documents.c.id == document_id))).first() is not None


def _dedup_key(document_id: str, pipeline: int) -> str:
    return f"{document_id}:{pipeline}"


async def _locked(connection: AsyncConnection, job_id: str) -> AnyRow:
    found = await connection.execute(
        select(jobs.c.pipeline, jobs.c.document_id, jobs.c.collection, jobs.c.lane, documents.c.sha256, *JOB_ROW)
        .join(documents, documents.c.id == jobs.c.document_id)
        .where(jobs.c.id == job_id)
        .with_for_update(of=jobs)
    )
    row = found.first()
    if row is None:
        raise UnknownJob("There is no job of this id.")
    return row


async def _back_in_the_queue(connection: AsyncConnection, now: float, held: Held, after: JobRow) -> None:
    turn = await queue.turn_again(connection, now, held.lane, held.turn)
    await _swap(connection, now, held.job_id, held.row, after, turn=turn)


async def _swap(connection: AsyncConnection, now: float, job_id: str, seen: JobRow, after: JobRow, **more: Any) -> bool:
    """Write `after`, and further columns, over a job that still is as `seen`; whether it was."""
    swapped = await connection.execute(
        _SWAP,
        {
            "of": job_id,
            "seen_fence": seen.fence,
            "seen_state": seen.state,
            "state": after.state,
            "run_at": after.run_at,
            "attempt": after.attempt,
            "lease_until": after.lease_until,
            "fence": after.fence,
            "error": after.error,
            "updated_at": now,
            **more,
        },
    )
    return swapped.rowcount == 1


async def _published_with(connection: AsyncConnection, job_id: str, fence: int) -> Change | None:
    """The change of a job that ended well under this very fence."""
    found = await connection.execute(
        select(jobs.c.document_id).where(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.state.in_(PUBLISHED))
    )
    document_id = found.scalar_one_or_none()
    return None if document_id is None else await changes.publication(connection, document_id)


async def _sharers(connection: AsyncConnection, held: Held) -> Sequence[AnyRow]:
    """Other documents that show this reading with pages missing, which it may have by now: indexes must hear of it."""
    found = await connection.execute(
        select(documents.c.id, documents.c.collection)
        .where(
            documents.c.sha256 == held.sha256,
            documents.c.pipeline == held.pipeline,
            documents.c.state == "partial",
            documents.c.id != held.document_id,
        )
        .order_by(documents.c.id)
    )
    return found.all()


async def _set_document_state(connection: AsyncConnection, document_id: str, state: str) -> None:
    """Of a document that shows nothing yet; a published one stays what it is, whatever becomes of a new reading."""
    unpublished = documents.c.pipeline.is_(None)
    await connection.execute(update(documents).where(documents.c.id == document_id, unpublished).values(state=state))
