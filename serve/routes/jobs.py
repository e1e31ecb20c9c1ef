"""Jobs: the reading of accepted documents, to be looked at, followed, cancelled and started again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, UnknownJob
from actors.messages import Health, Job
from actors.pool import on_each
from actors.store.lifecycle import AT_REST
from serve.following import Follower, version
from serve.problems import documented, problem
from serve.schemas import JobsView, JobView
from serve.services import Services, Turnstile, Use, call_deadline, wake_ingest
from serve.streaming import Stream

FOLLOW_S: Final = 1.0
"""How long an answer is held back for indexes that are about to have the document, s."""

BEAT_S: Final = 15.0
"""Longest silence of an event stream, s: proxies cut connections that say nothing for a minute."""

RECONNECT_MS: Final = 2000
"""Pause of a client before it connects again after a stream has broken off, ms."""

EVENTS: Final = "text/event-stream"

State = Literal["queued", "reading", "publishing", "done", "partial", "failed", "cancelled"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


async def _place(request: Request) -> AsyncIterator[None]:
    # FastAPI leaves it after the stream has ended, or has broken off.
    turnstile: Turnstile = request.app.state.event_streams
    with turnstile.entered():
        yield


@router.get("", responses=documented(404, 422, 503))
async def list_jobs(
    services: Use,
    state: Annotated[
        list[State] | None,
        Query(
            description="Of this state only; repeatable. `reading` includes `publishing`; with `publishing` alone a "
            "page may hold fewer than `limit`."
        ),
    ] = None,
    collection: Annotated[str | None, Query(max_length=100)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobsView:
    """List jobs, oldest first."""
    wanted = set(state or ())
    # Publishing is not stored: it is the end of reading.
    stored = dict.fromkeys("reading" if each == "publishing" else each for each in state or ())
    found, following = await services.roles.database.jobs(
        tuple(stored), collection, after, limit, deadline=call_deadline()
    )
    shown = await as_searchable(services, found)
    if "publishing" in wanted and "reading" not in wanted:
        shown = [job for job in shown if job.state != "reading"]
    return JobsView(items=[JobView(**asdict(job)) for job in shown], next=following)


@router.get("/{job_id}", responses=documented(404, 503))
async def get_job(job_id: str, services: Use) -> JobView:
    """How far the reading of a document is. When it says `done` or `partial`, questions find the document."""
    job = await services.roles.database.job(job_id, deadline=call_deadline())
    if job.change is not None and not await _searchable(services, job.change):
        job = replace(job, state="publishing")
    return JobView(**asdict(job))


@router.get(
    "/{job_id}/events",
    response_class=Response,
    dependencies=[Depends(_place)],
    responses={
        200: {"description": "Server-sent events named `job`, each with the job as JSON.", "content": {EVENTS: {}}},
        204: {"description": "The job is at rest, and the client has seen so."},
        **documented(404, 429, 503),
    },
)
async def follow_job(
    job_id: str,
    request: Request,
    services: Use,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
) -> Response:
    """Follow a job: its state now, then every change, until it has come to rest."""
    [job] = await as_searchable(services, [await services.roles.database.job(job_id, deadline=call_deadline())])
    if job.state in AT_REST and last_event_id == version(job):
        # What a browser does not take for a reason to connect again.
        return Response(status_code=204)
    pieces = _events(request.app.state.follower, job, request.scope["request_id"])
    return Stream(pieces, media_type=EVENTS, headers={"cache-control": "no-store", "x-accel-buffering": "no"})


@router.post("/{job_id}/cancel", responses=documented(404, 409, 503))
async def cancel_job(job_id: str, services: Use) -> JobView:
    """Cancel a job: at once if it waits, within seconds if it is being read. What is published stays."""
    return JobView(**asdict(await services.roles.database.cancel_job(job_id, deadline=call_deadline())))


@router.post("/{job_id}/retry", responses=documented(404, 409, 503))
async def retry_job(job_id: str, services: Use) -> JobView:
    """Start a failed, cancelled or partial job again: pages that could not be read are tried again."""
    job = await services.roles.database.retry_job(job_id, deadline=call_deadline())
    await wake_ingest(services)
    return JobView(**asdict(job))


def follower(services: Services) -> Follower:
    """What the event streams of an application share."""

    async def look(job_ids: Sequence[str]) -> list[Job]:
        found = await services.roles.database.jobs_by_id(tuple(job_ids), deadline=call_deadline())
        return await as_searchable(services, found)

    return Follower(look)


async def as_searchable(services: Services, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as `get_job` shows them, without waiting: published is only what the indexes have followed to."""
    if all(job.change is None for job in jobs):
        return list(jobs)
    deadline = Deadline.after(FOLLOW_S)
    states = await on_each(services.roles.retrieval, lambda replica: replica.health(deadline=deadline))
    # A replica that is down fills its index from the store when it comes back: only those that answer must follow.
    late = any(isinstance(state, DeadlineExceeded) for state in states)
    followed = min([state.detail["change"] for state in states if isinstance(state, Health)], default=math.inf)
    return [
        job if job.change is None or (job.change <= followed and not late) else replace(job, state="publishing")
        for job in jobs
    ]


async def _searchable(services: Services, change: int) -> bool:
    """Whether the indexes have followed the change log that far; they get a moment to do so."""
    deadline = Deadline.after(FOLLOW_S)
    followed = await on_each(services.roles.retrieval, lambda replica: replica.caught_up(change, deadline=deadline))
    # A replica that is down fills its index from the store when it comes back: only those that answer must follow.
    return not any(isinstance(outcome, DeadlineExceeded) for outcome in followed)


async def _events(shared: Follower, job: Job, request_id: str) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RECONNECT_MS
    seen = ""
    async with shared.following(job) as followed:
        while True:
            try:
                async with asyncio.timeout(BEAT_S):
                    job = await followed.changed_since(seen)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            except UnknownJob as error:
                body = orjson.Fragment(bytes(problem(error.http_status, error.code, error.detail, request_id).body))
                yield _event("problem", "", body)
                return
            seen = version(job)
            yield _event("job", seen, asdict(job))
            if job.state in AT_REST:
                return


def _event(name: str, number: str, data: Any) -> bytes:
    head = f"event: {name}\n" + (f"id: {number}\n" if number else "")
    return head.encode() + b"data: " + orjson.dumps(data) + b"\n\n"
