"""Jobs: which document is to be read, by whom, how often it was tried.

A job is claimed by compare-and-swap on its *fence*, a number that grows at every claim. Everything a worker commits
names the fence it claimed with and is refused once that has moved on, so a worker that was slow, cut off or presumed
dead can do no harm. Attempts are counted at the claim: a document that kills its reader is given up all the same. What
a claim, a failure or an expired lease leads to is decided by pure functions over `JobRow`; the rest of the module
carries it out.

A worker may hold a job past its lease as long as nobody else has claimed it: the lease only says when others may.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict, ReadingFailed, StaleLease, UnknownJob
from actors.messages import Change, Job, JobState, Lease
from actors.store import changes, readings
from actors.store.rows import AnyRow, iso
from actors.store.tables import documents, jobs

PUBLISHED: tuple[JobState, ...] = ("done", "partial")
MAX_ERROR_CHARS = 1000
MAX_BACKOFF_S = 60.0
DIED = "The process that read the document ended on every attempt, without an error."

_JOB_ROW = (
    jobs.c.state,
    jobs.c.run_at,
    jobs.c.attempt,
    jobs.c.max_attempts,
    jobs.c.lease_until,
    jobs.c.fence,
    jobs.c.error,
)


@dataclass(frozen=True, slots=True)
class JobRow:
    """The part of a job that decides what may happen next. Times are those of the database's clock."""

    state: JobState
    run_at: float
    attempt: int
    max_attempts: int
    lease_until: float | None
    fence: int
    error: str | None


def claimed(job: JobRow, now: float, lease_s: float) -> JobRow:
    """What a claim leads to: the next attempt, or the end if there is none left."""
    if job.attempt >= job.max_attempts:
        return replace(job, state="failed", lease_until=None, fence=job.fence + 1, error=job.error or DIED)
    return replace(
        job, state="reading", attempt=job.attempt + 1, lease_until=now + lease_s, fence=job.fence + 1, run_at=now
    )


def failed(job: JobRow, now: float, error: str, retry_in_s: float | None) -> JobRow:
    """What a failed attempt leads to: another one later, or the end if there is none left or it would be of no use."""
    error = error[:MAX_ERROR_CHARS]
    if retry_in_s is None or job.attempt >= job.max_attempts:
        return replace(job, state="failed", lease_until=None, error=error)
    return replace(job, state="queued", lease_until=None, run_at=now + retry_in_s, error=error)


def released(job: JobRow, now: float) -> JobRow:
    """What giving the job back leads to: its worker was told to stop and has not failed, so no attempt is used up."""
    return replace(job, state="queued", lease_until=None, run_at=now, attempt=job.attempt - 1)


def requeued(job: JobRow, now: float) -> JobRow:
    """A job that had ended, from the start. The fence moves on, as it does whenever a job changes hands."""
    return replace(job, state="queued", lease_until=None, run_at=now, attempt=0, fence=job.fence + 1, error=None)


def finished(job: JobRow, state: JobState, error: str | None) -> JobRow:
    """A job whose document is published."""
    return replace(job, state=state, lease_until=None, error=error)


def backoff(base_s: float, attempt: int, dice: random.Random) -> float:
    """Pause before the try after number `attempt`, s: doubling up to a minute, less up to half of it by chance.

    Without the chance, all that failed together would come back together.
    """
    return min(MAX_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 30)) * dice.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Held:
    """A job its caller is known to hold, for the rest of the transaction."""

    job_id: str
    document_id: str
    collection: str
    sha256: str
    pipeline: int
    pages: int
    row: JobRow


async def create(
    connection: AsyncConnection, now: float, *, job_id: str, document_id: str, pipeline: int, max_attempts: int
) -> None:
    """Queue the reading of a document. `dedup_key` holds it to one job for each version of the pipeline."""
    await connection.execute(
        insert(jobs).values(
            id=job_id,
            document_id=document_id,
            dedup_key=f"{document_id}:{pipeline}",
            state="queued",
            pipeline=pipeline,
            run_at=now,
            attempt=0,
            max_attempts=max_attempts,
            fence=0,
            created_at=now,
            updated_at=now,
        )
    )


async def of_document(connection: AsyncConnection, document_id: str) -> str:
    """Id of a document's newest job."""
    newest = select(jobs.c.id).where(jobs.c.document_id == document_id).order_by(jobs.c.created_at.desc()).limit(1)
    job_id: str = (await connection.execute(newest)).scalar_one()
    return job_id


async def find(connection: AsyncConnection, job_id: str) -> Job:
    """A job as its owner sees it.

    Raises:
        UnknownJob: there is none of this id.
    """
    found = await connection.execute(
        select(jobs, documents.c.sha256, documents.c.pages)
        .join(documents, documents.c.id == jobs.c.document_id)
        .where(jobs.c.id == job_id)
    )
    row = found.first()
    if row is None:
        raise UnknownJob("There is no job of this id.")
    done = await readings.count(connection, row.sha256, row.pipeline)
    # Publishing is one short transaction, so there is nothing to store: all is read, and it is not yet visible.
    state: JobState = "publishing" if row.state == "reading" and done >= row.pages else row.state
    published = await changes.publication(connection, row.document_id) if state in PUBLISHED else None
    return Job(
        job_id=row.id,
        document_id=row.document_id,
        state=state,
        pages_done=done,
        pages_total=row.pages,
        attempt=row.attempt,
        error=row.error,
        change=None if published is None else published.number,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )


async def claim(connection: AsyncConnection, now: float, *, worker: str, lease_s: float) -> Lease | None:
    """Take the next job, ending those on the way that have no attempt left; None if there is nothing to do."""
    while (candidate := await _candidate(connection, now)) is not None:
        seen = _job_row(candidate)
        after = claimed(seen, now, lease_s)
        if not await _swap(connection, now, candidate.id, seen, after, worker=worker):
            # Only where SKIP LOCKED is missing: another worker was faster. The next poll will do.
            return None
        if after.state == "failed":
            await _set_document_state(connection, candidate.document_id, "failed")
            continue
        return Lease(
            job_id=candidate.id,
            document_id=candidate.document_id,
            sha256=candidate.sha256,
            collection=candidate.collection,
            fence=after.fence,
            attempt=after.attempt,
            last=after.attempt >= after.max_attempts,
            pages=candidate.pages,
            missing=await readings.missing(connection, candidate.sha256, candidate.pipeline, candidate.pages),
        )
    return None


async def hold(connection: AsyncConnection, now: float, job_id: str, fence: int) -> Held:
    """Check the fence and keep the job from being claimed until the transaction ends: first in a worker's every commit.

    Raises:
        StaleLease: the job was claimed by another worker, has ended, or was deleted.
    """
    touched = await connection.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.state == "reading").values(updated_at=now)
    )
    if touched.rowcount != 1:
        raise StaleLease("The job is no longer held with this fence.")
    found = await connection.execute(
        select(
            jobs.c.pipeline, documents.c.id, documents.c.collection, documents.c.sha256, documents.c.pages, *_JOB_ROW
        )
        .join(documents, documents.c.id == jobs.c.document_id)
        .where(jobs.c.id == job_id)
    )
    row = found.one()
    return Held(job_id, row.id, row.collection, row.sha256, row.pipeline, row.pages, _job_row(row))


async def heartbeat(connection: AsyncConnection, now: float, *, job_id: str, fence: int, lease_s: float) -> None:
    """Prolong a lease.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    await _swap(connection, now, job_id, held.row, replace(held.row, lease_until=now + lease_s))


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

    Returns:
        The change. Repeated with the same fence, because an answer got lost, it is the same one again.

    Raises:
        StaleLease: see `hold`.
        Conflict: pages are missing.
        ReadingFailed: no page could be read; nothing was changed.
    """
    try:
        held = await hold(connection, now, job_id, fence)
    except StaleLease:
        before = await _published_with(connection, job_id, fence)
        if before is None:
            raise
        return before
    done = await readings.count(connection, held.sha256, held.pipeline)
    if done < held.pages:
        raise Conflict(f"{held.pages - done} of {held.pages} pages are not read yet.")
    unread = await readings.errors(connection, held.sha256, held.pipeline)
    if len(unread) == held.pages:
        raise ReadingFailed(f"None of the {held.pages} pages could be read. Page {unread[0][0]}: {unread[0][1]}")
    state: JobState = "done"
    error = None
    if unread:
        state = "partial"
        listed = "; ".join(f"page {number}: {why}" for number, why in unread[:3])
        error = f"{len(unread)} of {held.pages} pages could not be read: {listed}"[:MAX_ERROR_CHARS]
    await _swap(connection, now, job_id, held.row, finished(held.row, state, error))
    await connection.execute(
        update(documents).where(documents.c.id == held.document_id).values(state=state, pipeline=held.pipeline)
    )
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
    after = failed(held.row, now, error, retry_in_s)
    await _swap(connection, now, job_id, held.row, after)
    if after.state == "failed":
        await _set_document_state(connection, held.document_id, "failed")


async def release(connection: AsyncConnection, now: float, *, job_id: str, fence: int) -> None:
    """Give a job back at once, and the attempt with it.

    Raises:
        StaleLease: see `hold`.
    """
    held = await hold(connection, now, job_id, fence)
    await _swap(connection, now, job_id, held.row, released(held.row, now))


async def requeue(connection: AsyncConnection, now: float, job_id: str) -> None:
    """Start a failed or cancelled job again; pages that could not be read are tried again too."""
    found = await connection.execute(
        select(jobs.c.pipeline, jobs.c.document_id, documents.c.sha256, *_JOB_ROW)
        .join(documents, documents.c.id == jobs.c.document_id)
        .where(jobs.c.id == job_id)
    )
    row = found.one()
    seen = _job_row(row)
    if not await _swap(connection, now, job_id, seen, requeued(seen, now)):
        return  # another upload of the same file has just done it
    await readings.forget_errors(connection, row.sha256, row.pipeline)
    await _set_document_state(connection, row.document_id, "queued")


async def remove(connection: AsyncConnection, document_id: str) -> int:
    """Remove a document's jobs; a worker that holds one finds out at its next commit. Returns how many there were."""
    return (await connection.execute(jobs.delete().where(jobs.c.document_id == document_id))).rowcount


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """Jobs that wait or are under way, by state."""
    rows = await connection.execute(
        select(jobs.c.state, func.count()).where(jobs.c.state.in_(("queued", "reading"))).group_by(jobs.c.state)
    )
    return {state: number for state, number in rows}  # noqa: C416 -- rows are no pairs to the type checker


async def _candidate(connection: AsyncConnection, now: float) -> AnyRow | None:
    """The next claimable job, locked: those whose worker has gone first, then the one that is due longest.

    Two selects, so that each takes the first entry of the index and neither sorts the whole queue.
    """
    expired: ColumnElement[bool] = jobs.c.lease_until <= now
    due: ColumnElement[bool] = jobs.c.run_at <= now
    for state, condition in (("reading", expired), ("queued", due)):
        found = await connection.execute(
            select(
                jobs.c.id,
                jobs.c.document_id,
                jobs.c.pipeline,
                documents.c.sha256,
                documents.c.collection,
                documents.c.pages,
                *_JOB_ROW,
            )
            .join(documents, documents.c.id == jobs.c.document_id)
            .where(jobs.c.state == state, condition)
            .order_by(jobs.c.run_at)
            .limit(1)
            .with_for_update(of=jobs, skip_locked=True)
        )
        row = found.first()
        if row is not None:
            return row
    return None


async def _swap(
    connection: AsyncConnection, now: float, job_id: str, seen: JobRow, after: JobRow, *, worker: str | None = None
) -> bool:
    """Write `after` over a job that still is as `seen`; whether it was."""
    values = {
        "state": after.state,
        "run_at": after.run_at,
        "attempt": after.attempt,
        "lease_until": after.lease_until,
        "fence": after.fence,
        "error": after.error,
        "updated_at": now,
    }
    if worker is not None:
        values["worker"] = worker[:100]
    swapped = await connection.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.fence == seen.fence, jobs.c.state == seen.state).values(**values)
    )
    return swapped.rowcount == 1


async def _published_with(connection: AsyncConnection, job_id: str, fence: int) -> Change | None:
    """The change of a job that ended well under this very fence."""
    found = await connection.execute(
        select(jobs.c.document_id).where(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.state.in_(PUBLISHED))
    )
    document_id = found.scalar_one_or_none()
    return None if document_id is None else await changes.publication(connection, document_id)


async def _set_document_state(connection: AsyncConnection, document_id: str, state: str) -> None:
    await connection.execute(update(documents).where(documents.c.id == document_id).values(state=state))


def _job_row(row: AnyRow) -> JobRow:
    return JobRow(
        state=row.state,
        run_at=row.run_at,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        lease_until=row.lease_until,
        fence=row.fence,
        error=row.error,
    )
