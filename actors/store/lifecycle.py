"""The life of a job, as pure functions: what each event makes of it, and whose word on it counts.

    queued ──claim──> reading ──publish──> done │ partial
      ^  ^               │  │
      │  └─fail, release─┘  └─fail for good, no attempt left──> failed
      └──retry── failed │ cancelled │ partial
                 queued │ reading ──cancel──> cancelled

`failed` is where dead letters lie: the error and the number of attempts are kept, and `retry` starts from there. The
fence grows whenever a job changes hands, by a claim, a cancellation or a retry, so that whoever held it before is
refused from then on. Time is that of the database and chance is handed in: nothing here looks at a clock, waits, or
writes, so that ten thousand schedules can be played through in seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from actors.errors import Conflict
from actors.messages import JobState

PUBLISHED: tuple[JobState, ...] = ("done", "partial")
AT_REST: tuple[JobState, ...] = (*PUBLISHED, "failed", "cancelled")

MAX_ERROR_CHARS = 1000
MAX_BACKOFF_S = 60.0
DIED = "The process that read the document ended on every attempt, without an error."


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


def claimable(job: JobRow, now: float) -> bool:
    """Whether a worker may take it: it is due, or its last worker has let the lease run out."""
    if job.state == "queued":
        return job.run_at <= now
    return job.state == "reading" and job.lease_until is not None and job.lease_until <= now


def holds(job: JobRow, fence: int) -> bool:
    """Whether a worker that names this fence still has the job: what every commit of a worker hangs on."""
    return job.state == "reading" and job.fence == fence


def claimed(job: JobRow, now: float, lease_s: float) -> JobRow:
    """What a claim leads to: the next attempt, or the end if there is none left."""
    if job.attempt >= job.max_attempts:
        return replace(job, state="failed", lease_until=None, fence=job.fence + 1, error=job.error or DIED)
    return replace(
        job, state="reading", attempt=job.attempt + 1, lease_until=now + lease_s, fence=job.fence + 1, run_at=now
    )


def prolonged(job: JobRow, now: float, lease_s: float) -> JobRow:
    """What a heartbeat leads to."""
    return replace(job, lease_until=now + lease_s)


def failed(job: JobRow, now: float, error: str, retry_in_s: float | None) -> JobRow:
    """What a failed attempt leads to: another one later, or the end if there is none left or it would be of no use."""
    error = error[:MAX_ERROR_CHARS]
    if retry_in_s is None or job.attempt >= job.max_attempts:
        return replace(job, state="failed", lease_until=None, error=error)
    return replace(job, state="queued", lease_until=None, run_at=now + retry_in_s, error=error)


def released(job: JobRow, now: float) -> JobRow:
    """What giving the job back leads to: its worker was told to stop and has not failed, so no attempt is used up."""
    return replace(job, state="queued", lease_until=None, run_at=now, attempt=job.attempt - 1)


def finished(job: JobRow, state: JobState, error: str | None) -> JobRow:
    """A job whose document is published."""
    return replace(job, state=state, lease_until=None, error=error)


def cancelled(job: JobRow, why: str | None = None) -> JobRow:
    """What a cancellation leads to. The worker that reads it finds out at its next commit or heartbeat.

    Args:
        job: as it is.
        why: kept as its error; None keeps the one it has.

    Raises:
        Conflict: it has ended in another way.
    """
    if job.state == "cancelled":
        return job
    if job.state in AT_REST:
        raise Conflict(f"The job has ended: it is {job.state}. Only one that waits or is being read can be cancelled.")
    return replace(job, state="cancelled", lease_until=None, fence=job.fence + 1, error=why or job.error)


def retried(job: JobRow, now: float) -> JobRow:
    """What asking for a retry leads to: all attempts again; one that waits or is being read is left alone.

    Raises:
        Conflict: there is nothing left to do for it.
    """
    if job.state == "done":
        raise Conflict("The job is done: every page was read. There is nothing to retry.")
    if job.state not in AT_REST:
        return job
    return replace(job, state="queued", lease_until=None, run_at=now, attempt=0, fence=job.fence + 1, error=None)


def backoff(base_s: float, attempt: int, dice: random.Random) -> float:
    """Pause before the try after number `attempt`, s: doubling up to a minute, less up to half of it by chance.

    Without the chance, all that failed together would come back together.
    """
    return min(MAX_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 30)) * dice.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a job gets on.

    Attributes:
        pages_per_s: mean of the attempt under way, or of the last one; None before its first page.
        eta_s: seconds until the last page; None where nobody can tell.
    """

    pages_per_s: float | None = None
    eta_s: float | None = None


def pace(job: JobRow, *, done: int, before: int, total: int, updated_at: float, now: float) -> Pace:
    """The pace of a job, from what the database knows, so that every replica tells the same.

    Args:
        job: as it is.
        done: pages that are in.
        before: pages that were in when the attempt began.
        total: pages of the document.
        updated_at: when the job was last written; of a job at rest, its end.
        now: the database's clock.
    """
    if job.state not in ("reading", *PUBLISHED):
        return Pace()
    took = (now if job.state == "reading" else updated_at) - job.run_at
    speed = round((done - before) / took, 2) if took > 0 and done > before else None
    if job.state != "reading" or done >= total:
        return Pace(speed, 0.0)
    return Pace(speed, round((total - done) / speed, 1) if speed else None)
