"""The HTTP application in memory, over fakes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fakes import job, page_reading
from fastapi import FastAPI

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.errors import DeadlineExceeded, GatherumError, Unavailable, UnknownPage
from actors.ingest import Ingest
from actors.messages import Health, Job, OcrRecord, Page, Query, Question
from actors.orchestrator import Orchestrator
from actors.pdf import Pdf
from actors.pool import WORK
from actors.retrieval import Retriever
from config.settings import load
from serve.app import BODY_LIMIT, create_app
from serve.schemas import PageView
from serve.services import Roles, Services

JOB = job("j", state="done", pages_done=2, change=7)
SCANNED = OcrRecord("absent", "tesseract 5.3.0", 200, ("eng",), 91.5, 812.0)
PAGE = replace(page_reading(3, "Huygens landed.").page, ocr=SCANNED, label="iii")
ASK = {"question": "Which moon did Huygens land on?"}


class Backend:
    """What the application asks, with answers that tests set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[Question] = []
        self.arrived = asyncio.Event()
        self.error: Exception | None = None
        self.states: dict[str, Health | GatherumError] = {}
        self.awaited: list[int] = []
        self.lag: GatherumError | None = None

    async def ask(self, question: Question, client: str) -> bytes:
        self.asked.append(question)
        self.arrived.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        return b'{"answer":{}}'

    async def search(self, query: Query, deadline: Deadline, client: str) -> bytes:
        return b'{"passages":[]}'

    async def health(self, deadline: Deadline) -> dict[str, Health | GatherumError]:
        return self.states

    async def job(self, job_id: str, *, deadline: Deadline) -> Job:
        return JOB

    async def page(self, document_id: str, number: int, *, deadline: Deadline) -> Page:
        if number != PAGE.number:
            raise UnknownPage("The document has 3 pages; there is no page 4.")
        return PAGE

    async def caught_up(self, change: int, *, deadline: Deadline) -> None:
        self.awaited.append(change)
        if self.lag:
            raise self.lag


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def app(backend: Backend) -> FastAPI:
    settings = load({"api.max_concurrent_requests": 1}, environ={})
    roles = cast("Roles", SimpleNamespace(database=backend, retrieval=backend))
    return create_app(Services(settings, roles, backend.ask, backend.search, backend.health))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    return problem


async def test_beyond_the_limit_requests_are_refused_and_health_is_not(
    client: httpx.AsyncClient, backend: Backend
) -> None:
    backend.gate.clear()
    first = asyncio.create_task(client.post("/v1/ask", json=ASK))
    await backend.arrived.wait()
    refused = await client.post("/v1/ask", json=ASK)
    assert_problem(refused, 429, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert (await client.get("/health")).status_code == 200
    backend.gate.set()
    assert (await first).status_code == 200
    assert (await client.post("/v1/ask", json=ASK)).status_code == 200


async def test_the_request_id_goes_with_the_question(client: httpx.AsyncClient, backend: Backend) -> None:
    await client.post("/v1/ask", json=ASK, headers={"x-request-id": "mine-1"})
    await client.post("/v1/ask", json=ASK, headers={"x-request-id": "bad id\x7f"})
    assert backend.asked[0].request_id == "mine-1"
    assert "bad" not in backend.asked[1].request_id


async def test_the_timeout_becomes_the_deadline(client: httpx.AsyncClient, backend: Backend) -> None:
    await client.post("/v1/ask", json=ASK | {"timeout_ms": 5_000})
    assert 3 < backend.asked[0].deadline.remaining() <= 5


async def test_a_defect_is_a_500_that_says_nothing_of_itself(client: httpx.AsyncClient, backend: Backend) -> None:
    backend.error = RuntimeError("password=hunter2")
    answer = await client.post("/v1/ask", json=ASK)
    assert_problem(answer, 500, "internal")
    assert "hunter2" not in answer.text
    backend.error = None
    assert (await client.post("/v1/ask", json=ASK)).status_code == 200


async def test_an_outage_is_a_503_with_retry_after(client: httpx.AsyncClient, backend: Backend) -> None:
    backend.error = Unavailable("The role is restarting. Try again.")
    answer = await client.post("/v1/ask", json=ASK)
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_a_body_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/v1/ask", json={"question": "x" * (BODY_LIMIT + 1)}), 413, "too_large")


async def test_not_ready_names_what_is_not(client: httpx.AsyncClient, backend: Backend) -> None:
    backend.states = {
        "database-0": Health("database", True, 1, "n"),
        "retrieval-0": Health("retrieval", False, 2, "n"),
        "entities-0": Unavailable("gone"),
    }
    answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["not_ready"] == ["retrieval-0", "entities-0"]
    assert (await client.get("/health")).json()["status"] == "degraded"
    backend.states = {"ingest-0": Health("ingest", True, 1, "n", {"trouble": {"waiting jobs": "The disk is full."}})}
    state = (await client.get("/health")).json()
    assert (state["status"], state["not_ready"]) == ("degraded", [])
    assert state["trouble"] == ["ingest-0: waiting jobs: The disk is full."]
    assert (await client.get("/ready")).status_code == 200
    backend.states = {"database-0": Health("database", True, 1, "n")}
    assert (await client.get("/health")).json()["status"] == "ok"
    assert (await client.get("/ready")).status_code == 200


async def test_a_job_is_done_once_questions_find_the_document(client: httpx.AsyncClient, backend: Backend) -> None:
    backend.lag = DeadlineExceeded("The index has not followed yet.")
    assert (await client.get("/v1/jobs/j")).json()["state"] == "publishing"
    backend.lag = None
    assert (await client.get("/v1/jobs/j")).json()["state"] == "done"
    # A replica that is away fills its index from the store when it comes back.
    backend.lag = Unavailable("The role is restarting.")
    assert (await client.get("/v1/jobs/j")).json()["state"] == "done"
    assert backend.awaited == [7, 7, 7]


async def test_a_page_comes_with_its_words_and_how_it_was_recognised(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/documents/d/pages/3")
    page = answer.json()
    # The schema that clients are promised is the answer's, field by field.
    assert PageView.model_validate(page).model_dump(mode="json") == page
    assert (page["number"], page["text"], page["label"], page["error"]) == (3, "Huygens landed.", "iii", None)
    assert page["ocr"] == {**asdict(SCANNED), "languages": ["eng"]}
    assert [word["text"] for word in page["words"]] == ["Huygens", "landed."]
    assert all(page["text"][word["start"] : word["end"]] == word["text"] for word in page["words"])
    assert_problem(await client.get("/v1/documents/d/pages/4"), 404, "unknown_page")
    assert_problem(await client.get("/v1/documents/d/pages/0"), 422, "invalid_input")
    schema = (await client.get("/openapi.json")).json()["paths"]["/v1/documents/{document_id}/pages/{number}"]["get"]
    assert schema["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/PageView")


async def test_no_route_ignores_a_parameter(client: httpx.AsyncClient, app: FastAPI) -> None:
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method, described in methods.items():
            answer = await client.request(method, re.sub("{[^}]*}", "1", path), params={"colection": "moons"})
            problem = assert_problem(answer, 422, "invalid_input")
            assert "'colection' is not a parameter of this path" in problem["detail"]
            taken = [each["name"] for each in described.get("parameters", ()) if each["in"] == "query"]
            assert ("Did you mean collection?" in problem["detail"]) == ("collection" in taken)
            asked += 1
    assert asked > 20


async def test_parameters_that_a_route_takes_pass(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/documents", params={"limit": "0"})
    assert answer.json()["detail"].startswith("limit: ")
    assert (await client.get("/livez?probe=")).status_code == 422
    assert (await client.get("/livez")).status_code == 200


def test_what_a_role_does_is_told_in_words_for_clients() -> None:
    assert {Database.ROLE, Entities.ROLE, Ingest.ROLE, Orchestrator.ROLE, Pdf.ROLE, Retriever.ROLE} == WORK.keys()


async def test_a_deadline_tells_what_did_not_finish() -> None:
    with pytest.raises(DeadlineExceeded, match=r"^The reading of the PDF did not finish in time\.$"):
        await Deadline.after(0).run(asyncio.Event().wait(), WORK["pdf"])
