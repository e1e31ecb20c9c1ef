"""The routes of jobs in memory, over a pretended store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fakes import job
from fastapi import FastAPI

from actors.deadline import Deadline
from actors.errors import Conflict, DeadlineExceeded, GatherumError, Unavailable, UnknownJob
from actors.messages import Health, Job
from config.settings import load
from serve.app import create_app
from serve.routes import jobs as routes
from serve.services import Roles, Services

DONE = job("done", state="done", change=7, pages_done=2)


class Store:
    """Jobs; and an index that has followed to a change."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.followed: int | GatherumError = 100
        self.asked: list[Any] = []
        self.woken = 0

    def put(self, *jobs: Job) -> None:
        self.jobs.update((job.job_id, job) for job in jobs)

    async def job(self, job_id: str, *, deadline: Deadline) -> Job:
        if job_id not in self.jobs:
            raise UnknownJob("There is no job of this id.")
        return self.jobs[job_id]

    async def jobs_by_id(self, job_ids: tuple[str, ...], *, deadline: Deadline) -> list[Job]:
        return [self.jobs[name] for name in job_ids if name in self.jobs]

    async def cancel_job(self, job_id: str, *, deadline: Deadline) -> Job:
        found = await self.job(job_id, deadline=deadline)
        if found.state == "done":
            raise Conflict("The job has ended.")
        self.put(replace(found, state="cancelled"))
        return self.jobs[job_id]

    async def retry_job(self, job_id: str, *, deadline: Deadline) -> Job:
        self.put(replace(await self.job(job_id, deadline=deadline), state="queued"))
        return self.jobs[job_id]

    async def wake(self, *, deadline: Deadline) -> None:
        self.woken += 1

    async def health(self, *, deadline: Deadline) -> Health:
        if isinstance(self.followed, GatherumError):
            raise self.followed
        return Health("retrieval", True, 1, "n", {"change": self.followed})


class Listing:
    """The part of the database that lists, apart because the method is named like the module."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def jobs(
        self, states: tuple[str, ...], collection: str | None, after: str | None, limit: int, *, deadline: Deadline
    ) -> tuple[list[Job], str | None]:
        self._store.asked.append((states, collection, after, limit))
        return list(self._store.jobs.values())[:limit], "next"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def app(store: Store, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: _passing())
    settings = load({"api.max_event_streams": 1}, environ={})
    roles = cast("Roles", SimpleNamespace(database=Listing(store), retrieval=store, ingest=store))
    nothing = cast("Any", None)
    return create_app(Services(settings, roles, nothing, nothing, nothing))


_real_sleep = asyncio.sleep


async def _passing() -> None:
    await _real_sleep(0)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"]) | {"last_event_id": fields.get("id")}))
    return found


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_passes_on_what_is_asked_for(client: httpx.AsyncClient, store: Store) -> None:
    store.put(job("a"), DONE)
    params: list[tuple[str, str | int | float | bool | None]] = [
        ("state", "queued"),
        ("state", "done"),
        ("collection", "main"),
        ("after", "x"),
        ("limit", "5"),
    ]
    answer = (await client.get("/v1/jobs", params=params)).raise_for_status().json()
    assert store.asked == [(("queued", "done"), "main", "x", 5)]
    assert [item["job_id"] for item in answer["items"]] == ["a", "done"]
    assert answer["next"] == "next"


async def test_a_state_that_there_is_not_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/jobs", params={"state": "stalled"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("followed", "state"),
    [(7, "done"), (6, "publishing"), (DeadlineExceeded("late"), "publishing"), (Unavailable("gone"), "done")],
)
async def test_lists_and_events_say_done_when_the_indexes_have_followed(
    client: httpx.AsyncClient, store: Store, followed: int | GatherumError, state: str
) -> None:
    store.put(DONE)
    store.followed = followed
    assert (await client.get("/v1/jobs")).json()["items"][0]["state"] == state
    if state == "done":
        [(_, event)] = events((await client.get("/v1/jobs/done/events")).text)
        assert event["state"] == "done"


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events_tell_every_state_until_the_job_rests(client: httpx.AsyncClient, store: Store) -> None:
    states = [
        job("j"),
        job("j", state="reading", attempt=1),
        job("j", state="reading", attempt=1, pages_done=1),
        job("j", state="done", attempt=1, pages_done=2, change=7),
    ]
    store.put(states[0])
    looks = iter(states[1:])

    async def moving(job_ids: tuple[str, ...], *, deadline: Deadline) -> list[Job]:
        store.put(next(looks, states[-1]))
        return [store.jobs["j"]]

    store.jobs_by_id = moving  # type: ignore[method-assign]
    answer = await client.get("/v1/jobs/j/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("retry: ")
    told = events(answer.text)
    assert [name for name, _ in told] == ["job"] * 4
    assert [(event["state"], event["pages_done"]) for _, event in told] == [
        ("queued", 0),
        ("reading", 0),
        ("reading", 1),
        ("done", 2),
    ]
    # Who connects again, having seen the end, is told not to.
    last = str(told[-1][1]["last_event_id"])
    assert (await client.get("/v1/jobs/j/events", headers={"last-event-id": last})).status_code == 204
    again = await client.get("/v1/jobs/j/events", headers={"last-event-id": str(told[0][1]["last_event_id"])})
    assert [event["state"] for _, event in events(again.text)] == ["done"]


async def test_events_of_a_job_that_is_not_there_are_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/jobs/no/events")).status_code == 404


async def test_a_stream_ends_with_a_problem_when_the_document_is_deleted(
    client: httpx.AsyncClient, store: Store
) -> None:
    store.put(job("j"))

    async def gone(job_ids: tuple[str, ...], *, deadline: Deadline) -> list[Job]:
        return []

    store.jobs_by_id = gone  # type: ignore[method-assign]
    told = events((await client.get("/v1/jobs/j/events")).text)
    assert [name for name, _ in told] == ["job", "problem"]
    assert told[-1][1]["code"] == "unknown_job"


async def test_a_silent_stream_says_that_it_is_still_there(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "BEAT_S", 0.0)
    store.put(job("j"))
    looks = 0

    async def in_time(job_ids: tuple[str, ...], *, deadline: Deadline) -> list[Job]:
        nonlocal looks
        looks += 1
        return [job("j") if looks < 20 else job("j", state="failed")]

    store.jobs_by_id = in_time  # type: ignore[method-assign]
    answer = await client.get("/v1/jobs/j/events")
    assert ": still here\n\n" in answer.text
    assert events(answer.text)[-1][1]["state"] == "failed"


async def test_streams_are_bounded_and_a_client_that_goes_away_makes_room(
    app: FastAPI, client: httpx.AsyncClient, store: Store
) -> None:
    store.put(job("j"))
    begun, gone = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if b"event: job" in message.get("body", b""):
            begun.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/jobs/j/events",
        "raw_path": b"/v1/jobs/j/events",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("test", 1),
        "server": ("test", 80),
    }
    stream = asyncio.create_task(app(scope, cast("Any", receive), send))
    await asyncio.wait_for(begun.wait(), 20)
    refused = await client.get("/v1/jobs/j/events")
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    gone.set()
    await asyncio.wait_for(stream, 20)
    assert app.state.event_streams.inside == 0
    store.put(job("j", state="failed"))
    assert (await client.get("/v1/jobs/j/events")).status_code == 200


# --- cancel and retry ------------------------------------------------------------------------------------------------


async def test_cancel_and_retry_answer_with_the_job(client: httpx.AsyncClient, store: Store) -> None:
    store.put(job("j"), DONE)
    assert (await client.post("/v1/jobs/j/cancel")).json()["state"] == "cancelled"
    assert store.woken == 0
    assert (await client.post("/v1/jobs/j/retry")).json()["state"] == "queued"
    assert store.woken == 1
    refused = await client.post("/v1/jobs/done/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (await client.post("/v1/jobs/no/retry")).status_code == 404


async def test_publishing_can_be_asked_for_though_it_is_stored_as_reading(
    client: httpx.AsyncClient, store: Store
) -> None:
    store.put(job("a", state="reading"), job("b", state="publishing"))
    answer = await client.get("/v1/jobs", params={"state": "publishing"})
    assert store.asked[-1][0] == ("reading",)
    assert [item["job_id"] for item in answer.json()["items"]] == ["b"]
    both = await client.get("/v1/jobs", params={"state": ["publishing", "reading"]})
    assert [item["job_id"] for item in both.json()["items"]] == ["a", "b"]
