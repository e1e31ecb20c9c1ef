"""Jobs: the reading of accepted documents."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from serve.problems import documented
from serve.schemas import JobView
from serve.services import Use, call_deadline

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}", responses=documented(404, 503))
async def get_job(job_id: str, services: Use) -> JobView:
    """How far the reading of a document is."""
    return JobView(**asdict(await services.roles.database.job(job_id, deadline=call_deadline())))
