"""Jobs: the reading of accepted documents."""

from __future__ import annotations

from dataclasses import asdict, replace

from fastapi import APIRouter

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded
from actors.pool import on_each
from serve.problems import documented
from serve.schemas import JobView
from serve.services import Services, Use, call_deadline

FOLLOW_S = 1.0
"""How long an answer is held back for indexes that are about to have the document, s."""

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}", responses=documented(404, 503))
async def get_job(job_id: str, services: Use) -> JobView:
    """How far the reading of a document is. When it says `done` or `partial`, questions find the document."""
    job = await services.roles.database.job(job_id, deadline=call_deadline())
    if job.change is not None and not await _searchable(services, job.change):
        job = replace(job, state="publishing")
    return JobView(**asdict(job))


async def _searchable(services: Services, change: int) -> bool:
    """Whether the indexes have followed the change log that far; they get a moment to do so."""
    deadline = Deadline.after(FOLLOW_S)
    followed = await on_each(services.roles.retrieval, lambda replica: replica.caught_up(change, deadline=deadline))
    # A replica that is down fills its index from the store when it comes back: only those that answer must follow.
    return not any(isinstance(outcome, DeadlineExceeded) for outcome in followed)
